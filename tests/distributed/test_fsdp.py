"""A model that is shared out over processes trains, is saved, goes on and ends as a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import read_rows, samples_of_steps, write_rows
from runs_in_processes import HALFWAY, SAME, STEPS, column, launch_together, write_run
from safetensors.torch import load_file

from framework.train import run

GOES_ON = 1e-6
"""Losses after a checkpoint, which holds every number as it was. Gradient norms of as many
processes as before are bit for bit the same; those of another number are as far apart as without a
checkpoint."""
LORA = {"type": "lora", "r": 4, "init_lora_weights": "gaussian"}
PAIRS: Mapping[str, Any] = {
    "train": [{"source": "./pairs.jsonl", "format": "preference"}],
    "eval": [{"source": "./pairs.jsonl", "format": "preference", "rows": ":3"}],
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "full": {"adapter": "full"},
    "lora": {"adapter": LORA},
    "qlora": {"adapter": LORA, "model": {"quantization": "bitsandbytes_4bit"}},
    "dpo_lora": {"adapter": LORA, "data": PAIRS, "trainer": {"type": "dpo"}},
    "dpo_full": {
        "adapter": "full",
        "data": PAIRS,
        "trainer": {"type": "dpo", "precompute_reference": True},
    },
}
FEW = "trainer.max_steps=4"
WAYS: Mapping[str, Sequence[str]] = {
    "checkpointed": ("strategy=fsdp", "model.gradient_checkpointing=true"),
    "kept": ("strategy={type: fsdp, reshard_after_forward: false, reduce_each_pass: false}",),
    "offloaded": ("strategy={type: fsdp, cpu_offload: true}",),
}
"""Settings that change memory and traffic, and no number."""


def write(folder: Path, model: Path, name: str, sections: Mapping[str, Any]) -> Path:
    """A recipe whose rate stays the same, however many steps are taken."""
    trainer = {"lr_scheduler_type": "constant", **sections.get("trainer", {})}
    return write_run(folder, model, name, {**sections, "trainer": trainer})


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """Recipes, and all runs of two processes."""
    folder = tmp_path_factory.mktemp("fsdp")
    pairs = [
        {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": "No, indeed."}
        for number in range(8)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    runs: list[list[str]] = []
    for name, sections in RECIPES.items():
        recipe = write(folder, tiny_model_dir, name, sections)
        few = [FEW] if name.startswith("dpo") else []
        for strategy in ("ddp", "fsdp"):
            target = f"output.dir={folder / f'{name}-{strategy}-2'}"
            runs.append([str(recipe), f"strategy={strategy}", target, *few])
    for way, overrides in WAYS.items():
        target = f"output.dir={folder / f'full-{way}-2'}"
        runs.append([str(folder / "full.yaml"), target, *overrides, FEW])
    launch_together(folder, runs, 2)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[[str], Path]:
    """Trains a recipe in this process."""

    def train(name: str) -> Path:
        target = folder / f"{name}-1"
        if not target.exists():
            run(folder / f"{name}.yaml", [f"output.dir={target}"])
        return target

    return train


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    assert len(one) == len(other) > 0
    # Numbers above one in relation to their size, as float32 has them.
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other, strict=True))


def assert_same_run(one: Path, other: Path, tolerance: float) -> None:
    assert_same_steps(one, other, tolerance, STEPS)
    assert largest_difference(column(one, "eval_loss"), column(other, "eval_loss")) < tolerance
    assert samples_of_steps(one) == samples_of_steps(other)
    assert read_rows(one / "generations.jsonl") == read_rows(other / "generations.jsonl")
    assert_same_model(one, other)


def assert_same_steps(one: Path, other: Path, tolerance: float, num_steps: int) -> None:
    for name in ("loss", "grad_norm"):
        first, second = column(one, name), column(other, name)
        assert len(first) >= num_steps
        assert largest_difference(first[:num_steps], second[:num_steps]) < tolerance, name


def assert_same_model(one: Path, other: Path) -> None:
    files = {path.name: path for path in (one / "final").iterdir()}
    others = {path.name: path for path in (other / "final").iterdir()}
    assert files.keys() == others.keys()
    compared = 0
    for name, path in files.items():
        if path.suffix == ".safetensors":
            weights, others_weights = load_file(path), load_file(others[name])
            assert weights.keys() == others_weights.keys()
            for key, weight in weights.items():
                assert (weight - others_weights[key]).abs().max() < SAME, key
                compared += 1
        elif name in {"config.json", "tokenizer.json"}:
            assert path.read_bytes() == others[name].read_bytes(), name
    assert compared


@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_weights_that_are_shared_out_train_as_whole_ones(folder, alone, name):
    sharded = folder / f"{name}-fsdp-2"
    assert_same_run(sharded, folder / f"{name}-ddp-2", SAME)
    assert_same_run(sharded, alone(name), SAME)


@pytest.mark.parametrize("name", ["dpo_lora", "dpo_full"])
def test_pairs_are_compared_with_the_same_reference(folder, name):
    sharded, whole = folder / f"{name}-fsdp-2", folder / f"{name}-ddp-2"
    assert_same_steps(sharded, whole, SAME, 4)
    for metric in ("reward_margin", "eval_loss"):
        assert largest_difference(column(sharded, metric), column(whole, metric)) < SAME
    assert_same_model(sharded, whole)


@pytest.mark.parametrize("way", WAYS)
def test_what_saves_memory_or_traffic_changes_no_number(folder, way):
    assert_same_steps(folder / f"full-{way}-2", folder / "full-fsdp-2", SAME, 4)


def test_quantised_weights_are_shared_out_too(folder):
    """What each process wrote down at its start."""
    assert "whole on each device" not in (folder / "qlora-fsdp-2" / "log.txt").read_text()


@pytest.mark.parametrize("name", ["full", "lora"])
def test_each_process_writes_the_part_of_a_checkpoint_that_it_holds(folder, name):
    checkpoint = folder / f"{name}-fsdp-2" / "checkpoints" / f"step-{HALFWAY:08d}"
    parts = [load_file(checkpoint / f"state-{rank:05d}.safetensors") for rank in (0, 1)]
    sizes = [sum(one.numel() for one in part.values()) for part in parts]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def assert_goes_on(copy: Path, uninterrupted: Path) -> None:
    assert largest_difference(column(copy, "loss"), column(uninterrupted, "loss")) < GOES_ON
    assert_same_run(copy, uninterrupted, SAME)


def stopped_halfway(folder: Path, name: str, target: str) -> Path:
    """A copy of the run of two processes as its checkpoint after half of the steps left it."""
    copy = folder / target
    shutil.copytree(folder / f"{name}-fsdp-2", copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:08d}")
    shutil.rmtree(copy / "final")
    return copy


@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(folder, name):
    copy = stopped_halfway(folder, name, f"{name}-goes-on-1")
    run(folder / f"{name}.yaml", [f"output.dir={copy}", "strategy=ddp"])
    assert_goes_on(copy, folder / f"{name}-fsdp-2")


@pytest.mark.long
def test_a_checkpoint_goes_on_bit_for_bit_in_as_many_processes(folder):
    names = ("full", "lora", "qlora")
    copies = {name: stopped_halfway(folder, name, f"{name}-goes-on-2") for name in names}
    runs = [
        [str(folder / f"{name}.yaml"), "strategy=fsdp", f"output.dir={copy}"]
        for name, copy in copies.items()
    ]
    launch_together(folder, runs, 2)
    for name, copy in copies.items():
        uninterrupted = folder / f"{name}-fsdp-2"
        for metric in ("loss", "grad_norm", "eval_loss"):
            assert column(copy, metric) == column(uninterrupted, metric), (name, metric)
        weights = list((copy / "final").glob("*.safetensors"))
        assert len(weights) == 1
        other = uninterrupted / "final" / weights[0].name
        assert weights[0].read_bytes() == other.read_bytes(), name


@pytest.mark.long
def test_four_processes_do_the_same_and_go_on_from_two(folder):
    recipe = str(folder / "full.yaml")
    runs: list[list[str]] = []
    for target, strategy in (
        ("full-fsdp-4", "fsdp"),
        ("full-copies-4", "{type: fsdp, num_replicas: 2}"),
    ):
        runs.append([recipe, f"strategy={strategy}", f"output.dir={folder / target}"])
    for strategy in ("fsdp", "ddp"):
        copy = stopped_halfway(folder, "full", f"full-goes-on-{strategy}-4")
        runs.append([recipe, f"strategy={strategy}", f"output.dir={copy}"])
    launch_together(folder, runs, 4)
    for target in ("full-fsdp-4", "full-copies-4"):
        assert_same_run(folder / target, folder / "full-fsdp-2", SAME)
    for strategy in ("fsdp", "ddp"):
        copy = folder / f"full-goes-on-{strategy}-4"
        assert_goes_on(copy, folder / "full-fsdp-2")
    # From the checkpoint of 2 x 2 processes on.
    shutil.rmtree(folder / "full-copies-4" / "checkpoints" / f"step-{STEPS:08d}")
    run(folder / "full.yaml", [f"output.dir={folder / 'full-copies-4'}", "strategy=ddp"])
    assert_same_run(folder / "full-copies-4", folder / "full-fsdp-2", SAME)
