"""A dataset's system prompt and task prefix -> samples that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    RowError,
    Sample,
    Scored,
    StepwiseSupervision,
    UnpairedPreference,
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


def _prefixed(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    first = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        raise RowError(
            "there is no user turn before which `task_prefix` could stand",
            "leave such rows out: `on_bad_row: skip`",
        )
    asked = replace(messages[first], content=text + messages[first].content)
    return (*messages[:first], asked, *messages[first + 1 :])
