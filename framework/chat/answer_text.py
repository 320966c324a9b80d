"""Tokens that a model answered with -> the text of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.chat.reasoning import THINKING_TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answer_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text without special tokens, but with the tags around thinking where these are such:
    nothing else tells the thinking from what follows it."""
    tags = tokenizer.convert_tokens_to_ids(list(THINKING_TAGS))
    assert isinstance(tags, list)
    if not any(tag in tokens for tag in tags):
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    dropped = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and str(token) not in THINKING_TAGS
    }
    said = [one for one in tokens if one not in dropped]
    return str(tokenizer.decode(said, skip_special_tokens=False))
