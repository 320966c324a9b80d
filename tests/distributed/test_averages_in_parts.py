"""Averages of weights that are shared out are those of whole weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import read_rows
from runs_in_processes import SAME, column, launch_together, write_run
from safetensors.torch import load_file

from framework.train import run

pytestmark = pytest.mark.long

STEPS, HALFWAY = 8, 4
AVERAGES: Mapping[str, Mapping[str, Any]] = {
    "ema": {"ema": {"decay": 0.6, "warmup": False, "keep_trained": True}},
    "schedule-free": {"optimizer": "schedule_free_adamw"},
}
WAYS = {
    "shared": "strategy=fsdp",
    "together": "strategy={type: fsdp, tensor_parallel_size: 2}",
}
STAGES = {
    "stage-1": "strategy={type: deepspeed, stage: 1}",
    "stage-2": "strategy={type: deepspeed, stage: 2}",
    # Norms stay whole on every process, matrices don't.
    "stage-3": "strategy={type: deepspeed, stage: 3, parameter_persistence_threshold: 100}",
}
OF_AVERAGE = {"ema": {**WAYS, **STAGES}, "schedule-free": WAYS}
"""DeepSpeed has no average of the optimizer's."""
GOING_ON = ("shared", "stage-2", "stage-3")
"""How two processes go on with what one has saved."""


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """Each average, of one process and of two; of two that went on from the one's half."""
    folder = tmp_path_factory.mktemp("averages")
    runs: list[list[str]] = []
    for name, settings in AVERAGES.items():
        trainer = {"lr_scheduler_type": "constant", "max_steps": STEPS, "learning_rate": 3e-3}
        sections = {
            "adapter": "full",
            "trainer": {**trainer, **settings},
            "evaluation": {"every_steps": 2},
            "checkpoint": {"every_steps": HALFWAY},
        }
        recipe = write_run(folder, tiny_model_dir, name, sections)
        run(recipe, [f"output.dir={folder / f'{name}-alone'}"])
        for way, strategy in OF_AVERAGE[name].items():
            runs.append([str(recipe), strategy, f"output.dir={folder / f'{name}-{way}'}"])
            if way in GOING_ON:
                copy = stopped_halfway(folder / f"{name}-alone", folder / f"{name}-{way}-goes-on")
                runs.append([str(recipe), strategy, f"output.dir={copy}"])
    launch_together(folder, runs)
    return folder


def stopped_halfway(whole: Path, copy: Path) -> Path:
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:08d}")
    for final in copy.glob("final*"):
        shutil.rmtree(final)
    return copy


def assert_same(one: Path, other: Path) -> None:
    for name, number in (("loss", STEPS), ("grad_norm", STEPS), ("eval_loss", STEPS // 2)):
        expected = column(other, name)
        assert len(expected) == number
        assert column(one, name) == pytest.approx(expected, rel=SAME, abs=SAME), name
    assert read_rows(one / "generations.jsonl") == read_rows(other / "generations.jsonl")
    finals = sorted(path.name for path in other.glob("final*"))
    assert finals == sorted(path.name for path in one.glob("final*"))
    for final in finals:
        ours, theirs = (load_file(run / final / "model.safetensors") for run in (one, other))
        for key, weight in theirs.items():
            assert (ours[key] - weight).abs().max() < SAME, key


@pytest.mark.parametrize(
    ("average", "way"),
    [
        (average, f"{way}{suffix}")
        for average, ways in OF_AVERAGE.items()
        for way in ways
        for suffix in (("", "-goes-on") if way in GOING_ON else ("",))
    ],
)
def test_two_processes_evaluate_and_end_with_the_average_of_one(folder, average, way):
    assert_same(folder / f"{average}-{way}", folder / f"{average}-alone")


def test_the_average_is_not_what_was_trained(folder):
    final, trained = (
        load_file(folder / "ema-shared" / name / "model.safetensors")
        for name in ("final", "final_trained")
    )
    assert any((final[key] - trained[key]).abs().max() > 1e-4 for key in final)


@pytest.mark.parametrize(
    ("average", "way"),
    [("ema", "together"), ("ema", "stage-2"), ("ema", "stage-3"), ("schedule-free", "together")],
)
def test_what_two_processes_saved_one_goes_on_from(folder, average, way):
    copy = stopped_halfway(folder / f"{average}-{way}", folder / f"{average}-{way}-back")
    run(folder / f"{average}.yaml", [f"output.dir={copy}"])
    assert_same(copy, folder / f"{average}-alone")
