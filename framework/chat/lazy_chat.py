"""Model folder and recipe -> tokenizer and chat encoder, loaded when first asked for."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.atomic import known_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from framework.chat.encoder import ChatEncoder
    from framework.recipe.schema import Recipe

_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*/*.jinja")
"""Files of a model folder that decide how text becomes tokens."""


@dataclass(frozen=True)
class LazyChat:
    """What turns the recipe's samples into tokens; nothing is imported before it is needed."""

    recipe: Recipe
    model_path: Path
    """Local folder of the model, in Hugging Face layout."""

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer with the recipe's additions.

        Raises:
            UserError: it can't be read, or lacks a token that the recipe names.
        """
        from framework.models.tokenizer import load_tokenizer

        return load_tokenizer(self.model_path, self.recipe.tokenizer)

    @functools.cached_property
    def chat(self) -> ChatEncoder:
        """Renders, tokenizes and masks.

        Raises:
            UserError: the tokenizer or the template can't be used.
        """
        from framework.chat.template_header import check_special_tokens

        chat = self.unchecked_chat
        check_special_tokens(chat.template, chat.vocabulary)
        return chat

    @functools.cached_property
    def unchecked_chat(self) -> ChatEncoder:
        """The same, even if the template's special tokens are no tokens: for looking at it.

        Raises:
            UserError: the tokenizer or the template can't be used.
        """
        from framework.chat.encoder import chat_encoder
        from framework.models.tokenizer import stop_token_ids

        stops = stop_token_ids(self.model_path, self.tokenizer, self.recipe.tokenizer)
        return chat_encoder(self.tokenizer, self.recipe.tokenizer, self.recipe.data, stops)

    @property
    def fingerprint(self) -> str:
        """Changes when the tokenizer, the template or the choice of trained turns does."""
        data = self.recipe.data
        parts = [
            [[path.name, known_sha256(path)] for path in self._files()],
            repr(replace(self.recipe.tokenizer, chat_template=self._template)),
            sorted(data.train_on),
            data.turns,
            data.reasoning,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _template_file(self) -> Path | None:
        template = self.recipe.tokenizer.chat_template or ""
        path = Path(template) if template.endswith(".jinja") else None
        return path if path is not None and path.is_file() else None

    @property
    def _template(self) -> str | None:
        """The template as the recipe writes it; a file counts by its content, wherever it is."""
        return None if self._template_file else self.recipe.tokenizer.chat_template

    def _files(self) -> Iterator[Path]:
        found = {path for pattern in _PATTERNS for path in self.model_path.glob(pattern)}
        if self._template_file is not None:
            found.add(self._template_file)
        # The list of a model's weight files says nothing about its tokens.
        kept = (path for path in found if not path.name.endswith(".index.json"))
        yield from sorted(kept, key=lambda path: path.name)
