"""ZeRO in two processes trains what one process trains, and each goes on from the other's state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, samples_of_steps
from runs_in_processes import HALFWAY, SAME, STEPS, column, launch_together, write_run
from safetensors.torch import load_file

from framework.train import run

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "deepspeed_configs"
LIBAIO = Path("/usr/include/libaio.h")
GOES_ON = 1e-6
"""The same after a checkpoint, which holds every number as it was."""

STAGE_3 = {"stage": 3, "parameter_persistence_threshold": 0, "prefetch_bucket_size": 2000}
"""So that weights of a tiny model are shared out at all."""
LORA = {"adapter": {"type": "lora", "r": 4}}
Cells = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Name -> sections of the recipe, settings of the strategy."""
CELLS: Cells = {
    "zero1": ({}, {"config": str(CONFIGS / "zero1.json")}),
    "zero2": ({}, {"stage": 2}),
    "zero3": ({"model": {"gradient_checkpointing": True}}, STAGE_3),
    "lora-zero2": (LORA, {"config": str(CONFIGS / "zero2.json")}),
    "lora-zero3": (LORA, STAGE_3),
}
FOUR_BITS = {**LORA, "model": {"quantization": "bitsandbytes_4bit"}}
OFFLOADED = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
SLOW_CELLS: Cells = {
    "zero2-offload": ({}, {"stage": 2, "offload_optimizer": "cpu"}),
    "zero3-offload": ({}, {**STAGE_3, **OFFLOADED}),
    "zero3-file": ({}, {"config": str(CONFIGS / "zero3.json")}),
    "zero3-offload-file": ({}, {"config": str(CONFIGS / "zero3_offload.json")}),
    "four-bits-zero2": (FOUR_BITS, {"stage": 2}),
    "four-bits-zero3": (FOUR_BITS, STAGE_3),
}
BFLOAT16 = {"model": {"dtype": "bfloat16"}}
BFLOAT16_CELLS: Cells = {
    "bfloat16-zero1": ({**BFLOAT16, **LORA}, {"stage": 1}),
    "bfloat16-zero2": ({**BFLOAT16, **LORA}, {"stage": 2}),
    "bfloat16-zero3": ({**BFLOAT16, **LORA}, STAGE_3),
}


def write(folder: Path, source: Path, name: str, **sections: Any) -> Path:
    """A recipe of 20 steps of two passes each in two processes, saved after each 5."""
    trainer = {"micro_batch_size": 2, **sections.pop("trainer", {})}
    checkpoint = {"every_steps": 5, "keep_last": 4}
    return write_run(
        folder, source, name, {"checkpoint": checkpoint, "trainer": trainer, **sections}
    )


def train(folder: Path, source: Path, cells: Cells) -> None:
    """All cells, by two processes."""
    recipes = [
        write(folder, source, name, **sections, strategy={"type": "deepspeed", **settings})
        for name, (sections, settings) in cells.items()
    ]
    launch_together(folder, [[str(one)] for one in recipes])


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """Runs of two processes, and what they are held against: runs of this one."""
    folder = tmp_path_factory.mktemp("deepspeed")
    train(folder, tiny_model_dir, CELLS)
    run(write(folder, tiny_model_dir, "ddp"))
    run(write(folder, tiny_model_dir, "lora-ddp", **LORA))
    return folder


def assert_same_run(one: Path, other: Path, tolerance: float) -> None:
    for name, number in (("loss", STEPS), ("grad_norm", STEPS), ("eval_loss", STEPS // HALFWAY)):
        expected = column(other, name)
        assert len(expected) == number
        assert column(one, name) == pytest.approx(expected, abs=tolerance), name
    assert samples_of_steps(one) == samples_of_steps(other)
    assert read_rows(one / "generations.jsonl") == read_rows(other / "generations.jsonl")
    assert_same_model(one / "final", other / "final")


def assert_same_model(one: Path, other: Path) -> None:
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    (file,) = (name for name in names if name.endswith(".safetensors"))
    weights, others = load_file(one / file), load_file(other / file)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        assert weight.dtype == others[key].dtype, key
        assert (weight - others[key]).abs().max() < SAME, key


@pytest.mark.parametrize("name", CELLS)
def test_every_stage_trains_as_one_process(folder, name):
    plain = "lora-ddp" if name.startswith("lora") else "ddp"
    assert_same_run(folder / name, folder / plain, SAME)


@pytest.mark.parametrize("name", CELLS)
def test_each_process_writes_the_part_of_a_checkpoint_that_it_holds(folder, name):
    checkpoint = folder / name / "checkpoints" / f"step-{HALFWAY:08d}"
    parts = [load_file(checkpoint / f"state-{rank:05d}.safetensors") for rank in (0, 1)]
    sizes = [sum(one.numel() for one in part.values()) for part in parts]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def interrupted(run_dir: Path, copy: Path, step: int) -> Path:
    """A copy of a run as its checkpoint after so many steps left it."""
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "final")
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    return copy


def test_a_checkpoint_goes_on_in_other_stages_other_strategies_and_another_number_of_processes(
    folder,
):
    for name in ("zero2", "zero3", "lora-zero3"):
        copy = interrupted(folder / name, folder / f"{name}-in-one", HALFWAY)
        recipe = folder / f"{name}.yaml"
        run(recipe, [f"output.dir={copy}", "strategy=ddp"])
        assert_same_run(copy, folder / name, GOES_ON)
    # What one process saved after 15 steps, two go on from: stage 2 -> ddp -> stage 3, and back.
    runs = []
    for name, other in (("zero2", "zero3"), ("zero3", "zero2"), ("lora-zero3", "lora-zero2")):
        copy = interrupted(folder / f"{name}-in-one", folder / f"{name}-in-two", 15)
        strategy = json.dumps({"type": "deepspeed", **CELLS[other][1]})
        runs.append([str(folder / f"{name}.yaml"), f"output.dir={copy}", f"strategy={strategy}"])
    said = launch_together(folder, runs)
    assert said.count("going on after step 15") == len(runs)
    for name in ("zero2", "zero3", "lora-zero3"):
        assert_same_run(folder / f"{name}-in-two", folder / name, GOES_ON)


@pytest.mark.long
def test_offloaded_and_quantised_weights_train_as_in_one_process(folder, tiny_model_dir):
    train(folder, tiny_model_dir, SLOW_CELLS)
    run(write(folder, tiny_model_dir, "four-bits", **FOUR_BITS))
    for name in SLOW_CELLS:
        plain = "four-bits" if name.startswith("four-bits") else "ddp"
        assert_same_run(folder / name, folder / plain, SAME)
    copy = interrupted(folder / "zero3-offload", folder / "zero3-offload-in-one", HALFWAY)
    run(folder / "zero3-offload.yaml", [f"output.dir={copy}", "strategy=ddp"])
    assert_same_run(copy, folder / "zero3-offload", GOES_ON)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not LIBAIO.exists(), reason="libaio-dev is not installed")
def test_optimizer_state_on_a_disk_trains_as_in_one_process(folder, tiny_model_dir, tmp_path):
    """DeepSpeed compiles what reads and writes there first, which takes minutes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # A process's part is more than the least that goes to a disk, 1 MiB.
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    config = AutoConfig.from_pretrained(model)
    config.update({"hidden_size": 128, "intermediate_size": 640, "head_dim": 32})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(model)
    (disk := tmp_path / "disk").mkdir()
    settings = {"stage": 3, "offload_optimizer": "nvme", "offload_folder": str(disk)}
    recipe = write(folder, model, "disk", strategy={"type": "deepspeed", **settings})
    launch_together(folder, [[str(recipe)]])
    names = {path.name.split("-")[0] for path in disk.rglob("*.swp")}
    assert {"exp_avg", "exp_avg_sq"} <= names
    whole = folder / "disk-alone"
    run(recipe, [f"output.dir={whole}", "strategy=ddp"])
    for name in ("loss", "grad_norm"):
        expected = column(whole, name)
        assert len(expected) == STEPS
        assert column(folder / "disk", name) == pytest.approx(expected, rel=SAME), name
    back = interrupted(folder / "disk", folder / "disk-goes-on-alone", HALFWAY)
    run(recipe, [f"output.dir={back}", "strategy=ddp"])
    there = interrupted(whole, folder / "alone-goes-on-disk", HALFWAY)
    launch_together(folder, [[str(recipe), f"output.dir={there}"]])
    for copy in (back, there):
        assert column(copy, "loss") == pytest.approx(column(whole, "loss"), rel=SAME)


@pytest.mark.long
def test_sixteen_bits_train_near_what_whole_ones_train(folder, tiny_model_dir):
    """Weights are rounded to bfloat16, from float32 ones that the optimizer has, in each stage."""
    train(folder, tiny_model_dir, BFLOAT16_CELLS)
    names = list(BFLOAT16_CELLS)
    for name in names:
        losses = column(folder / name, "loss")
        assert len(losses) == STEPS
        assert losses[-1] < losses[0]
        # bfloat16 has 8 bits: products differ in the third digit.
        assert losses == pytest.approx(column(folder / "lora-ddp", "loss"), rel=1e-2)
        weights = load_file(folder / name / "final" / "adapter_model.safetensors")
        assert {str(one.dtype) for one in weights.values()} == {"torch.float32"}
    # From the float32 weights of one stage to those of another.
    copy = interrupted(folder / names[0], folder / "bfloat16-goes-on", HALFWAY)
    strategy = json.dumps({"type": "deepspeed", **STAGE_3})
    recipe = folder / f"{names[0]}.yaml"
    launch_together(folder, [[str(recipe), f"output.dir={copy}", f"strategy={strategy}"]])
    assert column(copy, "loss") == pytest.approx(column(folder / names[0], "loss"), rel=1e-3)
