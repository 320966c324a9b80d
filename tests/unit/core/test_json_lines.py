"""Rows of the last steps are found from a file's end, whatever its other lines hold."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from framework.core.json_lines import cut_after, left_out_lines, read_rows, rows_after


def lines_of(*steps: int) -> list[str]:
    return [json.dumps({"step": step, "text": "\u2028 é"}, ensure_ascii=False) for step in steps]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_of_later_steps_are_cut_off_wherever_blocks_of_the_file_end(tmp_path):
    """Lines of 20 bytes to 200 kB, of one step or several, beside blocks of 64 kB."""
    random.seed(1)
    steps = sorted(random.choices(range(1, 40), k=100))
    texts = ["x" * random.choice((0, 10, 60_000, 65_536, 200_000)) for _ in steps]
    rows = [{"step": step, "text": text} for step, text in zip(steps, texts, strict=True)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    for step in range(41):
        path = written(tmp_path / "rows.jsonl", whole)
        assert rows_after(path, step) == [row for row in rows if row["step"] > step]
        cut_after(path, step)
        kept = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step)
        assert path.read_text(encoding="utf-8") == kept


@pytest.mark.parametrize("torn", ["", '{"st', '{"step": 1}', "\0" * 70_000])
@pytest.mark.parametrize("step", [0, 2, 9])
def test_a_last_line_that_was_cut_short_goes_too(tmp_path, torn, step):
    lines = lines_of(1, 2, 3)
    path = written(tmp_path / "rows.jsonl", "\n".join([*lines, torn]))
    cut_after(path, step)
    assert path.read_text(encoding="utf-8") == "".join(line + "\n" for line in lines[:step])


def test_a_file_with_nothing_else_is_empty_then(tmp_path):
    path = written(tmp_path / "rows.jsonl", '{"step": 1')
    cut_after(path, 5)
    assert path.read_bytes() == b""
    cut_after(path, 5)
    assert path.read_bytes() == b"" and rows_after(path, 0) == []


@pytest.mark.parametrize("broken", ["{", "\0\0\0", "[1]", '{"step": "3"}', "é", "[" * 100_000])
def test_a_broken_line_hides_no_rows_before_or_behind_it(tmp_path, broken):
    one, two, four, five = lines_of(1, 2, 4, 5)
    path = written(tmp_path / "rows.jsonl", "\n".join([one, two, broken, four, five, ""]))
    rows, numbers = read_rows(path)
    assert [row["step"] for row in rows if row["step"] != "3"] == [1, 2, 4, 5]
    if numbers:
        assert numbers == [3]
    assert [row["step"] for row in rows_after(path, 1)] == [2, 4, 5]
    cut_after(path, 4)
    # It may be of a step that is kept, so it stays.
    assert path.read_text(encoding="utf-8") == "\n".join([one, two, broken, four, ""])
    cut_after(path, 2)
    assert path.read_text(encoding="utf-8") == "\n".join([one, two, broken, ""])
    cut_after(path, 1)
    assert path.read_text(encoding="utf-8") == f"{one}\n"


def test_no_more_is_read_than_the_rows_that_go(tmp_path):
    """Behind a hole of a terabyte, which would take minutes to read."""
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.seek(1 << 40)
        stream.write("\n".join(["", *lines_of(1, 2, 3), ""]).encode())
    assert [row["step"] for row in rows_after(path, 1)] == [2, 3]
    cut_after(path, 1)
    assert path.stat().st_size == (1 << 40) + len(f"\n{lines_of(1)[0]}\n".encode())


def test_lines_that_are_left_out_are_told_of():
    path = Path("folder/rows.jsonl")
    assert left_out_lines(path, []) == []
    assert left_out_lines(path, [7]) == ["rows.jsonl: line 7 can't be read and is left out"]
    assert left_out_lines(path, [7, 9]) == ["rows.jsonl: 2 lines can't be read and are left out"]
