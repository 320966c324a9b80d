"""`framework preview` as its user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from framework.__main__ import main

WriteRecipe = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command left in its terminal."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def preview(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Runs the command line's own `main` in this process: torch is imported once."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["framework", "preview", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(exit_code=ended.value.code, stdout=captured.out, stderr=captured.err)

    return run


@pytest.fixture
def numbers(preview: Callable[..., Done]) -> Callable[..., dict[str, Any]]:
    """What `--json` prints."""

    def run(*arguments: str | Path, exit_code: int = 0) -> dict[str, Any]:
        done = preview(*arguments, "--json")
        assert done.exit_code == exit_code, done.stderr
        return json.loads(done.stdout)

    return run


def add_row(recipe: Path, row: dict[str, Any] | str) -> None:
    with (recipe.parent / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write((row if isinstance(row, str) else json.dumps(row)) + "\n")


def long_row() -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Say it."},
            {"role": "assistant", "content": "word " * 200},
        ]
    }


def test_the_first_samples_and_all_numbers_are_printed(
    write_recipe: WriteRecipe, preview: Any
) -> None:
    done = preview(write_recipe(), "--rows", "2")
    assert done.exit_code == 0, done.stderr
    assert "train0:2  42 tokens, 8 trained" in done.stdout
    assert "⟦The capital of Italy is Rome.<|im_end|>⟧⏎" in done.stdout
    assert "train0:3" not in done.stdout
    assert "16  rows" in done.stdout
    assert "trained tokens" in done.stdout


def test_the_json_holds_the_numbers_of_the_whole_part(
    write_recipe: WriteRecipe, numbers: Any
) -> None:
    found = numbers(write_recipe(), "--rows", "1")
    assert found["num_rows"] == 16
    assert found["num_trained_tokens"] == 128
    assert found["num_truncated_rows"] == 0
    assert 0.5 < found["packing_efficiency"] <= 1
    assert found["problems"] == []


def test_overrides_reach_the_data(write_recipe: WriteRecipe, numbers: Any) -> None:
    recipe = write_recipe()
    add_row(recipe, long_row())
    assert numbers(recipe, exit_code=2)["problems"][0]["line"] == 17
    truncated = numbers(recipe, "data.over_length=truncate", "data.packing=false")
    assert truncated["num_truncated_rows"] == truncated["num_over_length_rows"] == 1
    assert truncated["longest"] == 128
    assert truncated["packing_efficiency"] is None
    assert truncated["num_packs"] is None
    dropped = numbers(recipe, "data.over_length=drop")
    assert (dropped["num_truncated_rows"], dropped["num_over_length_rows"]) == (0, 1)


def test_rows_left_out_are_counted(write_recipe: WriteRecipe, numbers: Any) -> None:
    recipe = write_recipe()
    add_row(recipe, {"text": "no messages"})
    found = numbers(recipe, "data.on_bad_row=skip")
    assert (found["num_rows"], found["num_samples"], found["num_skipped_rows"]) == (17, 16, 1)


def test_a_wrong_row_is_reported_with_its_line_and_without_a_traceback(
    write_recipe: WriteRecipe,
    preview: Any,
    numbers: Any,
) -> None:
    recipe = write_recipe()
    add_row(recipe, {"text": "no messages"})
    done = preview(recipe)
    assert done.exit_code == 2
    assert "train.jsonl:17" in done.stderr
    assert "Traceback" not in done.stderr
    found = numbers(recipe, exit_code=2)
    assert found["num_rows"] is None
    assert found["problems"][0]["file"].endswith("train.jsonl")


def test_a_wrong_recipe_is_reported_as_json_too(write_recipe: WriteRecipe, numbers: Any) -> None:
    found = numbers(write_recipe(), "trainer.learning_rat=1", exit_code=2)
    assert "learning_rat" in json.dumps(found["problems"])


def test_the_evaluation_data_can_be_shown(
    write_recipe: WriteRecipe, preview: Any, numbers: Any
) -> None:
    recipe = write_recipe(data={"eval": [{"source": "./eval.jsonl"}]})
    assert numbers(recipe, "--part", "eval")["num_rows"] == 4
    done = preview(write_recipe(name="other.yaml", data={"eval": []}), "--part", "eval")
    assert done.exit_code == 2
    assert "data.eval: is empty" in done.stderr


def test_a_page_is_written_instead(write_recipe: WriteRecipe, preview: Any, tmp_path: Path) -> None:
    page = tmp_path / "shown" / "page.html"
    done = preview(write_recipe(), "--html", page)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{page}\n"
    assert page.read_text(encoding="utf-8").count("&lt;|im_start|&gt;") == 9
    blocked = preview(write_recipe(), "--html", tmp_path / "train.jsonl" / "page.html")
    assert blocked.exit_code == 2
    assert "can't be written" in blocked.stderr
    assert "Traceback" not in blocked.stderr


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, framework.cli.preview; "
        "print({'torch', 'transformers', 'matplotlib', 'jinja2', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
