"""Columns of a row -> a prompt, and continuations of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framework.core.samples import Conversation, Document, Message, Row, RowError
from framework.reading.messages import (
    OPENAI,
    SHAREGPT,
    Dialect,
    in_order,
    optional_text,
    optional_tools,
    parse_turns,
    read_column,
    read_text,
)


def read_prompt(row: Row, column: str) -> tuple[Message, ...]:
    """The turns before an answer, from text (a user's turn) or messages; the row's `system` first.

    Raises:
        RowError: the column is missing or empty, or ends with a turn that asks for no answer.
    """
    turns = read_turns_or_text(row, column, "user")
    return check_prompt(turns, column, optional_text(row, "system"))


def check_prompt(turns: Sequence[Message], where: str, system: str = "") -> tuple[Message, ...]:
    """The turns, once proven to be a prompt.

    Raises:
        RowError: they are in no order, or the last one asks for no answer.
    """
    turns = in_order(turns, system=system, where=where)
    if not turns or turns[-1].role not in {"user", "tool"}:
        last = f"with {turns[-1].role!r}" if turns else "before it began"
        raise RowError(
            f"the prompt in {where} ends {last}, so the assistant is not asked for anything",
            "end it with a user's turn, or with a tool's result",
        )
    return turns


def read_continuation(row: Row, column: str, prompt: Sequence[Message]) -> tuple[Message, ...]:
    """The turns that go on from the prompt: from text (an assistant's turn), a turn, or several.

    Whole conversations that begin with the prompt are cut behind it.

    Raises:
        RowError: the column is missing or empty, or its turns can't follow the prompt.
    """
    turns = read_turns_or_text(row, column, "assistant")
    spoken = [message for message in prompt if message.role != "system"]
    for beginning in (list(prompt), spoken):
        if len(turns) > len(beginning) and turns[: len(beginning)] == beginning:
            turns = turns[len(beginning) :]
            break
    return check_continuation(turns, prompt, column)


def check_continuation(
    turns: Sequence[Message], prompt: Sequence[Message], where: str
) -> tuple[Message, ...]:
    """The turns, once proven to go on from the prompt.

    Raises:
        RowError: they don't begin with an answer, or are in no order.
    """
    if not turns or turns[0].role != "assistant":
        begins = f"begins with {turns[0].role!r}" if turns else "is empty"
        raise RowError(f"{where} {begins}, where the assistant's answer is to stand")
    in_order([*prompt, *turns], where=f"prompt and {where}")
    return tuple(turns)


def read_turns_or_text(row: Row, column: str, role: str) -> list[Message]:
    """Text as one turn of `role`; or turns, in either dialect, or one of them.

    Raises:
        RowError: the column is missing or empty, or a turn does not fit.
    """
    value = read_column(row, column)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, (list, tuple)):
        return parse_turns(value, column, dialect_of(value))
    return [Message(role=role, content=read_text(row, column))]


def dialect_of(turns: Sequence[object]) -> Dialect:
    """Turns with `from` are ShareGPT's, all others OpenAI's."""
    first = turns[0] if turns else None
    return SHAREGPT if isinstance(first, Mapping) and "from" in first else OPENAI


def common_prompt(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """(What two conversations begin with in common, how each goes on).

    Raises:
        RowError: they begin with nothing in common, or first differ in another turn than an answer.
    """
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    if length == len(chosen) == len(rejected):
        raise RowError(*_THE_SAME)
    rest = (chosen[length:], rejected[length:])
    for turns in rest:
        if not turns or turns[0].role != "assistant":
            differ = f"{turns[0].role} turn" if turns else "end of one of them"
            raise RowError(
                f"chosen and rejected first differ in turn {length + 1}, the {differ}; "
                "they must be the same up to an answer",
                "leave such rows out: `on_bad_row: skip`",
            )
    return check_prompt(chosen[:length], "chosen and rejected"), *rest


def check_different(chosen: Sequence[Message], rejected: Sequence[Message]) -> None:
    """
    Raises:
        RowError: both say the same.
    """
    if chosen == rejected:
        raise RowError(*_THE_SAME)


def read_content(row: Row) -> Conversation | Document:
    """`text`, or the conversation in `messages` with the row's `system` and `tools`.

    Raises:
        RowError: the row has neither or both, or the messages are in no order.
    """
    if "messages" not in row:
        return Document(text=read_text(row, "text"))
    if "text" in row:
        raise RowError(
            "has both 'text' and 'messages'",
            "write another name for the one that is not meant, as `columns: {spare: text}`",
        )
    turns = in_order(
        read_turns_or_text(row, "messages", "user"),
        system=optional_text(row, "system"),
        where="messages",
    )
    if not turns:
        raise RowError("messages is empty", "leave such rows out: `on_bad_row: skip`")
    return Conversation(messages=turns, tools=optional_tools(row))


_THE_SAME = (
    "chosen and rejected are the same, so nothing is preferred",
    "leave such rows out: `on_bad_row: skip`",
)
