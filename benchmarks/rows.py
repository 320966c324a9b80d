"""Files of demonstrations -> the rows that every contender of a table is given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

Message = dict[str, str]

TOOLS = (
    ("weather.forecast", "The weather of a place on a day.", ("place", "day")),
    ("calendar.add", "Puts an appointment into the calendar.", ("title", "day", "time")),
    ("mail.send", "Sends a message to one address.", ("address", "subject", "text")),
    ("music.play", "Plays a title, or anything of an artist.", ("title", "artist")),
    ("web.search", "Finds pages and returns their first lines.", ("query", "language")),
    ("route.find", "The fastest way between two places.", ("start", "goal", "means")),
    ("timer.set", "Rings after some minutes.", ("minutes", "label")),
)


def alpaca(file: Path) -> list[dict[str, str]]:
    """Rows of `instruction`, `input` and `output`."""
    return json.loads(file.read_text(encoding="utf-8"))


def numbered(rows: Sequence[dict[str, str]], count: int) -> Iterator[dict[str, str]]:
    """So many, no two alike, however few there are."""
    for number in range(count):
        row = rows[number % len(rows)]
        yield {**row, "instruction": f"{row['instruction']} ({number})"}


def conversation(row: dict[str, str], system: str = "") -> dict[str, list[Message]]:
    """An alpaca row as `messages`."""
    request = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    turns = [("user", request), ("assistant", row["output"])]
    if system:
        turns.insert(0, ("system", system))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def conversations(file: Path, *, system: str = "") -> Iterator[dict[str, list[Message]]]:
    """All rows of an alpaca file as `messages`."""
    for row in alpaca(file):
        yield conversation(row, system)


def preferences(file: Path) -> Iterator[dict[str, list[Message]]]:
    """Rows of `conversations`, `chosen` and `rejected` as lists of messages."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    for row in json.loads(file.read_text(encoding="utf-8")):
        parts = {
            "prompt": row["conversations"],
            "chosen": [row["chosen"]],
            "rejected": [row["rejected"]],
        }
        yield {
            name: [{"role": roles[one["from"]], "content": one["value"]} for one in turns]
            for name, turns in parts.items()
        }


def tool_prompt() -> str:
    """A system prompt of about 400 tokens, such as whoever offers tools has before every row."""
    offered = [
        {
            "name": name,
            "description": description,
            "parameters": {one: {"type": "string", "required": True} for one in parameters},
        }
        for name, description, parameters in TOOLS
    ]
    return "You may call these tools. Answer in words where none of them helps.\n" + "\n".join(
        map(json.dumps, offered)
    )


class Lengths:
    """Tokens of a row, about: the text of its messages and four for each turn."""

    def __init__(self, model: str) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))

    def of(self, messages: Sequence[Message]) -> int:
        """Of a conversation."""
        texts = [one["content"] for one in messages]
        found: Any = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return sum(len(one.ids) + 4 for one in found)
