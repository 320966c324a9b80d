"""The report tells everything that the run directory holds, and nothing runs or loads in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_files import (
    counts,
    evaluation,
    metric_rows,
    setting,
    write_json,
    write_lines,
    write_run,
)

from framework.reports.run_record import read_run
from framework.reports.run_report import write_report
from framework.reports.run_sections import charts

LOADING_ATTRIBUTES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """The page's tags, its text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is in the wrong place"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_report_tells_the_whole_run(tmp_path: Path) -> None:
    write_run(tmp_path / "my-run")
    text = report(tmp_path / "my-run").text
    for fact in (
        "my-run",
        "finished",
        "lora · sft · tiny",
        "25.0 % → 75.0 %",
        "60",
        "3 min 12 s",
        "1,250",  # 240,000 tokens in 192 seconds
        "240.0 k tokens, 25.0 % trained",
        "2.371 → 0.5366 lowest 0.5366 at step 60",
        "lowest evaluation loss 0.75 at step 30",
        "4.0 % of 1.0 M",
        "98.8 % of each pack is filled",
        "chats",
        "2 over length",
        "train.jsonl:7: has no `messages`",
        "answer at 30",
        "/models/tiny",
        "recipe.yaml:4:3",
        "What adapter.type does.",
        "Keys left at their defaults: 1",
        "packages.torch 2.9.0",
        "hidden matrices 112 40,123 0.00025 0.125",
    ):
        assert fact in text, fact
    assert "not finished" not in text
    assert "can't be read" not in text


def test_each_quantity_has_its_curve(tmp_path: Path) -> None:
    write_run(tmp_path)
    labels = [tag[1]["aria-label"] for tag in report(tmp_path).tags if tag[0] == "svg"]
    assert labels == [
        "Loss",
        "Loss, narrow",
        "Learning rate",
        "Gradient norm",
        "Tokens per second",
        "Peak memory",
        "Lengths of train",
    ]


def test_the_report_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = report(tmp_path)
    names = {tag for tag, _ in page.tags}
    assert len(page.tags) > 200
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name in LOADING_ATTRIBUTES & attributes.keys():
            assert (attributes[name] or "").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|https?://|url\((?!#)", html)


def test_ids_in_the_page_are_unique(tmp_path: Path) -> None:
    write_run(tmp_path)
    ids = [attributes["id"] for _, attributes in report(tmp_path).tags if "id" in attributes]
    assert len(ids) > 7
    assert len(ids) == len(set(ids))


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">\'"&amp;{{ 7 * 7 }}'


def test_whatever_the_data_holds_is_shown_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "run <i>"
    write_run(folder)
    hostile = evaluation("--", said=HOSTILE)
    hostile["metric"] = HOSTILE
    hostile["answers"][0]["prompt"] = HOSTILE
    write_json(folder / "evaluations_after.json", [hostile])
    write_lines(folder / "generations.jsonl", [{"step": 1, "row": 0, "answer": HOSTILE}])
    write_lines(folder / "samples.jsonl", [{"step": n, "ids": [HOSTILE]} for n in range(61)])
    write_json(folder / "provenance.json", [setting(HOSTILE, HOSTILE, HOSTILE)])
    write_json(folder / "environment.json", {HOSTILE: HOSTILE})
    dataset = counts(HOSTILE, skipped_rows=[HOSTILE])
    histogram = {"edges": [0, 1], "counts": [1]}
    part = {"datasets": [dataset], "packing_efficiency": None, "length_histogram": histogram}
    write_json(folder / "preparation.json", {HOSTILE: part})
    write_json(folder / "result.json", {"final_dir": HOSTILE})
    page = report(folder)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count(HOSTILE) >= 12


def test_an_empty_folder_has_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    text = report(tmp_path).text
    for statement in (
        "not finished",
        "No training step was logged.",
        "The run left no numbers about its data",
        "No evaluator asked the model.",
        "The run left no record of its settings",
        "The run left no record of where it ran",
    ):
        assert statement in text


WRONG_TYPES = """[{"metric": "m", "value": 0.5, "answers": [{"prompt": 1, "expected": [],
"answer": {}, "correct": "no"}], "num_steps": "many", "step": "x", "loss": []}]"""
FILES = (
    "metrics.jsonl",
    "provenance.json",
    "environment.json",
    "preparation.json",
    "plan.json",
    "evaluations_before.json",
    "evaluations_after.json",
    "generations.jsonl",
    "result.json",
)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_leaves_the_rest_of_the_report(tmp_path: Path, name: str) -> None:
    write_run(tmp_path)
    (tmp_path / name).unlink()
    text = report(tmp_path).text
    assert "can't be read" not in text
    assert "Configuration" in text


@pytest.mark.parametrize(
    "broken", ["{", "[]", "7", '"text"', '[{"a": 1}]', '{"train": {}}', "\0", WRONG_TYPES]
)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named_or_left_empty_but_never_ends_the_report(
    tmp_path: Path, name: str, broken: str
) -> None:
    write_run(tmp_path)
    (tmp_path / name).write_text(broken, encoding="utf-8")
    text = report(tmp_path).text
    if broken == "{":
        assert f"{name}" in text
        assert "can't be read" in text


def test_numbers_that_are_texts_are_left_out_of_the_headline(tmp_path: Path) -> None:
    write_run(tmp_path)
    names = ("num_steps", "training_seconds", "num_parameters", "num_trained_parameters")
    write_json(tmp_path / "result.json", dict.fromkeys(names, "many"))
    text = report(tmp_path).text
    assert "optimizer steps 60" in text
    assert "training time" not in text
    assert "many" not in text


def test_a_last_line_cut_short_is_said_and_the_others_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 61, "lo')
    text = report(tmp_path).text
    assert "metrics.jsonl: line 63 can't be read and is left out" in text
    assert "2.371 → 0.5366" in text


def test_lines_that_are_no_objects_cost_only_themselves(tmp_path: Path) -> None:
    write_run(tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("7\n" + metrics.read_text(encoding="utf-8") + "[]\n", encoding="utf-8")
    text = report(tmp_path).text
    assert "metrics.jsonl: 2 lines can't be read and are left out" in text
    assert "2.371 → 0.5366" in text


def test_a_line_separator_inside_of_an_answer_ends_no_line(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_lines(
        tmp_path / "generations.jsonl",
        [{"step": step, "row": 0, "answer": f"a\u2028b\x85c {step}"} for step in (1, 2)],
    )
    text = report(tmp_path).text
    assert "c 2" in text
    assert "can't be read" not in text


def test_wrong_answers_come_first_and_twenty_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_json(tmp_path / "evaluations_before.json", [evaluation("-" * 29 + "+")])
    write_json(tmp_path / "evaluations_after.json", [evaluation("+" * 27 + "---", said="Hm.")])
    page = report(tmp_path)
    classes = [a.get("class") or "" for tag, a in page.tags if tag == "article"]
    shown = [name.split()[-1] for name in classes if "answer" in name]
    assert shown == ["wrong"] * 3 + ["right"] * 17
    assert "27 learned, 1 lost, of 30. 20 are shown, wrong ones first." in page.text


def test_answers_to_other_requests_are_not_put_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path)
    other = evaluation("+---")
    other["metric"] = "other"
    write_json(tmp_path / "evaluations_before.json", [other])
    text = report(tmp_path).text
    assert "25.0 % → –" in text  # noqa: RUF001 - a dash
    assert "– → 75.0 %" in text  # noqa: RUF001 - a dash


def test_values_from_the_environment_are_not_shown(tmp_path: Path) -> None:
    origin = "/somewhere/recipe.yaml:9:5, from ${oc.env:TOKEN}"
    write_json(
        tmp_path / "provenance.json", [setting("tracking.trackers[0].token", "s3cr3t", origin)]
    )
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "s3cr3t" not in html
    assert "from the environment, not shown" in html


def test_a_run_without_evaluations_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path)
    rows = [row for row in metric_rows(60) if "loss" in row]
    write_lines(tmp_path / "metrics.jsonl", rows)
    text = report(tmp_path).text
    assert "2.371 → 0.5366" in text
    assert "evaluation loss" not in text


def test_a_run_of_one_step_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_lines(tmp_path / "metrics.jsonl", metric_rows(60)[:1])
    assert "training loss 2.371 at step 1" in report(tmp_path).text


def test_code_in_the_documentation_of_a_key_looks_like_code(tmp_path: Path) -> None:
    entry = {**setting("a", "b"), "documentation": "Say `x: <1>` or `y`."}
    write_json(tmp_path / "provenance.json", [entry])
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Say <code>x: &lt;1&gt;</code> or <code>y</code>." in html


def test_the_steps_with_the_largest_gradients_name_their_rows(tmp_path: Path) -> None:
    write_run(tmp_path)
    rows = metric_rows(60)
    next(row for row in rows if row["step"] == 37)["grad_norm"] = 99.0
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert "37 99 0.6697 train0:37" in report(tmp_path).text


def test_values_that_are_not_numbers_are_counted(tmp_path: Path) -> None:
    rows = metric_rows(60)
    rows[5]["loss"] = float("nan")
    rows[6]["loss"] = float("inf")
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert "2 logged values are not numbers and not drawn" in report(tmp_path).text


def test_the_report_of_a_long_run_stays_small(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=30_000)
    many = list(range(1000))
    long = counts("chats", skipped_rows=[f"row {n}: " + "x" * 200 for n in many])
    part = {"datasets": [long] * 4, "packing_efficiency": 0.9}
    write_json(tmp_path / "preparation.json", {"train": part, "eval": part})
    endless = evaluation("-" * 100, said="x" * 100_000)
    write_json(tmp_path / "evaluations_after.json", [endless])
    path = write_report(tmp_path)
    assert path.stat().st_size < 2_000_000
    assert "and 98,000 more characters" in path.read_text(encoding="utf-8")


def test_the_report_reads_only_the_run_directory(tmp_path: Path) -> None:
    write_run(tmp_path / "run-a")
    write_run(tmp_path / "run-b")
    first = write_report(tmp_path / "run-a").read_text(encoding="utf-8")
    second = write_report(tmp_path / "run-b").read_text(encoding="utf-8")
    assert first.replace("run-a", "run-b") == second


def test_writing_the_report_again_replaces_it(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = write_report(tmp_path)
    path.write_text("old", encoding="utf-8")
    assert write_report(tmp_path) == path
    assert "finished" in path.read_text(encoding="utf-8")
    assert not [other for other in tmp_path.iterdir() if other.name.startswith(".")]


def test_metrics_that_only_the_trainer_has_get_a_curve_of_both_kinds(tmp_path: Path) -> None:
    rows = metric_rows(6)
    for row in rows:
        prefix = "eval_" if "eval_loss" in row else ""
        row[f"{prefix}reward_accuracy"] = 0.25 + row["step"] / 10
    write_lines(tmp_path / "metrics.jsonl", rows)
    first, *_, last = charts(read_run(tmp_path))
    assert (first.title, last.title) == ("Loss", "Reward accuracy")
    assert last.note == "last 0.85, last evaluation 0.85"
