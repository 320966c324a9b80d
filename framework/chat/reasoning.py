"""An assistant's message -> its thinking and what follows it, however the row writes the two."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from framework.chat.survival import find_text
from framework.core.samples import Completion, Conversation, Message, RowError, Sample

THINKING_TAGS = ("<think>", "</think>")
_OPEN, _CLOSE = THINKING_TAGS
_CLOSING = re.compile(r"\s*(?:<think>\s*)?</think>")
_WHERE = "thinking stands in `reasoning_content`, or at the start of the content in "
_HINT = f"{_WHERE}`{_OPEN}...{_CLOSE}`; or write `data.reasoning: keep`"


def split_thinking(message: Message, called: str) -> tuple[str, str]:
    """(Thinking that stands in the content, what follows it); `called` names the message.

    The thinking is the text before the first `</think>`, with or without `<think>` at its start:
    where prompts end in `<think>`, answers begin after it.

    Raises:
        RowError: a tag of thinking stands elsewhere, or nothing follows the thinking.
    """
    thinking, rest = "", message.content
    before, close, after = message.content.partition(_CLOSE)
    opened = before.lstrip().removeprefix(_OPEN)
    if close and _OPEN not in opened:
        thinking, rest = opened, after
    for tag in (_OPEN, _CLOSE):
        if tag in rest:
            raise RowError(f"{called} has {tag!r} where no thinking can be told apart", _HINT)
    if (thinking or close or message.reasoning) and not (rest.strip() or message.tool_calls):
        raise RowError(
            f"{called} is only thinking: nothing follows it",
            "write `data.reasoning: keep` to train it, or leave such rows out: `on_bad_row: skip`",
        )
    return thinking, rest


def refuse_thinking(sample: Completion) -> None:
    """A plain completion is trained as it stands, so it may have nothing else to leave out.

    Raises:
        RowError: it has a tag of thinking.
    """
    for tag in (_OPEN, _CLOSE):
        if tag in sample.completion:
            raise RowError(
                f"the completion has {tag!r}, and plain text is trained as it stands",
                "write `chat: true` beside the format's type, take the thinking out of the rows, "
                "or write `data.reasoning: keep`",
            )


def without_thinking(sample: Sample) -> Sample:
    """The sample as if its assistant had answered without thinking, in every conversation of it.

    Raises:
        RowError: see `split_thinking`.
    """
    changed: dict[str, Any] = {}
    for name, value in vars(sample).items():
        if isinstance(value, Conversation):
            changed[name] = without_thinking(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Message):
            changed[name] = tuple(_stripped(message, at) for at, message in enumerate(value))
    return replace(sample, **changed)


def _stripped(message: Message, index: int) -> Message:
    if message.role != "assistant":
        return message
    _, rest = split_thinking(message, f"message {index + 1} ({message.role})")
    if rest == message.content and not message.reasoning:
        return message
    return replace(message, content=rest.lstrip(), reasoning="")


def thinking_end(text: str, message: Message, called: str) -> tuple[int, bool]:
    """Where the thinking in an answer's rendering ends, and whether `</think>` ended it.

    Templates may also write empty thinking where the message has none: that is thinking too.

    Raises:
        RowError: see `split_thinking`.
    """
    inline, _ = split_thinking(message, called)
    end = 0
    for thinking in (message.reasoning, inline):
        end = find_text(thinking, text, end) or end
    closing = _CLOSING.match(text, end)
    return (closing.end(), True) if closing else (end, False)
