"""Whole runs of the kinds that recipes can ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import read_rows, samples_of_steps
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")


def train(recipe: Path, *overrides: str) -> str:
    ended = framework("train", recipe, *overrides)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]


def test_raw_text_is_learned_with_every_token_trained(write_recipe, tmp_path):
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst.\n" * 40)
    recipe = write_recipe(
        data={
            "train": [{"source": "./book.txt", "format": "completion"}],
            "over_length": "windows",
            "max_length": 64,
        },
        trainer={"type": "pretrain", "max_steps": 30, "learning_rate": 1e-2},
    )
    train(recipe)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert losses(tmp_path / "run")[-1] < 0.3 * losses(tmp_path / "run")[0]
    untrained = rows[-1]["num_tokens"] - rows[-1]["num_trained_tokens"]
    assert untrained < 0.05 * rows[-1]["num_tokens"], "only a document's first token is untrained"


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_gradient_checkpointing_changes_memory_and_not_the_numbers(write_recipe, tmp_path, adapter):
    recipe = write_recipe(adapter={"type": adapter}, model={"dtype": "float32"})
    train(recipe, f"output.dir={tmp_path / 'plain'}")
    train(recipe, f"output.dir={tmp_path / 'saved'}", "model.gradient_checkpointing=true")
    assert losses(tmp_path / "saved") == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)


def test_a_run_that_no_longer_improves_ends_early(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"eval": [{"source": "./eval.jsonl"}]},
        trainer={"max_steps": 50, "learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": None},
        evaluation={"every_steps": 2, "early_stopping": {"patience": 2, "min_delta": 100.0}},
    )
    assert "stopped early at step 6" in train(recipe)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval_loss" in row] == [2, 4, 6]
    train(recipe)  # started again, it stays ended
    assert json.loads((tmp_path / "run" / "result.json").read_text())["num_steps"] == 6
    assert (tmp_path / "run" / "final").is_dir()


def test_answers_before_on_the_way_and_after_are_kept(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"test": [{"source": "./eval.jsonl"}]},
        evaluation={
            "every_epochs": 0.5,
            "num_generations": 2,
            "max_new_tokens": 4,
            "evaluators": [{"type": "exact_match", "num_rows": 3, "max_new_tokens": 4}],
        },
        trainer={"max_steps": 8, "global_batch_size": 1},
    )
    said = " ".join(train(recipe).split())
    assert "exact_match on 3 held-out requests" in said
    run = tmp_path / "run"
    for when in ("before", "after"):
        (found,) = json.loads((run / f"evaluations_{when}.json").read_text())
        assert len(found["answers"]) == 3
        assert found["answers"][0]["expected"].startswith("The capital of")
    generations = read_rows(run / "generations.jsonl")
    assert {row["row"] for row in generations} == {0, 1}
    assert generations[-1]["step"] == 8
    report = (run / "report.html").read_text()
    assert "The capital of" in report


def test_processes_without_a_sample_of_the_last_batch_take_part(write_recipe, launched, tmp_path):
    """Five samples in batches of four: the second step has one, for the first process."""
    recipe = write_recipe(
        data={"packing": False, "train": [{"source": "./train.jsonl", "rows": ":5"}]},
        model={"dtype": "float32"},
        trainer={"global_batch_size": 4, "micro_batch_size": 2, "max_steps": 6},
    )
    launched(recipe, f"output.dir={tmp_path / 'one'}")
    launched(recipe, f"output.dir={tmp_path / 'two'}", num_processes=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert [len(row["ids"]) for row in read_rows(tmp_path / "two" / "samples.jsonl")] == [4, 1] * 3


def test_a_run_resumes_on_another_number_of_processes(write_recipe, launched, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={"packing": False},
        trainer={"global_batch_size": 4, "max_steps": 8, "lr_scheduler_type": "constant"},
        checkpoint={"every_steps": 4},
    )
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    launched(recipe, f"output.dir={whole}")
    launched(recipe, f"output.dir={moved}")
    # Without its newest checkpoint the run goes on after step 4.
    (moved / "checkpoints" / "step-00000008" / "manifest.json").unlink()
    launched(recipe, f"output.dir={moved}", num_processes=2)
    assert losses(moved) == pytest.approx(losses(whole), rel=1e-5)
    assert samples_of_steps(moved) == samples_of_steps(whole)
    assert (moved / "checkpoints" / "damaged-step-00000008-1").is_dir()
