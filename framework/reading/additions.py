"""A dataset's system prompt, task prefix and weights -> samples that have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from framework.core.problems import did_you_mean
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    Row,
    RowError,
    Sample,
    Scored,
    StepwiseSupervision,
    UnpairedPreference,
    Weighable,
)

_Talk = Conversation | Preference | UnpairedPreference | PromptOnly | StepwiseSupervision


def with_system_prompt(sample: Sample, text: str) -> Sample:
    """The sample with `text` as its system turn; one that has a system turn keeps its own.

    Raises:
        RowError: the sample is no conversation.
    """
    if isinstance(sample, _Talk):
        if sample.messages and sample.messages[0].role == "system":
            return sample
        system = Message(role="system", content=text)
        return replace(sample, messages=(system, *sample.messages))
    if isinstance(sample, Classified | Scored) and isinstance(sample.content, Conversation):
        return replace(sample, content=with_system_prompt(sample.content, text))
    raise RowError(
        "plain text has no place for a system turn",
        "leave out the dataset's `system_prompt`, or put it into `task_prefix`",
    )


def with_task_prefix(sample: Sample, text: str) -> Sample:
    """The sample with `text` right before its first user turn, or before its prompt.

    Raises:
        RowError: there is no user turn, or the sample is text without a prompt.
    """
    if isinstance(sample, _Talk):
        return replace(sample, messages=_prefixed(sample.messages, text))
    if isinstance(sample, Completion):
        return replace(sample, prompt=text + sample.prompt)
    if isinstance(sample, Classified | Scored):
        if isinstance(sample.content, Document):
            return replace(sample, content=Document(text=text + sample.content.text))
        return replace(sample, content=with_task_prefix(sample.content, text))
    raise RowError(
        "raw text has no prompt before which a task could stand",
        "leave out the dataset's `task_prefix`",
    )


def with_weight(sample: Sample, row: Row, column: str) -> Sample:
    """The sample with the weight that stands in a column of its row.

    Raises:
        RowError: there is no such column, it holds no number from 0 on, or the sample is of a kind
            that has no weight.
    """
    if column not in row:
        raise RowError(
            f"has no column {column!r}, which `loss_weight_column` names",
            f"{did_you_mean(column, row)}; the row has: {', '.join(row)}",
        )
    weight = row[column]
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight < math.inf:
        raise RowError(
            f"column {column!r} is {weight!r}, not a weight",
            "write a number: 1 for a row that counts as usual, 0.5 for half of that, 0 for nothing",
        )
    if not isinstance(sample, Weighable):
        raise RowError(
            "rows of this format have no weight in the loss", "leave out `loss_weight_column`"
        )
    return replace(sample, weight=float(weight))


def _prefixed(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    first = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        raise RowError(
            "there is no user turn before which `task_prefix` could stand",
            "leave such rows out: `on_bad_row: skip`",
        )
    asked = replace(messages[first], content=text + messages[first].content)
    return (*messages[:first], asked, *messages[first + 1 :])
