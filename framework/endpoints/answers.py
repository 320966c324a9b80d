"""Requests to a model -> the answers that it gave before, on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from framework.core import atomic
from framework.core.cache import cache_directory
from framework.core.problems import RunFailed


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered."""

    text: str
    finish_reason: str
    """`stop` when the model ended by itself, `length` when it was cut."""
    num_total_tokens: int | None
    """Of request and answer, as the server counted them; None when it did not."""
    first_token: Mapping[str, float] = field(default_factory=dict)
    """Log probabilities of the likeliest first tokens, where they were asked for."""

    @property
    def words(self) -> str:
        """The text after the model's thinking."""
        _, closed, after = self.text.partition("</think>")
        return after if closed else self.text


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """SHA-256 of all that is asked and where; the key to the server is no part of it."""
    text = json.dumps({"url": url, **body}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def find_answer(key: str) -> Answer | None:
    """The answer to a request that was asked before."""
    try:
        text = _path(key).read_text(encoding="utf-8")
        return Answer(**json.loads(text)["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or damaged by a full disk: asked again


def keep_answer(key: str, url: str, body: Mapping[str, Any], answer: Answer) -> None:
    """Writes an answer in one step, so that a killed process leaves a whole one or none.

    Raises:
        RunFailed: the cache can't be written.
    """
    value = {"url": url, "request": body, "answer": asdict(answer)}
    try:
        atomic.write_file(_path(key), json.dumps(value, ensure_ascii=True))
    except OSError as error:
        raise RunFailed(
            f"the answer can't be kept in {str(_path(key))!r}: {error}",
            hint="free some space, or set XDG_CACHE_HOME to a directory with room",
        ) from error


def _path(key: str) -> Path:
    # Folders by the first digits: one of a million files is slow to list.
    return cache_directory() / "answers" / key[:2] / f"{key}.json"
