"""Rows of raw text -> documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Document, Row, Sample
from framework.core.settings import setting
from framework.reading.messages import read_text
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Reads raw text, every token of which is trained, without a chat template."""

    text: str = setting("text", not_empty=True)
    """Column that holds the text."""

    produces: ClassVar[type[Sample]] = Document

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """A text."""
        return columns_hold(row, text="text")

    def __call__(self, row: Row) -> Document:
        """
        Raises:
            RowError: the column is missing, holds no text, or is empty.
        """
        return Document(text=read_text(row, self.text))
