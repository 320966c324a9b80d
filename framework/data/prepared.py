"""Plan -> everything a run needs to know about its data, before any process group exists."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.samples import Sample
from framework.data.chat import ChatEncoder, chat_encoder
from framework.data.prepare import prepare, read_test_samples
from framework.data.store import Store
from framework.models.tokenizer import load_tokenizer, stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The run's data on disk, and what turns text into tokens."""

    model_path: Path
    """Local folder of the model, in Hugging Face layout."""
    tokenizer: PreTrainedTokenizerBase
    chat: ChatEncoder
    train: Store
    eval: Store | None
    test: tuple[Sample, ...]
    """What evaluators ask."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens at which an answer is over: those served models stop at, and those trained."""
        closing = self.chat.stops.closing if self.chat.template else frozenset[int]()
        return self.chat.stop_token_ids | closing

    @property
    def fingerprint(self) -> str:
        """Names the training data's content: its cache key."""
        return self.train.folder.name


def prepare_data(recipe: Recipe) -> PreparedData:
    """Fetches the model's files and prepares every part of the data; nothing of it needs devices.

    Raises:
        UserError: the model can't be fetched, or rows don't fit, each with file and line.
    """
    model_path = recipe.model.source.fetch()
    tokenizer = load_tokenizer(model_path, recipe.tokenizer)
    chat = chat_encoder(
        tokenizer,
        recipe.tokenizer,
        recipe.data,
        stop_token_ids(model_path, tokenizer, recipe.tokenizer),
    )
    fingerprint = _chat_fingerprint(chat)
    train = prepare(recipe, "train", chat, fingerprint)
    assert train is not None, "the schema demands training data"
    evaluation = recipe.evaluation
    num_test = max([evaluation.num_generations, *(one.num_rows for one in evaluation.evaluators)])
    return PreparedData(
        model_path=model_path,
        tokenizer=tokenizer,
        chat=chat,
        train=train,
        eval=prepare(recipe, "eval", chat, fingerprint),
        test=read_test_samples(recipe, num_test) if num_test else (),
    )


def _chat_fingerprint(chat: ChatEncoder) -> str:
    parts = [
        chat.vocabulary.tokenizer.backend_tokenizer.to_str(),
        repr(chat.template),
        sorted(chat.stop_token_ids),
        chat.appended_stop,
        sorted(chat.train_on),
        chat.turns,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
