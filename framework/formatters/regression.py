"""Rows of a text or a conversation and a number -> scored samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Row, RowError, Sample, Scored
from framework.reading.messages import read_column
from framework.reading.prompts import read_content
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Reads `text` or `messages`, and the number to predict in `score`.

    `system` and `tools` are read beside `messages` when a row has them.
    """

    produces: ClassVar[type[Sample]] = Scored

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Something and its score."""
        return columns_hold(row, messages="messages", score="a number") or columns_hold(
            row, text="text", score="a number"
        )

    def __call__(self, row: Row) -> Scored:
        """
        Raises:
            RowError: a column is missing or does not fit.
        """
        score = read_column(row, "score")
        number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not number or not math.isfinite(score):
            raise RowError(
                f"column 'score' is {score!r}, not a number",
                "classes are read with `format: classification` and `columns: {label: score}`",
            )
        return Scored(content=read_content(row), score=float(score))
