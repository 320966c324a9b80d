"""Columns of a row -> text, turns and tools, with errors that say which part does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.core.problems import UserError, did_you_mean, nearest
from framework.core.recognition import recognitions
from framework.core.samples import Conversation, Message, Row, RowError, ToolCall
from framework.reading.hermes import read_tagged_calls
from framework.reading.strict_json import BrokenJson, kind_of, parse_json, shown

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a format writes one turn."""

    role: str
    """Key of the role."""
    content: str
    """Key of the text."""
    roles: Mapping[str, str]
    """Role as written -> role of a `Message`."""
    hint: str = ""
    """What to do when a turn looks like another format's."""


OPENAI = Dialect(
    role="role",
    content="content",
    roles={
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",
    },
    hint="turns with `from` and `value` are read with `format: sharegpt`",
)
"""`role` and `content`, as OpenAI's API takes them."""


SHAREGPT = Dialect(
    role="from",
    content="value",
    roles={
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "function_call": "assistant",
        "observation": "tool",
        "function_response": "tool",
        "tool": "tool",
    },
    hint="turns with `role` and `content` are read with `format: messages` and "
    "`columns: {messages: conversations}`",
)
"""`from` and `value`; a call may be a turn of its own."""


def read_column(row: Row, column: str) -> Any:
    """The column's value.

    Raises:
        RowError: the row has no such column; suggests the nearest, a mapping or another format.
    """
    if column in row:
        return row[column]
    names = [str(name) for name in row]
    near = nearest(column, names)
    other = " or ".join(f"`format: {name}`" for name in _fitting_formats(row))
    pair = _question_and_answer(names)
    if pair and not other and column in ("prompt", "completion", "messages"):
        hint = (
            f"write `format: {{type: prompt_completion, prompt: {pair[0]}, completion: {pair[1]}}}`"
        )
    elif near:
        hint = f"did you mean {near!r}? write `columns: {{{column}: {near}}}`"
    elif other:
        hint = f"its columns look like {other}"
    else:
        hint = f"name the column that holds it: `columns: {{{column}: ...}}`"
    raise RowError(f"has no column {column!r}, only {', '.join(names) or 'no column at all'}", hint)


def _question_and_answer(names: Sequence[str]) -> tuple[str, str] | None:
    """The columns of a question and its answer under their usual names."""
    pairs = (("question", "answer"), ("query", "response"), ("input", "output"))
    return next((pair for pair in pairs if set(pair) <= set(names)), None)


def _fitting_formats(row: Row) -> list[str]:
    try:
        return [one.name for one in recognitions(row)]
    except UserError:  # a plug-in that can't be imported is no reason to end over a hint
        return []


def read_text(row: Row, column: str, *, may_be_blank: bool = False) -> str:
    """The column's text; null counts as blank.

    Raises:
        RowError: the column is missing, holds no text, or is blank and may not be.
    """
    value = read_column(row, column)
    if value is None and may_be_blank:
        return ""
    if not isinstance(value, str):
        raise RowError(f"column {column!r} is {_described(value)}, not a string")
    if not value.strip() and not may_be_blank:
        raise RowError(f"column {column!r} is empty", "leave such rows out: `on_bad_row: skip`")
    return value


def optional_text(row: Row, column: str) -> str:
    """The column's text, "" when the row has no such column or it is null.

    Raises:
        RowError: the column holds no text.
    """
    return read_text(row, column, may_be_blank=True) if column in row else ""


def optional_pairs(row: Row, column: str) -> Sequence[tuple[str, str]]:
    """The column's [request, answer] pairs; none when the row has no such column or it is null.

    Raises:
        RowError: the column holds something else.
    """
    pairs = row.get(column) or []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or [isinstance(text, str) for text in pair] != [True, True]:
            raise RowError(f"column {column!r} is not a list of [request, answer] pairs of texts")
    return [(request, answer) for request, answer in pairs]


def read_turns(row: Row, column: str, dialect: Dialect = OPENAI) -> list[Message]:
    """The column's list of turns, or JSON text of one.

    Raises:
        RowError: the column is missing, or a turn does not fit the dialect.
    """
    return parse_turns(read_column(row, column), column, dialect)


def parse_turns(value: object, where: str, dialect: Dialect = OPENAI) -> list[Message]:
    """A list of turns, or JSON text of one; `where` names it in errors.

    Raises:
        RowError: it is no list, or a turn does not fit the dialect.
    """
    turns = as_list(value, where)
    return [_message(turn, f"{where}[{i}]", dialect) for i, turn in enumerate(turns)]


def as_list(value: object, where: str) -> Sequence[object]:
    """A list, or JSON text of one; `where` names it in errors.

    Raises:
        RowError: it is neither.
    """
    if isinstance(value, str):
        value = _json(value, where)
    if not isinstance(value, (list, tuple)):
        raise RowError(f"{where} is {_described(value)}, not a list")
    return value


def optional_tools(row: Row, column: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """JSON schemas of tools from a list or JSON text; a bare schema is wrapped as a function.

    Raises:
        RowError: the column holds something else.
    """
    value = row.get(column)
    if value is None or value == "":
        return ()
    return tuple(_tool(tool, f"{column}[{i}]") for i, tool in enumerate(as_list(value, column)))


def conversation(
    turns: Iterable[Message],
    *,
    system: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    where: str = "turns",
) -> Conversation:
    """A conversation whose turns come in an order that every chat template can render.

    A blank `system` adds no turn; `where` names the turns in errors.

    Raises:
        RowError: no assistant turn, an empty one, two user or assistant turns in a row, a system
            turn that is not the first, or a tool's result that no call asked for.
    """
    turns = tuple(turns)
    if tools or any(turn.role == "tool" for turn in turns):
        turns = read_tagged_calls(turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(f"{where} has no assistant turn, so there is nothing to learn")
    return Conversation(messages=in_order(turns, system=system, where=where), tools=tuple(tools))


def in_order(
    turns: Sequence[Message], *, system: str = "", where: str = "turns"
) -> tuple[Message, ...]:
    """The turns, `system` before them, once their order is proven; the assistant may be silent.

    Raises:
        RowError: see `conversation`.
    """
    _check_order(turns, where)
    if not system.strip():
        return tuple(turns)
    if turns and turns[0].role == "system":
        raise RowError(f"{where}[0] is a system turn, and the row has a system column too")
    return (Message(role="system", content=system), *turns)


def _check_order(turns: Sequence[Message], where: str) -> None:
    previous = ""
    waiting: list[ToolCall] = []
    for index, turn in enumerate(turns):
        place = f"{where}[{index}] ({turn.role})"
        if turn.role == "system" and index > 0:
            raise RowError(f"{place}: a system turn can only be the first")
        if turn.role == previous and turn.role in {"user", "assistant"}:
            raise RowError(f"{place}: the turn before is {previous} too", "join the two turns")
        if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
            raise RowError(f"{place}: is empty and calls no tool")
        if turn.role == "tool":
            _answer(turn, waiting, place)
        else:
            waiting = list(turn.tool_calls)
        previous = turn.role


def _answer(turn: Message, waiting: list[ToolCall], place: str) -> None:
    """Takes the call that `turn` answers off the list of waiting ones."""
    if not waiting:
        raise RowError(
            f"{place}: a tool's result, but no call of the assistant's waits for one",
            "write the call into the assistant's `tool_calls`",
        )
    identifiers = [call.identifier for call in waiting]
    if not turn.tool_call_id or not any(identifiers):
        waiting.pop(0)
        return
    if turn.tool_call_id not in identifiers:
        what = f"{place}: answers the call {turn.tool_call_id!r}, which does not wait for a result"
        raise RowError(what, did_you_mean(turn.tool_call_id, identifiers))
    waiting.pop(identifiers.index(turn.tool_call_id))


def _message(turn: object, where: str, dialect: Dialect) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is {_described(turn)}, not an object")
    role = _role(turn, where, dialect)
    if turn.get(dialect.role) == "function_call" and dialect.role == "from":
        turn = {**turn, dialect.content: None, "tool_calls": turn.get(dialect.content)}
    calls = _tool_calls(turn, where)
    reasoning = next((turn[key] for key in _REASONING_KEYS if turn.get(key)), "")
    if not isinstance(reasoning, str):
        raise RowError(f"{where}: its reasoning is {_described(reasoning)}, not a string")
    if role != "assistant" and (calls or reasoning):
        part = "tool_calls" if calls else "reasoning"
        raise RowError(f"{where} ({role}): only an assistant turn can have {part}")
    return Message(
        role=role,
        content=_content(turn, where, dialect, may_be_null=bool(calls)),
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=_optional_string(turn, "tool_call_id", where),
        name=_optional_string(turn, "name", where),
        train=_train(turn, where),
    )


def _role(turn: Mapping[str, Any], where: str, dialect: Dialect) -> str:
    if dialect.role not in turn:
        names = ", ".join(str(name) for name in turn) or "nothing"
        raise RowError(f"{where} has no {dialect.role!r}, only {names}", dialect.hint)
    written = turn[dialect.role]
    if not isinstance(written, str):
        raise RowError(f"{where}.{dialect.role} is {_described(written)}, not a string")
    if written not in dialect.roles:
        what = f"{where}.{dialect.role} is {shown(written)}"
        raise RowError(what, did_you_mean(written, dialect.roles))
    return dialect.roles[written]


def _content(turn: Mapping[str, Any], where: str, dialect: Dialect, *, may_be_null: bool) -> str:
    value = turn.get(dialect.content)
    place = f"{where}.{dialect.content}"
    if value is None and may_be_null:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(_part(part, f"{place}[{i}]") for i, part in enumerate(value))
    if dialect.content not in turn:
        names = ", ".join(str(name) for name in turn)
        raise RowError(f"{where} has no {dialect.content!r}, only {names}", dialect.hint)
    raise RowError(f"{place} is {_described(value)}, not a string")


def _part(part: object, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if isinstance(text, str):
        return text
    if isinstance(part, Mapping) and part.get("type") != "text":
        what = f"{where} is a part of type {shown(part.get('type'))}"
        raise RowError(what, "only parts {type: text, text: ...} can be trained on")
    raise RowError(f"{where} is {_described(part)}, not a part {{type: text, text: ...}}")


def _tool_calls(turn: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    value = turn.get("tool_calls")
    if not value and turn.get("function_call"):
        value = [turn["function_call"]]
    if not value:
        return ()
    place = f"{where}.tool_calls"
    if isinstance(value, str):
        value = _json(value, place)
    if isinstance(value, Mapping):
        value = [value]
    return tuple(_tool_call(call, f"{place}[{i}]") for i, call in enumerate(as_list(value, place)))


def _tool_call(call: object, where: str) -> ToolCall:
    """From `{id, function: {name, arguments}}` or `{name, arguments}`."""
    if not isinstance(call, Mapping):
        raise RowError(f"{where} is {_described(call)}, not an object")
    function = call.get("function") or call
    if not isinstance(function, Mapping):
        raise RowError(f"{where}.function is {_described(function)}, not an object")
    name = _optional_string(function, "name", where)
    if not name:
        raise RowError(f"{where} has no name", "write {name: ..., arguments: {...}}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{where}.arguments")
    if not isinstance(arguments, Mapping):
        raise RowError(f"{where}.arguments is {_described(arguments)}, not an object")
    identifier = _optional_string(call, "id", where)
    return ToolCall(name=name, arguments=arguments, identifier=identifier)


def _tool(tool: object, where: str) -> Mapping[str, Any]:
    if isinstance(tool, str):
        tool = _json(tool, where)
    if not isinstance(tool, Mapping):
        raise RowError(f"{where} is {_described(tool)}, not an object")
    wrapped = tool if "function" in tool else {"type": "function", "function": tool}
    function = wrapped["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} has no name", "write {name: ..., parameters: {...}}")
    return wrapped


def _train(turn: Mapping[str, Any], where: str) -> bool | None:
    """From `train` (true or false), or from OpenAI's `weight` (0 or 1)."""
    key = "train" if turn.get("train") is not None else "weight"
    value = turn.get(key)
    if value is None:
        return None
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise RowError(f"{where}.{key} is {_described(value)}, not true or false")


def _optional_string(turn: Mapping[str, Any], key: str, where: str) -> str:
    value = turn.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{where}.{key} is {_described(value)}, not a string")
    return value


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except BrokenJson as error:
        raise RowError(f"{where} is a string, but no JSON: {error.what}") from error


def _described(value: object) -> str:
    if isinstance(value, str):
        return f"the string {shown(value)}"
    return kind_of(value)
