"""No step is taken on a batch whose loss is no number, or a spike, and a run goes on without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import conversation, read_rows, write_rows
from runs_in_processes import SAME, launch_together
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")

BAD_ROW = "train0:6"
MAX_STEPS = 12


train = partial(framework, "train")


@pytest.fixture
def poisoned(write_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    """A recipe one of whose rows has a weight that no float32 sum can hold; 8 steps an epoch."""
    rows = [{**conversation(number), "weight": 1.0} for number in range(16)]
    rows[5]["weight"] = 3e38
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={
            "train": [{"source": "./train.jsonl", "loss_weight_column": "weight"}],
            "packing": False,
        },
        trainer={"max_steps": MAX_STEPS, "num_train_epochs": None},
        checkpoint={"every_steps": 2, "keep_last": 99},
    )
    write_rows(tmp_path / "train.jsonl", rows)
    return recipe


def weights(run: Path) -> bytes:
    return (run / "final" / "model.safetensors").read_bytes()


def seen(run: Path) -> list[tuple[int, bool]]:
    """(step, whether it was left out) of each step."""
    return [(row["step"], row.get("left_out", False)) for row in read_rows(run / "samples.jsonl")]


def bad_steps(run: Path) -> list[int]:
    return [row["step"] for row in read_rows(run / "samples.jsonl") if BAD_ROW in row["ids"]]


def go_on_from(run: Path, other: Path, step: int) -> None:
    """A run that was killed after the checkpoint of `step`, with what it had written down since."""
    shutil.copytree(run, other)
    shutil.rmtree(other / "final")
    for path in (other / "checkpoints").iterdir():
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)


STREAMED = "data.streaming={buffer_rows: 7}"


@pytest.mark.parametrize("feed", ["prepared", "streamed"])
@pytest.mark.parametrize("remedy", ["skip", "roll_back"])
def test_a_run_goes_on_without_it_and_just_so_after_a_restart(poisoned, tmp_path, remedy, feed):
    run, again = tmp_path / "run", tmp_path / "again"
    own = [STREAMED] if feed == "streamed" else []
    ended = train(poisoned, f"trainer.on_nan={remedy}", *own)
    assert ended.returncode == 0, ended.stderr
    rows = read_rows(run / "left_out.jsonl")
    bad = bad_steps(run)
    assert 1 <= len(bad) <= 2
    assert {row["fault_step"] for row in rows} == set(bad)
    assert all("loss is nan" in row["reason"] for row in rows if row["step"] in bad)
    # Every second step is saved: from the checkpoint before, one or two steps are taken back.
    back = {step: (step - 1) // 2 * 2 for step in bad}
    left_out = [step for bad_step, first in back.items() for step in range(first + 1, bad_step + 1)]
    expected = sorted(left_out if remedy == "roll_back" else bad)
    assert [row["step"] for row in rows] == expected
    assert seen(run) == [(step, step in expected) for step in range(1, MAX_STEPS + 1)]
    metrics = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [
        step for step in range(1, MAX_STEPS + 1) if step not in expected
    ]
    for row in rows:
        losses = zip(row["ids"], row["losses"], strict=True)
        assert {name for name, loss in losses if loss is None} <= {BAD_ROW}
    assert BAD_ROW in " ".join(ended.stderr.split() + ended.stdout.split())

    # With `stop`, what is left out must come from the file alone.
    go_on_from(run, again, back[bad[0]])
    resumed = train(poisoned, f"output.dir={again}", "trainer.on_nan=stop", *own)
    assert resumed.returncode == 0, resumed.stderr
    assert weights(again) == weights(run)
    assert [row["loss"] for row in read_rows(again / "metrics.jsonl")] == [
        row["loss"] for row in metrics
    ]
    assert seen(again) == seen(run)


def test_going_back_by_no_step_is_skipping(poisoned, tmp_path):
    """Then the two differ in nothing: going back puts back all that a step depends on."""
    for remedy in ("skip", "roll_back"):
        ended = train(
            poisoned,
            f"output.dir={tmp_path / remedy}",
            f"trainer.on_nan={remedy}",
            "checkpoint.every_steps=1",
            "trainer.ema={}",
        )
        assert ended.returncode == 0, ended.stderr
    assert weights(tmp_path / "skip") == weights(tmp_path / "roll_back")


def test_weights_that_are_no_numbers_are_never_saved(write_recipe, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        trainer={
            "max_steps": 20,
            "optimizer": "sgd",
            "learning_rate": 1e38,
            "z_loss": 1e6,  # for gradients of which this is too much for float32
            "max_grad_norm": None,
            "lr_scheduler_type": "constant",
        },
        checkpoint={"every_steps": 1},
    )
    ended = train(recipe)
    assert ended.returncode == 1, ended.stderr
    assert "are no numbers" in ended.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 1

    # Back to the untrained weights, again and again: it isn't the data.
    endless = train(recipe, "trainer.on_nan=roll_back")
    assert endless.returncode == 1, endless.stderr
    assert "it isn't the data" in endless.stderr


def test_a_spike_is_found_against_the_losses_before_it(write_recipe, tmp_path):
    rows = [conversation(0) for _ in range(16)]
    rows[10] = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "}|{~^`@#%&*<>[]\\$" * 3},
        ]
    }
    recipe = write_recipe(
        data={"packing": False},
        trainer={
            "max_steps": 16,
            "global_batch_size": 1,
            "learning_rate": 0.02,
            "lr_scheduler_type": "constant",
            "loss_spike": {"factor": 1.5, "window": 2, "then": "skip"},
            "seed": 1,
        },
    )
    write_rows(tmp_path / "train.jsonl", rows)
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    (row,) = read_rows(tmp_path / "run" / "left_out.jsonl")
    assert row["ids"] == ["train0:11"]
    assert "the median of the 2 before" in row["reason"]

    back = ["trainer.loss_spike.then=roll_back", "checkpoint.every_steps=100"]
    streamed = train(recipe, f"output.dir={tmp_path / 's'}", STREAMED, *back)
    assert streamed.returncode == 0, streamed.stderr
    left_out = read_rows(tmp_path / "s" / "left_out.jsonl")
    faults = [row["step"] for row in left_out if row["step"] == row["fault_step"]]
    assert {row["step"]: row["ids"] for row in left_out}[faults[0]] == ["train0:11"]
    assert [row["step"] for row in left_out] == list(range(1, faults[-1] + 1))

    stopped = train(recipe, f"output.dir={tmp_path / 'b'}", "trainer.loss_spike.then=stop")
    assert stopped.returncode == 1
    assert "train0:11" in stopped.stderr


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_process_is_left_out_by_all(poisoned, tmp_path):
    """Gradients of the other process are good; with each strategy both agree."""
    for remedy in ("skip", "roll_back"):
        alone = train(poisoned, f"trainer.on_nan={remedy}", f"output.dir={tmp_path / remedy}")
        assert alone.returncode == 0, alone.stderr
    cells = {
        "ddp-skip": ["strategy=ddp", "trainer.on_nan=skip"],
        "fsdp-skip": ["strategy=fsdp", "trainer.on_nan=skip"],
        "fsdp-roll_back": ["strategy=fsdp", "trainer.on_nan=roll_back"],
        "deepspeed-roll_back": ["strategy=deepspeed", "trainer.on_nan=roll_back"],
    }
    runs = [
        [str(poisoned), f"output.dir={tmp_path / name}", *overrides]
        for name, overrides in cells.items()
    ]
    launch_together(tmp_path, runs)
    for name in cells:
        run, expected = tmp_path / name, tmp_path / name.split("-")[1]
        assert seen(run) == seen(expected), name
        losses, alone_losses = (
            [row["loss"] for row in read_rows(one / "metrics.jsonl")] for one in (run, expected)
        )
        assert losses == pytest.approx(alone_losses, rel=SAME), name
