"""Rows of a text or a conversation and its class -> classified samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Classified, Row, RowError, Sample
from framework.reading.messages import read_column
from framework.reading.prompts import read_content
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Reads `text` or `messages`, and the class in `label`: its name or its number.

    `system` and `tools` are read beside `messages` when a row has them.
    """

    produces: ClassVar[type[Sample]] = Classified

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Something and its class."""
        return columns_hold(row, messages="messages", label="a class") or columns_hold(
            row, text="text", label="a class"
        )

    def __call__(self, row: Row) -> Classified:
        """
        Raises:
            RowError: a column is missing or does not fit.
        """
        return Classified(content=read_content(row), label=_label(row))


def _label(row: Row) -> str | int:
    label = read_column(row, "label")
    if isinstance(label, str) and label.strip():
        return label
    if isinstance(label, int) and label >= 0:
        return int(label)
    hint = "write the name of the class, or its number from 0"
    if isinstance(label, float):
        hint = "numbers to predict are read with `format: regression` and `columns: {score: label}`"
    raise RowError(f"column 'label' is {label!r}, not a class", hint)
