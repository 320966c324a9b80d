"""The shipped quickstart rows: nothing that is asked for in the test was seen in training."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart"
NUM_ROWS = {"train": 2400, "eval": 200, "test": 200}
HELD_OUT = [("eval", "train"), ("test", "train"), ("test", "eval")]
NUM_TOOLS = 10


@dataclass(frozen=True, kw_only=True)
class Example:
    """One shipped row, taken apart."""

    system: str
    request: str
    answer: str

    @property
    def tool(self) -> str:
        return json.loads(self.answer)["tool"]

    @property
    def arguments(self) -> dict[str, Any]:
        return json.loads(self.answer)["arguments"]

    @property
    def pattern(self) -> str:
        """The request without the values that its call names, nor case or punctuation."""
        text = self.request
        for value in sorted(map(str, self.arguments.values()), key=len, reverse=True):
            text = re.sub(said(value), "{}", text)
        return " ".join(re.findall(r"[\w']+|\{\}", text.lower()))


def said(value: str) -> str:
    """A regular expression for a value that stands alone in a text: `4` is not in `4:30`."""
    return rf"(?<![\w.:]){re.escape(value)}(?!\w|[:.]\d)"


@cache
def examples(split: str) -> tuple[Example, ...]:
    rows = []
    for line in (QUICKSTART / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        system, request, answer = (message["content"] for message in messages)
        rows.append(Example(system=system, request=request, answer=answer))
    assert len(rows) == NUM_ROWS[split]
    return tuple(rows)


@pytest.fixture
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "quickstart_generate", QUICKSTART / "generate.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_the_generator_writes_the_shipped_files_byte_for_byte(
    generator: ModuleType, tmp_path: Path
) -> None:
    generator.generate(tmp_path)
    shipped = sorted((QUICKSTART / "data").glob("*.jsonl"))
    assert [path.stem for path in shipped] == ["eval", "test", "train"]
    for path in shipped:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(path.stat().st_size for path in shipped) < 2_000_000


@pytest.mark.parametrize(("held_out", "seen"), HELD_OUT)
def test_no_value_of_a_held_out_call_is_an_argument_of_a_seen_call(
    held_out: str, seen: str
) -> None:
    values = [
        {value for example in examples(split) for value in example.arguments.values()}
        for split in (held_out, seen)
    ]
    assert len(values[0]) > 100
    assert values[0].isdisjoint(values[1])


@pytest.mark.parametrize(("held_out", "seen"), HELD_OUT)
def test_no_name_time_or_date_of_a_held_out_call_is_said_in_a_seen_request(
    held_out: str, seen: str
) -> None:
    text = "\n".join(example.request for example in examples(seen))
    values = {
        value
        for example in examples(held_out)
        for value in example.arguments.values()
        if isinstance(value, str)
    }
    assert len(values) > 90
    assert [value for value in sorted(values) if re.search(said(value), text, re.IGNORECASE)] == []


@pytest.mark.parametrize(("held_out", "seen"), HELD_OUT)
def test_no_held_out_request_is_phrased_like_a_seen_one(held_out: str, seen: str) -> None:
    patterns = [{example.pattern for example in examples(split)} for split in (held_out, seen)]
    assert len(patterns[0]) > 80
    assert patterns[0].isdisjoint(patterns[1])


@pytest.mark.parametrize("split", NUM_ROWS)
def test_every_value_of_a_call_is_said_in_its_request(split: str) -> None:
    for example in examples(split):
        assert example.arguments, example.answer
        for value in example.arguments.values():
            assert re.search(said(str(value)), example.request), (example.request, value)


@pytest.mark.parametrize("split", NUM_ROWS)
def test_every_tool_is_asked_for_equally_often_and_never_twice_alike(split: str) -> None:
    rows = examples(split)
    counts = Counter(example.tool for example in rows)
    assert len(counts) == NUM_TOOLS
    assert set(counts.values()) == {NUM_ROWS[split] // NUM_TOOLS}
    assert len({example.request for example in rows}) == len(rows)
    assert len({example.system for example in rows}) == 1


def test_held_out_calls_use_only_arguments_that_training_shows() -> None:
    signatures = {
        split: {(example.tool, *example.arguments) for example in examples(split)}
        for split in NUM_ROWS
    }
    assert signatures["eval"] <= signatures["train"]
    assert signatures["test"] <= signatures["train"]


@pytest.mark.parametrize("split", NUM_ROWS)
def test_answers_are_the_json_that_json_dumps_writes(split: str) -> None:
    for example in examples(split):
        assert example.answer == json.dumps(json.loads(example.answer), ensure_ascii=False)
