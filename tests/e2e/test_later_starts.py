"""A start that goes on with a run trains that run, or is refused; what it may change is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import conversation, read_rows, write_rows
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")

train = partial(framework, "train")


def interrupted(write_recipe: Callable[..., Path], **settings: Any) -> Path:
    """The recipe of a run that goes on after step 2 of 4 when it is started again."""
    recipe = write_recipe(
        **{"model.dtype": "float32", "trainer.max_steps": 4, "checkpoint.every_steps": 2},
        **settings,
    )
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    cut(recipe.parent / "run")
    return recipe


def cut(run: Path) -> None:
    """The run goes on after step 2 of 4."""
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()


def test_a_finished_run_that_is_started_again_says_so_once(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"max_steps": 2})
    first, second = train(recipe), train(recipe)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "is finished" not in first.stderr
    assert second.stderr.count("the run is finished, after step 2") == 1
    assert f"its model is in '{tmp_path / 'run' / 'final'}'" in second.stderr
    assert "after step 2" not in second.stderr.replace("is finished, after step 2", "")
    assert str(tmp_path / "run" / "final") in second.stdout

    # All steps are done, and the model is still to be written.
    shutil.rmtree(tmp_path / "run" / "final")
    third = train(recipe)
    assert "going on after step 2" in third.stderr and "is finished" not in third.stderr
    assert (tmp_path / "run" / "final").is_dir()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.quantization", "bitsandbytes_4bit"),
        ("model.rope_scaling", "{type: linear, factor: 4}"),
        ("trainer.parameter_groups", "[{pattern: '.', learning_rate: 0.5}]"),
        ("trainer.ema", "{}"),
    ],
)
def test_a_section_more_is_another_run_and_the_run_goes_on_without_it(
    write_recipe, tmp_path, key, value
):
    recipe = interrupted(write_recipe, adapter={"type": "lora", "r": 4})
    run = tmp_path / "run"
    before = {name: (run / name).read_bytes() for name in ("settings.json", "resolved.yaml")}
    other = train(recipe, f"{key}={value}")
    assert other.returncode == 3, other.stderr
    assert f"{key}: is " in other.stderr and "Traceback" not in other.stderr
    assert before == {name: (run / name).read_bytes() for name in before}
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stderr


def test_a_recipe_that_was_refused_over_its_data_is_corrected_and_trains(write_recipe, tmp_path):
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as rows:
        rows.write("no JSON\n")
    recipe = write_recipe(**{"trainer.max_steps": 1})
    refused = train(recipe)
    assert refused.returncode == 2, refused.stderr
    corrected = train(recipe, "data.on_bad_row=skip", "tokenizer.add_tokens=['<|new|>']")
    assert corrected.returncode == 0, corrected.stderr
    lock = json.loads((tmp_path / "run" / "lock.json").read_text(encoding="utf-8"))
    assert lock["settings"]["data.on_bad_row"] == "skip"
    assert lock["later_starts"] == []


def evaluated_on_fewer(write_recipe, folder):
    """A recipe whose run was interrupted, its rows, and the start after all but one were lost."""
    recipe = interrupted(
        write_recipe,
        **{
            "data.eval": [{"source": "./eval.jsonl"}],
            "evaluation": {"every_steps": 2, "early_stopping": {}},
            "checkpoint.keep_best": {},
        },
    )
    rows = read_rows(folder / "eval.jsonl")
    write_rows(folder / "eval.jsonl", rows[:1])
    return recipe, rows, train(recipe)


def test_other_evaluation_rows_are_refused_by_name_and_the_run_goes_on_with_the_old_ones(
    write_recipe, tmp_path
):
    recipe, rows, other = evaluated_on_fewer(write_recipe, tmp_path)
    file, run = tmp_path / "eval.jsonl", tmp_path / "run"
    assert other.returncode == 3, other.stderr
    assert "data.eval: row 2 of eval0 is missing; it is the first: 3 rows differ, of 4" in (
        other.stderr
    )
    assert "put the rows back, or " in other.stderr
    rows[1]["messages"][-1]["content"] = "The capital is elsewhere."
    write_rows(file, rows)
    other = train(recipe)
    assert other.returncode == 3, other.stderr
    assert f"data.eval: row 2 of eval0 ({file}:2) is changed" in other.stderr

    # The same rows, as another version of the framework would have prepared them.
    write_rows(file, [conversation(number) for number in range(16, 20)])
    lock = json.loads((run / "lock.json").read_text())
    lock["data"]["parts"]["eval"]["fingerprint"] = "another"
    (run / "lock.json").write_text(json.dumps(lock))
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stderr


def test_a_run_goes_on_without_evaluation_rows_that_are_lost_as_the_refusal_says(
    write_recipe, tmp_path
):
    recipe, rows, other = evaluated_on_fewer(write_recipe, tmp_path)
    file, run = tmp_path / "eval.jsonl", tmp_path / "run"
    assert other.returncode == 3, other.stderr
    way = re.search("lost for good, go on without them: add `(.*)` to the command", other.stderr)
    assert way is not None, other.stderr
    file.unlink()
    none = train(recipe)
    assert none.returncode == 2, none.stderr
    assert "lost goes on without them: add `data.eval=[]`" in none.stderr
    # What depends on them is not given up silently.
    kept = train(recipe, "data.eval=[]")
    assert kept.returncode == 2, kept.stderr
    for key in ("evaluation.early_stopping", "checkpoint.keep_best"):
        assert f"or `{key.partition('.')[2]}: null`" in kept.stderr

    without = train(recipe, *way[1].split())
    assert without.returncode == 0, without.stderr
    assert "going on after step 2" in without.stderr
    said = "not as the run was started: data.eval: was [{"
    assert said in without.stderr and said in (run / "log.txt").read_text()
    (later,) = json.loads((run / "lock.json").read_text())["later_starts"]
    assert later["settings"]["data.eval"]["is"] == "[]"
    assert json.loads((run / "result.json").read_text())["eval_loss"] is None

    # Found again.
    cut(run)
    write_rows(file, rows)
    found = train(recipe)
    assert found.returncode == 0, found.stderr
    assert json.loads((run / "result.json").read_text())["eval_loss"] is not None
    cut(run)
    write_rows(tmp_path / "other.jsonl", rows[:2])
    other = train(recipe, f"data.eval=[{{source: '{tmp_path / 'other.jsonl'}'}}]")
    assert other.returncode == 3 and "data.eval" in other.stderr


def test_another_row_of_the_training_data_is_refused_by_name(write_recipe, tmp_path):
    recipe = interrupted(write_recipe)
    file = tmp_path / "train.jsonl"
    rows = read_rows(file)
    rows[4]["messages"][-1]["content"] = "The capital is elsewhere."
    write_rows(file, rows)
    other = train(recipe)
    assert other.returncode == 3, other.stderr
    assert f"data.train: row 5 of train0 ({file}:5) is changed" in other.stderr


def evaluator(**settings: int) -> str:
    """An override that asks the model."""
    written = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"evaluation.evaluators=[{{type: exact_match, {written}}}]"


def shown(said: str) -> str:
    """The tables of before and after, without their frames."""
    return " ".join(re.sub(r"[^\w%.,:<|>?-]+", " ", said).split())


def test_what_evaluators_found_is_compared_with_what_was_asked_in_the_same_way_alone(
    write_recipe, tmp_path
):
    recipe = interrupted(
        write_recipe,
        **{
            "data.test": [{"source": "./eval.jsonl"}],
            "evaluation.evaluators": [
                {"type": "exact_match", "num_rows": 2, "max_new_tokens": 4},
                {"type": "exact_match", "num_rows": 3, "max_new_tokens": 4},
            ],
        },
    )
    run = tmp_path / "run"
    before = (run / "evaluations_before.json").read_bytes()
    more = train(recipe, evaluator(num_rows=4, max_new_tokens=8))
    assert more.returncode == 0, more.stderr
    alone = "evaluation.evaluators[0]: exact_match was not asked so before training"
    assert alone in more.stderr
    assert "exact_match on 4 held-out requests base model fine-tuned exact_match - 0.0%" in shown(
        more.stdout
    )
    assert (run / "evaluations_before.json").read_bytes() == before
    report = re.sub("<[^>]+>", "", (run / "report.html").read_text())
    assert "0.0 % → –" in report and "– → 0.0 %" in report  # noqa: RUF001 - dashes

    # Another length of the answers is not to be seen in them.
    cut(run)
    longer = train(recipe, evaluator(num_rows=2, max_new_tokens=8))
    assert longer.returncode == 0 and alone in longer.stderr
    assert "exact_match - 0.0%" in shown(longer.stdout)

    # The second of then is the first of now.
    cut(run)
    second = train(recipe, evaluator(num_rows=3, max_new_tokens=4))
    assert second.returncode == 0 and alone not in second.stderr
    assert "on 3 held-out requests base model fine-tuned exact_match 0.0% 0.0%" in shown(
        second.stdout
    )

    # A version that didn't write down how it asked; and other rows.
    cut(run)
    written = json.loads(before)
    for one in written:
        del one["evaluator"]
    (run / "evaluations_before.json").write_text(json.dumps(written))
    of_old = train(recipe, evaluator(num_rows=3, max_new_tokens=4))
    assert of_old.returncode == 0 and "exact_match 0.0% 0.0%" in shown(of_old.stdout)
    cut(run)
    (run / "evaluations_before.json").write_bytes(before)
    rows = read_rows(tmp_path / "eval.jsonl")
    write_rows(tmp_path / "eval.jsonl", rows[::-1])
    other = train(recipe, evaluator(num_rows=3, max_new_tokens=4))
    assert other.returncode == 0 and "exact_match - 0.0%" in shown(other.stdout)
    assert "evaluation.evaluators[0]: data.test had other rows before training" in other.stderr
    assert "data.test had other rows" not in of_old.stderr


def test_after_a_shortage_of_memory_a_run_goes_on_with_smaller_passes(write_recipe, tmp_path):
    lora = {"type": "lora", "r": 2, "lora_dropout": 0.1}
    recipe = interrupted(write_recipe, adapter=lora)
    again = train(recipe, "trainer.micro_batch_size=1")
    assert again.returncode == 0, again.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "not as the run was started: trainer.micro_batch_size: was auto, is 1" in log
    assert "trainer.micro_batch_size: dropout is drawn for each forward pass" in log
    assert "micro-batches of 1, 2 a step" in log
    back = train(recipe)
    assert back.returncode == 0 and "dropout is drawn" not in back.stderr


def test_what_a_later_start_may_change_is_said_locked_and_shown_by_replay(write_recipe, tmp_path):
    recipe = interrupted(write_recipe, **{"tracking.log_steps": 1})
    run = tmp_path / "run"
    changes = {
        "trainer.on_nan": ("stop", "skip"),
        "trainer.loss_spike": ("none", "{factor: 3.0, window: 100, then: stop}"),
        "strategy.type": ("ddp", "fsdp"),
        "checkpoint.every_steps": ("2", "1"),
    }
    again = train(
        recipe,
        "trainer.on_nan=skip",
        "trainer.loss_spike={}",
        "strategy=fsdp",
        "checkpoint.every_steps=1",
    )
    assert again.returncode == 0, again.stderr
    log = (run / "log.txt").read_text()
    for key, (was, now) in changes.items():
        assert f"not as the run was started: {key}: was {was}, is {now}" in again.stderr
        assert f"not as the run was started: {key}: was {was}, is {now}" in log
    assert "not as the run was started: checkpoint.every_epochs" not in log
    # Back to what it was: nothing is said, and the first start stays what the others are held to.
    cut(run)
    back = train(recipe)
    assert back.returncode == 0 and "not as the run was started" not in back.stderr
    lock = json.loads((run / "lock.json").read_text())
    assert lock["settings"]["trainer.on_nan"] == "stop"
    assert lock["later_starts"] == [
        {"settings": {key: {"was": was, "is": now} for key, (was, now) in changes.items()}},
        {},
    ]
    # As it was written before settings were, and what else a start may find changed.
    lock["later_starts"].append({"hardware": {"num_processes": 2}})
    (run / "lock.json").write_text(json.dumps(lock))
    said = framework("replay", run, "--steps", 2).stdout
    first, second, third = (line for line in said.splitlines() if "and went on; what" in line)
    assert first.endswith(
        "; ".join(f"setting {key}: was {a}, is {b}" for key, (a, b) in changes.items())
    )
    assert second.endswith("what had changed then: nothing")
    assert third.endswith("what had changed then: hardware num_processes: was 1, is 2")
