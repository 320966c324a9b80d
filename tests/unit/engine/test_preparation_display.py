"""How far a preparation is, as its user sees it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import conversation, write_rows

from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.engine.preparation_display import PreparationDisplay
from framework.recipe.resolve import resolve

COMMAND = [sys.executable, "-m", "framework", "prepare"]


def in_a_terminal(recipe: Path) -> str:
    """What `framework prepare` writes to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, str(recipe)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    while block := read(ours):
        written += block
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side is closed
        return b""


def test_a_terminal_shows_a_bar_for_each_dataset_and_nothing_once_all_is_cached(
    write_recipe, tmp_path
):
    recipe = write_recipe(data={"eval": [{"source": "./eval.jsonl", "name": "held out"}]})
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(rows + "\n\n\n", encoding="utf-8")
    shown = in_a_terminal(recipe).splitlines()
    assert any(re.search(r"preparing train0 .* 16/16 .* rows/s .* ETA", line) for line in shown)
    assert any(re.search(r"preparing held out .* 4/4 ", line) for line in shown)
    assert "preparing" not in in_a_terminal(recipe)


def test_without_a_terminal_what_takes_no_time_says_nothing(write_recipe):
    recipe = write_recipe(data={"max_length": 120})
    done = subprocess.run([*COMMAND, str(recipe)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_without_a_terminal_a_line_now_and_then_says_rows_speed_and_time_left(write_recipe, capsys):
    recipe = resolve(write_recipe(data={"max_length": 121}))
    with PreparationDisplay(seconds_between_lines=0) as progress:
        prepare_data(recipe, progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 16
    assert re.fullmatch(
        r"preparing train0: 1 of 16 rows, [\d,]+ rows/s, ETA \d:\d\d:\d\d", lines[0]
    )
    assert lines[-1].startswith("preparing train0: 16 of 16 rows, ")
    assert lines[-1].endswith("ETA 0:00:00")
    with PreparationDisplay(seconds_between_lines=0) as progress:
        prepare_data(recipe, progress=progress)
    assert capsys.readouterr().err == ""


def test_a_line_says_no_time_left_where_the_source_can_not_tell_its_rows(
    write_recipe, tmp_path, capsys
):
    (tmp_path / "train.json").write_text('[{"text": "one"}, {"text": "two"}]', encoding="utf-8")
    recipe = write_recipe(**{"data.train": [{"source": "./train.json", "format": "completion"}]})
    with PreparationDisplay(seconds_between_lines=0) as progress:
        prepare_data(resolve(recipe, ["trainer.type=pretrain"]), progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"[\d,]+ rows/s", "N rows/s", line) for line in lines] == [
        "preparing train0: 1 rows, N rows/s",
        "preparing train0: 2 rows, N rows/s",
    ]


def test_two_datasets_of_one_name_are_counted_one_after_the_other(write_recipe, capsys):
    train = [{"source": "./train.jsonl", "name": "same"}]
    evaluation = [{"source": "./eval.jsonl", "name": "same"}]
    recipe = resolve(write_recipe(data={"train": train, "eval": evaluation}))
    with PreparationDisplay(seconds_between_lines=0) as progress:
        prepare_data(recipe, progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert sum(" of 16 rows" in line for line in lines) == 16
    assert sum(" of 4 rows" in line for line in lines) == 4


def test_a_bad_row_ends_the_display_and_is_reported(write_recipe, tmp_path, capsys):
    recipe = write_recipe()
    write_rows(tmp_path / "train.jsonl", [conversation(0), {"messages": 3}])
    with (
        pytest.raises(UserError, match=r"train\.jsonl:2"),
        PreparationDisplay(seconds_between_lines=0) as progress,
    ):
        prepare_data(resolve(recipe), progress=progress)
    assert "2 of 2 rows" in capsys.readouterr().err
