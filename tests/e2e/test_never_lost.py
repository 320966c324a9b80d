"""What a run has reached stays: which checkpoints are kept, when it ends, what it leaves out."""

from __future__ import annotations

import json
import os
import time
from functools import partial

import pytest
from conftest import read_rows
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")


train = partial(framework, "train")


def test_the_last_the_best_and_every_nth_checkpoint_stay(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"eval": [{"source": "./eval.jsonl"}]},
        trainer={"max_steps": 7, "learning_rate": 0.02},
        # The loss only falls: the largest is one that no other rule keeps.
        checkpoint={
            "every_steps": 1,
            "keep_last": 1,
            "keep_every": 3,
            "keep_best": {"mode": "max"},
        },
        evaluation={"every_steps": 1},
    )
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    best = max(losses, key=lambda step: losses[step])
    kept = {int(path.name[-8:]) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert (kept, best) == ({1, 3, 6, 7}, 1)

    unknown = train(recipe, f"output.dir={tmp_path / 'b'}", "checkpoint.keep_best.metric=eval_los")
    assert unknown.returncode == 2
    assert "evaluation has no 'eval_los'; did you mean 'eval_loss'?" in unknown.stderr
    corrected = train(recipe, f"output.dir={tmp_path / 'b'}")
    assert corrected.returncode == 0, corrected.stderr
    assert "going on after step 1" in corrected.stderr


def test_the_final_model_is_the_best_one_where_the_recipe_says_so(write_recipe, tmp_path):
    from safetensors.torch import load_file

    recipe = write_recipe(
        data={"eval": [{"source": "./eval.jsonl"}]},
        # Such steps only make it worse.
        trainer={"max_steps": 5, "learning_rate": 0.3, "lr_scheduler_type": "constant", "ema": {}},
        checkpoint={"every_steps": 1, "keep_last": 9, "keep_best": {}},
        evaluation={"every_steps": 1},
        output={"final": "best"},
    )
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "run"
    rows = [row for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
    best = min(rows, key=lambda row: row["eval_loss"])
    assert best["step"] < 5
    says = f"the model after step {best['step']} of 5, the best checkpoint: eval_loss "
    says += f"{best['eval_loss']:.4f}"
    result = json.loads((run / "result.json").read_text())
    assert (result["final_step"], result["final_model"]) == (best["step"], says)
    assert says in (run / "report.html").read_text()
    assert says in " ".join((run / "final" / "README.md").read_text().split())
    # The average that was evaluated, not the weights that it is of.
    checkpoint = run / "checkpoints" / f"step-{best['step']:08d}"
    average = load_file(checkpoint / "average-00000.safetensors")
    final = load_file(run / "final" / "model.safetensors")
    assert average.keys() == final.keys()
    for name, weight in final.items():
        assert weight.flatten().equal(average[name].to(weight.dtype)), name

    last = train(recipe, f"output.dir={tmp_path / 'last'}", "output.final=last")
    assert last.returncode == 0, last.stderr
    card = (tmp_path / "last" / "final" / "README.md").read_text()
    assert "this is the model after step 5, the last one" in card
    # Another choice is no other run.
    other = train(recipe, "output.final=last")
    assert other.returncode == 0, other.stderr
    weights = [
        (one / "final" / "model.safetensors").read_bytes() for one in (run, tmp_path / "last")
    ]
    assert weights[0] == weights[1]


def test_the_best_of_steps_that_are_not_both_saved_and_evaluated_is_refused(write_recipe, tmp_path):
    recipe = write_recipe(
        # Epochs of 4 steps, after each of which a checkpoint is saved.
        data={"eval": [{"source": "./eval.jsonl"}], "packing": False},
        trainer={"global_batch_size": 4, "max_steps": 12},
        checkpoint={"keep_best": {}},
        evaluation={"every_steps": 3},
        output={"final": "best"},
    )
    says = "checkpoint.keep_best: a checkpoint each 4 steps is not evaluated each 3 in a run of 12"
    refused = train(recipe)
    assert refused.returncode == 2, refused.stderr
    assert f"{says}; write evaluation.every_steps: 4" in refused.stderr
    assert f"{recipe}:" in refused.stderr
    planned = framework("plan", recipe)
    assert planned.returncode == 2, planned.stderr
    assert says in planned.stderr
    kept = train(recipe, "+checkpoint.keep_every=7", "evaluation.every_steps=4")
    assert kept.returncode == 2, kept.stderr
    assert "checkpoint.keep_every: a checkpoint each 4 steps is not saved after each 7" in (
        kept.stderr
    )
    assert "write keep_every: 8" in kept.stderr
    corrected = train(recipe, "evaluation.every_steps=4")
    assert corrected.returncode == 0, corrected.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["final_step"] in {4, 8, 12}

    short = [f"output.dir={tmp_path / 'short'}", "trainer.max_steps=3"]
    only = train(recipe, *short)
    assert only.returncode == 0, only.stderr
    assert "best checkpoint: the one of the last step, the only one that is saved" in only.stderr


def test_a_warmup_that_outlasts_the_run_is_said(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"lr_scheduler_type": "polynomial", "warmup_steps": 1000})
    says = "trainer.warmup_steps: a warm-up of 1,000 steps is longer than the run's 3"
    checked = framework("check", recipe)
    assert (checked.returncode, says in checked.stderr) == (0, True), checked.stderr
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count(says) == 1
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert rates == pytest.approx([0, 1e-3 / 3, 2e-3 / 3])

    epochs = ["trainer.max_steps=null", "+trainer.num_train_epochs=1", "trainer.warmup_steps=99"]
    other = train(recipe, *epochs, f"output.dir={tmp_path / 'epochs'}")
    assert other.returncode == 0, other.stderr
    assert other.stderr.count("a warm-up of 99 steps is longer than the run's") == 1


@pytest.mark.parametrize("limit", ["minutes", "slurm"])
def test_a_run_saves_before_its_time_is_over_and_goes_on_later(write_recipe, tmp_path, limit):
    recipe = write_recipe(
        trainer={"max_steps": 100_000, "lr_scheduler_type": "constant"},
        checkpoint={"every_steps": 100_000},
    )
    environment, overrides = dict(os.environ), list[str]()
    if limit == "slurm":
        environment["SLURM_JOB_END_TIME"] = str(int(time.time()) + 15)
    else:
        overrides = ["trainer.time_limit_minutes=0.2"]
    end = time.monotonic() + (15 if limit == "slurm" else 12)
    ended = train(recipe, *overrides, env=environment)
    assert time.monotonic() < end, "it left before the limit"
    assert ended.returncode == 75, ended.stderr
    assert "stopped before the end of" in ended.stderr
    assert "start the same command again to go on" in ended.stderr
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    reached = int(saved.name[-8:])
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == reached > 1
    # Another limit is no other run. One that is over already leaves time for one step a start.
    again = train(recipe, "trainer.time_limit_minutes=0.01")
    assert again.returncode == 75, again.stderr
    assert f"after step {reached + 1};" in again.stderr


def test_too_little_memory_is_told_without_a_traceback(write_recipe):
    """So little that not even the plan can be made again."""
    ended = train(write_recipe(adapter={"type": "lora", "r": 4_000_000_000}))
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    told = ended.stderr[ended.stderr.index("out of memory (rank 0 on cpu): ") :]
    assert "tried to allocate" in told
    assert "`framework plan` says what needs less" in told
