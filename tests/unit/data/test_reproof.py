"""`framework preview --prove` proves what is on disk from scratch, and names what is not right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.__main__ import main
from framework.data.prepared import PreparedData, prepare_data
from framework.data.reproof import Reproof, reprove
from framework.data.store import Store
from framework.proofs.findings import RULES
from framework.recipe.resolve import resolve

Prove = Callable[..., tuple[int, str]]


@pytest.fixture
def prove(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prove:
    """Runs the command; returns its exit code and what it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        command = ["framework", "preview", *map(str, arguments), "--prove"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    return run


def talk(*contents: str, **last: object) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return {"messages": [*messages[:-1], {**messages[-1], **last}]}


def add_rows(tmp_path: Path, *rows: dict[str, Any]) -> None:
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def test_good_data_is_proven_in_one_paragraph(write_recipe, prove: Prove):
    code, text = prove(write_recipe())
    assert code == 0, text
    assert text.startswith("Proven: all 16 rows were read, rendered and tokenized again")
    assert "16 documents on disk" in text
    assert text.count("\n") == 1


def test_good_data_has_numbers_and_no_problems(write_recipe, prove: Prove):
    code, text = prove(write_recipe(), "--json")
    report = json.loads(text)
    assert code == 0
    assert report["problems"] == []
    assert (report["num_rows"], report["num_truncated_rows"]) == (16, 0)
    assert report["num_trained_tokens"] > 100
    assert 0 < report["packing_efficiency"] <= 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.turns=each"],
        ["data.train_on=[user,assistant]"],
        ["data.packing=false"],
        ["data.max_length=24", "data.over_length=windows"],
        ["data.max_length=24", "data.over_length=truncate"],
        ["data.max_length=40", "data.over_length=drop"],
        ["tokenizer.backend=kitoken"],
    ],
    ids=str,
)
def test_good_data_of_every_kind_is_proven(write_recipe, prove: Prove, tmp_path: Path, overrides):
    add_rows(tmp_path, talk("Well?", "Yes."), talk("One?", "Uno.", "Two?", "Due."))
    code, text = prove(write_recipe(), "--json", *overrides)
    assert code == 0, text
    assert json.loads(text)["problems"] == []


def test_an_answer_that_the_recipe_cuts_is_counted_and_no_fault(
    write_recipe, prove: Prove, tmp_path: Path
):
    add_rows(tmp_path, talk("Say it.", "long " * 200))
    overrides = ["data.over_length=truncate"]
    code, text = prove(write_recipe(), *overrides)
    assert code == 0, text
    assert "1 of them are answers that the recipe's `data.over_length` cuts" in text
    (counts,) = prepare_data(resolve(write_recipe(), overrides)).train.details["datasets"]
    assert (counts["num_cut_answers"], counts["cut_answer_rows"]) == (1, [17])


def test_a_row_that_trains_nothing_is_left_out_and_said(write_recipe, prove: Prove, tmp_path: Path):
    add_rows(tmp_path, talk("Say it.", "no", train=False))
    code, text = prove(write_recipe())
    assert code == 0, text
    assert "1 rows train nothing" in text


def test_rows_that_are_refused_are_all_listed_with_their_rule(
    write_recipe, prove: Prove, tmp_path: Path
):
    forged = talk("Say <|im_end|> now", "x")
    add_rows(tmp_path, {"messages": "x"}, *[forged] * 30, talk("Say it.", "long " * 200))
    code, text = prove(write_recipe(), "--json")
    assert code == 2
    report = json.loads(text)
    assert report["num_rows"] is None
    assert [(one["dataset"], one["row"]) for one in report["problems"]] == [
        ("train0", row) for row in range(17, 49)
    ]
    assert {one["rule"] for one in report["problems"]} == {"refused"}
    assert "<|im_end|>" in report["problems"][1]["detail"]
    code, text = prove(write_recipe())
    assert code == 2
    assert text.startswith("Not proven: 32 faults in 48 rows.\n  train0:17: refused: ")
    assert "and 12 more" in text


def test_rows_that_are_skipped_are_no_fault(write_recipe, prove: Prove, tmp_path: Path):
    add_rows(tmp_path, {"messages": "x"})
    code, text = prove(write_recipe(), "data.on_bad_row=skip")
    assert code == 0, text
    assert "1 rows do not fit and are skipped." in text


def test_what_is_wrong_with_the_recipe_is_said_as_ever(write_recipe, prove: Prove, tmp_path: Path):
    (tmp_path / "train.jsonl").unlink()
    code, text = prove(write_recipe(), "--json")
    assert code == 2
    assert "train.jsonl" in json.loads(text)["problems"][0]["what"]


# ---- data that was damaged, or that its rows no longer become


def copied(data: PreparedData, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(data.train.folder, tmp_path / "store")))


def reproved(recipe: Path, store: Store, *overrides: str) -> Reproof:
    resolved = resolve(recipe, overrides)
    return reprove(resolved, "train", prepare_data(resolved).lazy_chat, store)


def found(proof: Reproof) -> list[tuple[str | None, int | None, str]]:
    return [(one.dataset, one.row, one.rule) for one in proof.problems]


def damage(store: Store, name: str, dtype: str, place: int, value: int) -> None:
    path = store.folder / f"{name}.bin"
    array = np.fromfile(path, dtype=dtype)
    array[place] = value
    array.tofile(path)


@pytest.mark.parametrize("which", ["stop", "prompt", "token"])
def test_one_wrong_number_in_the_arrays_is_found_with_its_row(write_recipe, tmp_path, which: str):
    recipe = write_recipe()
    store = copied(prepare_data(resolve(recipe)), tmp_path)
    trained = np.fromfile(store.folder / "trained.bin", dtype="<u1")
    start = int(store.arrays["document_ends"][3])
    first = start + int(np.flatnonzero(trained[start:])[0])
    stop = first + int(np.flatnonzero(trained[first:] == 0)[0])
    if which == "token":
        damage(store, "tokens", "<u4", first, 40)
    else:
        place = {"stop": stop - 1, "prompt": first - 1}[which]
        damage(store, "trained", "<u1", place, which == "prompt")
    rule = {"stop": "stop", "prompt": "leak", "token": "tokens"}[which]
    assert found(reproved(recipe, Store(store.folder)))[0] == ("train0", 5, rule)


def test_a_row_that_changed_after_preparation_is_found(write_recipe, tmp_path: Path):
    recipe = write_recipe()
    store = copied(prepare_data(resolve(recipe)), tmp_path)
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text().replace("Madrid", "Sevilla", 1))
    proof = reproved(recipe, store)
    assert found(proof) == [("train0", 3, "tokens")]
    assert "Madrid" in proof.problems[0].detail


def test_a_template_that_changed_after_preparation_is_found(write_recipe, tmp_path: Path):
    recipe = write_recipe()
    store = copied(prepare_data(resolve(recipe)), tmp_path)
    turn = "{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}"
    (tmp_path / "t.jinja").write_text(
        f"{{% for m in messages %}}{turn}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    proof = reproved(recipe, store, f"tokenizer.chat_template={tmp_path / 't.jinja'}")
    assert found(proof) == [("train0", row, "tokens") for row in range(1, 17)]


def test_a_row_that_is_gone_or_new_is_found(write_recipe, tmp_path: Path):
    recipe = write_recipe()
    store = copied(prepare_data(resolve(recipe)), tmp_path)
    path = tmp_path / "train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert ("train0", 16, "stale") in found(reproved(recipe, store))
    path.write_text("".join([*lines, lines[0]]))
    assert found(reproved(recipe, store)) == [("train0", 17, "documents")]


def test_another_cut_than_the_recipes_is_found(write_recipe, tmp_path: Path):
    recipe = write_recipe()
    add_rows(tmp_path, talk("Say it.", "long " * 200))
    windows = prepare_data(resolve(recipe, ["data.over_length=windows"]))
    store = copied(windows, tmp_path)
    proof = reproved(recipe, store, "data.over_length=truncate")
    assert found(proof)[0] == ("train0", 17, "stale")
    assert "becomes 1" in proof.problems[0].detail


def test_a_row_that_trains_nothing_and_is_not_listed_is_found(write_recipe, tmp_path: Path):
    recipe = write_recipe()
    add_rows(tmp_path, talk("Say it.", "no", train=False))
    store = copied(prepare_data(resolve(recipe)), tmp_path)
    path = store.folder / "details.json"
    details = json.loads(path.read_text())
    details["datasets"][0].update(num_untrained_rows=0, untrained_rows=[])
    path.write_text(json.dumps(details))
    assert found(reproved(recipe, store)) == [(None, None, "zero_trained")]


def test_every_rule_that_is_reported_says_what_it_demands():
    assert {"stale", "refused"} <= set(RULES)
    assert all(text and not text.endswith(".") for text in RULES.values())
