"""Rows of an answer's steps and how good each is -> stepwise supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Row, RowError, Sample, StepwiseSupervision
from framework.reading.messages import as_list, read_column
from framework.reading.prompts import read_prompt
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """Reads `prompt`, text or messages, the steps in `completions`, and a label for each step.

    `completions` is a list of texts. `labels` is a list as long, of true and false, or of numbers
    from 0 (wrong) to 1 (right). `system` is read when a row has it.
    """

    produces: ClassVar[type[Sample]] = StepwiseSupervision

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Steps and their labels."""
        return columns_hold(
            row,
            prompt="messages | text",
            completions="a list of texts",
            labels="a list of true, false or numbers",
        )

    def __call__(self, row: Row) -> StepwiseSupervision:
        """
        Raises:
            RowError: a column is missing or does not fit, or steps and labels are not as many.
        """
        prompt = read_prompt(row, "prompt")
        steps = as_list(read_column(row, "completions"), "completions")
        labels = as_list(read_column(row, "labels"), "labels")
        if not steps or len(steps) != len(labels):
            raise RowError(
                f"completions has {len(steps)} steps, labels has {len(labels)}",
                "write one step at least, and one label for each",
            )
        return StepwiseSupervision(
            messages=prompt,
            steps=tuple(_step(step, f"completions[{i}]") for i, step in enumerate(steps)),
            labels=tuple(_label(label, f"labels[{i}]") for i, label in enumerate(labels)),
        )


def _step(step: object, where: str) -> str:
    if not isinstance(step, str) or not step.strip():
        raise RowError(f"{where} is {step!r}, not the text of a step")
    return step


def _label(label: object, where: str) -> float:
    if not isinstance(label, (bool, int, float)) or not 0 <= label <= 1:
        raise RowError(
            f"{where} is {label!r}", "write true or false, or a number from 0 (wrong) to 1 (right)"
        )
    return float(label)
