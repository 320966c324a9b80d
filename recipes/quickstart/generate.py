"""phrases.toml -> data/{train,eval,test}.jsonl: requests in English, and calls that answer them.

Every list of phrases.toml, and every range of times, dates and numbers, is cut into three before a
single row is made. So a test request shares no name, number, time, date or sentence pattern with
the training rows; only the ten tools are the same.

    python recipes/quickstart/generate.py
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

SYSTEM_PROMPT = 'Reply with JSON: {"tool": ..., "arguments": {...}}'
NUM_ROWS = {"train": 2400, "eval": 200, "test": 200}
SHARE = {"train": 0.75, "eval": 0.1, "test": 0.15}
SEED = 2026
BARE_RATIO = 0.3
"""Share of requests without anything around them; these frames have no words to keep apart."""
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Value:
    """One thing to ask about."""

    argument: str | int | float
    """As the function call has it."""
    said: str
    """As the request has it."""
    said_when: str = ""
    """Of a day: as it stands at the end of a sentence, `on Monday`."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One function and the ways to ask for it."""

    name: str
    arguments: Mapping[str, str]
    """Argument -> name of its pool of values."""
    requests: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the rows of one split are made of."""

    tools: tuple[Tool, ...]
    request_frames: tuple[str, ...]
    sentence_frames: tuple[str, ...]
    values: Mapping[str, tuple[Value, ...]]


def cut(items: Sequence[Any], random_source: random.Random) -> dict[str, tuple[Any, ...]]:
    """The items in random order, divided between the splits; each split gets at least two."""
    shuffled = random_source.sample(items, len(items))
    num_eval = max(2, round(SHARE["eval"] * len(items)))
    num_test = max(2, round(SHARE["test"] * len(items)))
    return {
        "eval": tuple(shuffled[:num_eval]),
        "test": tuple(shuffled[num_eval : num_eval + num_test]),
        "train": tuple(shuffled[num_eval + num_test :]),
    }


def time_of_day(minutes: int, random_source: random.Random) -> Value:
    """A time, said in one of the usual ways: `7:45 am`, `7 pm`, `19:45`."""
    hour, minute = divmod(minutes, 60)
    half = "am" if hour < 12 else "pm"
    hour_of_half = (hour - 1) % 12 + 1
    short = f"{hour_of_half}" if minute == 0 else f"{hour_of_half}:{minute:02d}"
    said = random_source.choice((f"{short} {half}", f"{short} {half}", f"{hour:02d}:{minute:02d}"))
    return Value(argument=said, said=said)


def date(month: str, day: int, random_source: random.Random) -> Value:
    """A date, said as `May 3` or `3 May`."""
    said = random_source.choice((f"{month} {day}", f"{day} {month}"))
    return Value(argument=said, said=said, said_when=f"on {said}")


def cut_values(
    listed: Mapping[str, Sequence[str]], random_source: random.Random
) -> dict[str, dict[str, tuple[Value, ...]]]:
    """Pool of values -> split -> the values it has there."""
    pools = {
        name: [Value(argument=text, said=text) for text in texts] for name, texts in listed.items()
    }
    weekdays = [
        Value(argument=name, said=name, said_when=f"on {name}") for name in listed["weekday"]
    ]
    dates = [date(month, day, random_source) for month in listed["month"] for day in range(1, 29)]
    pools["people"] = [Value(argument=number, said=str(number)) for number in range(2, 20)]
    amounts: list[int | float] = list(range(21, 9000, 17))
    amounts += [whole + cents / 100 for whole in range(21, 90) for cents in (49, 95)]
    pools["amount"] = [Value(argument=amount, said=str(amount)) for amount in amounts]
    divided = {name: cut(pool, random_source) for name, pool in pools.items()}
    # A clock's face is the same twice a day: `10:55` is said in `10:55 pm`.
    faces = cut(range(0, 12 * 60, 5), random_source)
    divided["time"] = {
        split: tuple(
            time_of_day(minutes, random_source)
            for face in faces[split]
            for minutes in (face, face + 12 * 60)
            if 6 * 60 <= minutes < 23 * 60
        )
        for split in NUM_ROWS
    }
    days = [cut(kind, random_source) for kind in (weekdays, dates)]
    divided["day"] = {
        # Dates are many and weekdays few: repeated, these are said about half as often.
        split: days[0][split] * 24 + days[1][split]
        for split in NUM_ROWS
    }
    return divided


def make_material(phrases: Mapping[str, Any], random_source: random.Random) -> dict[str, Material]:
    """Split -> what its rows are made of; nothing is in two splits."""
    values = cut_values(phrases["values"], random_source)
    request_frames = cut(phrases["request_frames"], random_source)
    sentence_frames = cut(phrases["sentence_frames"], random_source)
    tools: dict[str, list[Tool]] = {split: [] for split in NUM_ROWS}
    for name, tool in phrases["tools"].items():
        requests = cut(tool["requests"], random_source)
        sentences = cut(tool["sentences"], random_source)
        for split, into in tools.items():
            into.append(
                Tool(
                    name=name,
                    arguments=tool["arguments"],
                    requests=requests[split],
                    sentences=sentences[split],
                )
            )
    return {
        split: Material(
            tools=tuple(tools[split]),
            request_frames=request_frames[split],
            sentence_frames=sentence_frames[split],
            values={name: pool[split] for name, pool in values.items()},
        )
        for split in NUM_ROWS
    }


def make_pattern(tool: Tool, material: Material, random_source: random.Random) -> str:
    """A way to ask for the tool, with the arguments' names in braces."""
    bare = random_source.random() < BARE_RATIO
    pattern = random_source.choice(tool.requests + tool.sentences)
    if pattern in tool.sentences:
        frame = "{sentence}" if bare else random_source.choice(material.sentence_frames)
        return frame.replace("{sentence}", pattern)
    frame = "{Request}." if bare else random_source.choice(material.request_frames)
    capitalised = pattern[0].upper() + pattern[1:]
    return frame.replace("{request}", pattern).replace("{Request}", capitalised)


def make_row(tool: Tool, material: Material, random_source: random.Random) -> dict[str, Any]:
    """One conversation: the system prompt, a request, the call it asks for."""
    pattern = make_pattern(tool, material, random_source)
    named = {field for _, field, _, _ in Formatter().parse(pattern) if field}
    wanted = {"day" if field == "when" else field for field in named}
    chosen: dict[str, Value] = {}
    for argument, pool in tool.arguments.items():
        if argument in wanted:
            unused = [value for value in material.values[pool] if value not in chosen.values()]
            chosen[argument] = random_source.choice(unused)
    said = {argument: value.said for argument, value in chosen.items()}
    if "day" in chosen:
        said["when"] = chosen["day"].said_when
    call = {
        "tool": tool.name,
        "arguments": {argument: value.argument for argument, value in chosen.items()},
    }
    answer = json.dumps(call, ensure_ascii=False)
    contents = {"system": SYSTEM_PROMPT, "user": pattern.format(**said), "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in contents.items()]}


def make_rows(split: str, material: Material) -> list[dict[str, Any]]:
    """The rows of a split, no request twice, every tool equally often, in random order."""
    random_source = random.Random(f"{SEED} {split}")
    rows: list[dict[str, Any]] = []
    for tool in material.tools:
        requests: set[str] = set()
        while len(requests) < NUM_ROWS[split] // len(material.tools):
            row = make_row(tool, material, random_source)
            request = row["messages"][1]["content"]
            if request not in requests:
                requests.add(request)
                rows.append(row)
    random_source.shuffle(rows)
    return rows


def generate(into: Path) -> None:
    """Write `train.jsonl`, `eval.jsonl` and `test.jsonl`, the same bytes every time."""
    phrases = tomllib.loads((HERE / "phrases.toml").read_text(encoding="utf-8"))
    material = make_material(phrases, random.Random(SEED))
    into.mkdir(parents=True, exist_ok=True)
    for split in NUM_ROWS:
        lines = [json.dumps(row, ensure_ascii=False) for row in make_rows(split, material[split])]
        (into / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    generate(HERE / "data")
