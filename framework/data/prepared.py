"""Plan -> everything a run needs to know about its data, before any process group exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.chat.lazy_chat import LazyChat
from framework.core.samples import Sample
from framework.data.prepare import prepare, read_test_samples
from framework.data.progress import Progress, silent
from framework.data.store import Store
from framework.data.stream import Stream
from framework.reading.parts import named_datasets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from framework.chat.encoder import ChatEncoder
    from framework.recipe.schema import Recipe


STREAMED_ROWS_SHOWN = 1000
"""Rows of each streamed dataset that are prepared before training, for previews and proofs."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The run's data on disk, and what turns text into tokens."""

    lazy_chat: LazyChat
    train: Store
    """With `data.streaming` only the first rows of each dataset, to look at before training."""
    eval: Store | None
    test: tuple[Sample, ...]
    """What evaluators ask."""
    stream: Stream | None = None
    """What is trained in the place of `train`."""

    @property
    def model_path(self) -> Path:
        """Local folder of the model, in Hugging Face layout."""
        return self.lazy_chat.model_path

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; loaded when first asked for."""
        return self.lazy_chat.tokenizer

    @property
    def chat(self) -> ChatEncoder:
        """What rendered, tokenized and masked; loaded when first asked for."""
        return self.lazy_chat.chat

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens at which an answer is over: those served models stop at, and those trained."""
        closing = self.chat.stops.closing if self.chat.template else frozenset[int]()
        return self.chat.stop_token_ids | closing


def prepare_data(
    recipe: Recipe, *, progress: Progress = silent, workers: int = 1, verify: bool = False
) -> PreparedData:
    """Fetches the model's files and prepares every part of the data; nothing of it needs devices.

    Args:
        progress: told of every row that is read.
        workers: processes that encode; the result doesn't depend on their number.
        verify: read every byte of what the cache has, as before training; damaged data are made
            again.

    Raises:
        UserError: the model can't be fetched, or rows don't fit, each with file and line.
    """
    lazy_chat = LazyChat(recipe, recipe.model.source.fetch())
    stream = None
    if recipe.data.streaming is not None:
        stream = Stream(recipe, named_datasets(recipe, "train"), lazy_chat)
    train = prepare(stored_recipe(recipe), "train", lazy_chat, progress, workers, verify=verify)
    assert train is not None, "the schema demands training data"
    evaluation = recipe.evaluation
    num_test = max([evaluation.num_generations, *(one.num_rows for one in evaluation.evaluators)])
    return PreparedData(
        lazy_chat=lazy_chat,
        train=train,
        stream=stream,
        eval=prepare(recipe, "eval", lazy_chat, progress, workers, verify=verify),
        test=read_test_samples(recipe, num_test) if num_test else (),
    )


def stored_recipe(recipe: Recipe) -> Recipe:
    """The recipe of what is prepared on disk: of streamed training data, only the first rows."""
    if recipe.data.streaming is None:
        return recipe
    first = f":{STREAMED_ROWS_SHOWN}"
    train = tuple(replace(one, rows=first, weight=None) for one in recipe.data.train)
    return replace(recipe, data=replace(recipe.data, train=train))
