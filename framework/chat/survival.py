"""Messages and their rendering -> the proof that the template says everything they say."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from framework.chat.template import ChatTemplate, template_messages, template_tools
from framework.core.samples import Conversation, Message, RowError

_THINK_TAGS = re.compile(r"</?think>")
_PLAIN = re.compile(r"[\w ,.:-]{1,16}", re.ASCII)
"""What JSON leaves as it is."""

Shape = tuple[object, ...]
"""What decides where a template puts messages: their roles and which parts they have."""


class Unprovable(RowError):
    """The mask of a turn cannot be proven in this rendering; it may be in another one."""


def check_answer(text: str, message: Message, called: str) -> None:
    """Proves that the trained `text` holds everything that the assistant's message says.

    Raises:
        Unprovable: thinking, content or a tool call is missing; quotes it.
    """
    position = _find_part(message.reasoning, text, 0, f"strips the thinking of {called}")
    for part in _THINK_TAGS.split(message.content):
        position = _find_part(part, text, position, f"drops or changes text of {called}")
    for call in message.tool_calls:
        dropped = f"drops the call of tool {call.name!r} in {called}"
        position = _find_part(call.name, text, position, dropped)
        for argument in call.arguments:
            _find_part(argument, text, position, dropped)


def _find_part(part: str, text: str, position: int, fault: str) -> int:
    end = find_text(part, text, position)
    if end is None:
        raise Unprovable(
            f"the template {fault}: {part.strip()[:40]!r} is not in {text[:80]!r}",
            hint="write a `tokenizer.chat_template` that keeps it",
        )
    return end


def find_text(content: str, text: str, position: int) -> int | None:
    """Where `content` first ends in `text` after `position`; None if it is not there.

    Whitespace around it does not count, and templates may write it as JSON: then what a later
    message says as it stands is not this one.
    """
    wanted = content.strip()
    if not wanted:
        return position
    start = text.find(wanted, position)
    end = start + len(wanted) if start >= 0 else None
    plain = _PLAIN.match(wanted)
    if end and plain and text.find(plain.group(), position, end) == start:
        return end  # As JSON it would be no shorter and begin in the same way, and nothing does.
    for form in (json.dumps(wanted, ensure_ascii=False)[1:-1], json.dumps(wanted)[1:-1]):
        start = text.find(form, position, end)
        if start >= 0:
            end = start + len(form)
    return end


def shape_of(conversation: Conversation) -> Shape:
    """Equal for conversations that a template treats alike as far as roles and parts decide."""
    parts = (
        (
            message.role,
            bool(message.content.strip()),
            bool(message.reasoning),
            len(message.tool_calls),
        )
        for message in conversation.messages
    )
    return (bool(conversation.tools), *parts)


def dropped_messages(conversation: Conversation, template: ChatTemplate) -> tuple[int, ...]:
    """Messages to the model that the template has no place for, whatever they say.

    Every text is replaced by a marker that no template contains: a short text such as `4` could
    otherwise be found by chance in what the template itself writes.
    """
    marked = replace(
        conversation,
        messages=tuple(
            replace(message, content=_marker(index) if message.content.strip() else "")
            for index, message in enumerate(conversation.messages)
        ),
    )
    try:
        text = template.render(
            template_messages(marked), template_tools(marked), add_generation_prompt=False
        )
    except RowError:
        # A template that reads contents may refuse markers; the real texts are looked for anyway.
        return ()
    return tuple(
        index
        for index, message in enumerate(marked.messages)
        if message.role != "assistant" and message.content and _marker(index) not in text
    )


def _marker(index: int) -> str:
    return f"qzx{index}xzq"


def check_tools(conversation: Conversation, text: str) -> None:
    """Proves that the rendering names every tool that the assistant may call.

    Raises:
        RowError: a tool is missing.
    """
    for tool in conversation.tools:
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else tool.get("name")
        if isinstance(name, str) and name not in text:
            raise RowError(
                f"the template drops the tool {name!r}: it has no place for tools",
                hint="write a `tokenizer.chat_template` that renders tools",
            )
