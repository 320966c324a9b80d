"""Model folder and recipe -> tokenizer, the tokens that end an answer, and padding."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from framework.recipe.schema import Tokenizer

PADDING_NAMES = (
    "<|finetune_right_pad_id|>",
    "<|pad|>",
    "<pad>",
    "<PAD>",
    "[PAD]",
    "<|padding|>",
    "<|vision_pad|>",
    "<unk>",
    "<|unk|>",
    "[UNK]",
)
"""Tokens of known models that no text produces, in order of preference."""


def load_tokenizer(folder: Path, settings: Tokenizer) -> PreTrainedTokenizerBase:
    """The folder's tokenizer with the recipe's added tokens and padding.

    Nothing here derives a mask from the padding token: which tokens are trained is decided where
    the text is made, so the end-of-sequence token is learned whatever pads. A missing padding token
    is never filled with the end-of-sequence token, because other programs that load the result do
    mask by it.

    Raises:
        UserError: the tokenizer can't be read, a token the recipe names is not in it, or one that
            it adds is.
    """
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    try:
        with _no_garbage():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            Problem(
                key="model.source",
                what=f"the tokenizer in {str(folder)!r} can't be read: {error}",
                hint="it must be one that transformers has built in, saved with tokenizer.json",
            )
        ) from error
    known = known_tokens(tokenizer, settings)
    if known:
        raise UserError(known)
    if settings.add_tokens:
        added = [AddedToken(text, normalized=False) for text in settings.add_tokens]
        tokenizer.add_tokens(added, special_tokens=True)
    problems = unknown_tokens(tokenizer, settings)
    if problems:
        raise UserError(problems)
    padding = settings.pad_token or _padding_token(tokenizer)
    if padding is not None:
        tokenizer.pad_token = padding
    return tokenizer


def known_tokens(tokenizer: PreTrainedTokenizerBase, settings: Tokenizer) -> tuple[Problem, ...]:
    """The recipe's new tokens that are none: their trained embeddings would be started again."""
    vocabulary = tokenizer.get_vocab() if settings.add_tokens else {}
    return tuple(
        Problem(
            key=f"tokenizer.add_tokens[{index}]",
            what=f"{text!r} is a token of this tokenizer already",
            hint="remove it",
        )
        for index, text in enumerate(settings.add_tokens)
        if text in vocabulary
    )


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Python doesn't look for garbage: a vocabulary's many lists would set it looking through all
    that is imported, for longer than reading them takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def unknown_tokens(tokenizer: PreTrainedTokenizerBase, settings: Tokenizer) -> tuple[Problem, ...]:
    """The recipe's token names that are no single token."""
    named = [("tokenizer.stop_tokens", text) for text in settings.stop_tokens]
    if settings.pad_token is not None:
        named.append(("tokenizer.pad_token", settings.pad_token))
    if not named:
        return ()
    vocabulary = tokenizer.get_vocab()
    special = _special_tokens(tokenizer)
    return tuple(
        Problem(
            key=key,
            what=f"{text!r} is not a token of this tokenizer",
            hint=f"{did_you_mean(text, special)} A new one is added with "
            f"`tokenizer.add_tokens: [{text!r}]`".strip(),
        )
        for key, text in named
        if text not in vocabulary
    )


def stop_token_ids(
    folder: Path, tokenizer: PreTrainedTokenizerBase, settings: Tokenizer
) -> tuple[int, ...]:
    """Every token that ends an answer, sorted: what the model's generation settings name, the
    tokenizer's end-of-sequence token, and the recipe's stop tokens."""
    vocabulary = tokenizer.get_vocab() if settings.stop_tokens else {}
    found = {vocabulary[text] for text in settings.stop_tokens}
    end = tokenizer.eos_token_id
    if isinstance(end, int):
        found.add(end)
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        written = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if written is not None:
            found.update(written if isinstance(written, list) else [written])
            break
    return tuple(sorted(found))


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills a batch of prompts; any will do, since attention masks hide it."""
    padding = tokenizer.special_tokens_map.get("pad_token")
    return 0 if padding is None else tokenizer.get_vocab()[str(padding)]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(sorted(token.content for token in tokenizer.added_tokens_decoder.values()))


def _padding_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's own, else one that is never trained; None when it has none."""
    named = {name: str(text) for name, text in tokenizer.special_tokens_map.items()}
    if "pad_token" in named:
        return named["pad_token"]
    known = tokenizer.get_vocab()
    ends = {named.get("eos_token"), named.get("bos_token")}
    candidates = (*PADDING_NAMES, named.get("unk_token", ""))
    return next((text for text in candidates if text in known and text not in ends), None)
