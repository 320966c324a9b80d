"""`framework data stats` as its user starts it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from framework.__main__ import main

KEYS = {
    "seed",
    "first_rows",
    "numbers",
    "datasets",
    "found_formats",
    "sources",
    "tokenizer",
    "cleaners",
    "template",
    "distributions",
    "exact_copies",
    "near_copies",
    "languages",
    "random",
    "worst",
}


@pytest.fixture
def stats(monkeypatch, capsys):
    """Runs the command line's own `main` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["framework", "data", "stats", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_samples_and_every_section_are_printed(write_recipe, stats):
    code, said, errors = stats(write_recipe(), "--samples", "2")
    assert (code, errors) == (0, "")
    titles = ("2 samples, drawn", "longest, of all 16", "data.train", "datasets", "template")
    titles += ("distributions", "exact duplicates", "near-duplicates", "languages")
    positions = [said.index(f"\n{title}") for title in titles]
    assert positions == sorted(positions)
    assert "16  rows" in said


def test_the_json_has_the_keys_that_its_documentation_names(write_recipe, stats):
    from framework.reports.data_statistics import DataStatistics

    code, said, _ = stats(write_recipe(), "--json", "--samples", "3", "--seed", "7")
    found = json.loads(said)
    assert code == 0
    assert set(found) == KEYS
    documented = DataStatistics.as_json.__doc__ or ""
    assert all(f"`{key}`" in documented for key in KEYS)
    assert found["seed"] == 7
    assert found["numbers"]["num_rows"] == found["datasets"][0]["num_rows"] == 16
    assert found["numbers"]["num_trained_tokens"] == 128
    assert 0.5 < found["numbers"]["packing_efficiency"] <= 1
    assert len(found["random"]) == 3
    assert set(found["worst"]) == {"longest", "most_repetitive", "smallest_trained_share"}
    assert set(found["distributions"]) == {
        "length", "trained_tokens", "trained_turns", "trained_share"
    }  # fmt: skip
    text = found["random"][0]["text"]
    assert text.startswith("<|im_start|>system\nAnswer in one sentence.<|im_end|>")


def test_overrides_and_the_evaluation_data_reach_it(write_recipe, stats):
    recipe = write_recipe(data={"eval": [{"source": "./eval.jsonl"}]})
    code, said, _ = stats(recipe, "--part", "eval", "data.packing=false", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["numbers"]["num_rows"] == 4
    assert found["numbers"]["packing_efficiency"] is None
    code, _, errors = stats(write_recipe(name="other.yaml", data={"eval": []}), "--part", "eval")
    assert code == 2
    assert "data.eval: is empty" in errors


def test_of_streamed_data_the_first_rows_are_looked_at_and_it_is_said(write_recipe, stats):
    recipe = write_recipe(data={"streaming": {"buffer_rows": 8}}, checkpoint={"every_steps": 1})
    code, said, errors = stats(recipe, "--json")
    assert code == 0, errors
    assert json.loads(said)["first_rows"] == 1000
    said = stats(recipe, "--samples", "0")[1]
    assert "streamed data: everything here is of the first 1,000 rows of a dataset" in said
    assert "streamed data" not in stats(write_recipe(name="other.yaml"), "--samples", "0")[1]


def test_a_page_is_written_instead(write_recipe, stats, tmp_path):
    page = tmp_path / "shown" / "data.html"
    code, said, errors = stats(write_recipe(), "--html", page)
    assert (code, errors, said) == (0, "", f"{page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    code, _, errors = stats(write_recipe(), "--html", tmp_path / "train.jsonl" / "page.html")
    assert code == 2
    assert "can't be written" in errors


def test_a_wrong_row_is_reported_with_its_line_and_without_a_traceback(
    write_recipe, stats, tmp_path
):
    recipe = write_recipe()
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"text": "no messages"}\n')
    code, said, errors = stats(recipe)
    assert (code, said) == (2, "")
    assert "train.jsonl:17" in errors
    assert "Traceback" not in errors


def test_help_needs_no_torch():
    code = (
        "import sys, framework.cli.data.stats; "
        "print({'torch', 'transformers', 'matplotlib', 'jinja2', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
