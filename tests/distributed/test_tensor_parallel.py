"""Processes that compute layers together train, save and go on as one process does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, write_rows
from runs_in_processes import (
    HALFWAY,
    STEPS,
    assert_same_run,
    launch_together,
    stopped_halfway,
    write_run,
)
from safetensors.torch import load_file
from warm_start import run_group

from framework.train import run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "layers_together.py"
TOGETHER = "strategy={type: fsdp, tensor_parallel_size: 2}"
FEW = ("trainer.max_steps=3", "evaluation.every_steps=null", "evaluation.num_generations=0")
PAIRS: Mapping[str, Any] = {
    "train": [{"source": "./pairs.jsonl", "format": "preference"}],
    "eval": [{"source": "./pairs.jsonl", "format": "preference", "rows": ":3"}],
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "packed": {
        "data": {"packing": True},
        "model": {"gradient_checkpointing": True},
        "trainer": {"global_batch_size": 4, "micro_batch_size": 1},
    },
    "pairs": {"data": PAIRS, "trainer": {"type": "dpo", "precompute_reference": True}},
}


def write(folder: Path, model: Path, name: str) -> Path:
    """A recipe that trains all weights, at a rate that stays the same."""
    sections = RECIPES[name]
    trainer = {"lr_scheduler_type": "constant", **sections.get("trainer", {})}
    return write_run(folder, model, name, {**sections, "adapter": "full", "trainer": trainer})


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """The runs of one process, and those of two that compute together."""
    folder = tmp_path_factory.mktemp("together")
    pairs = [
        {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": "No, indeed."}
        for number in range(8)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    runs: list[list[str]] = []
    for name in RECIPES:
        recipe = write(folder, tiny_model_dir, name)
        few = [] if name == "plain" else FEW
        run(recipe, [f"output.dir={folder / f'{name}-1'}", *few])
        runs.append([str(recipe), TOGETHER, f"output.dir={folder / f'{name}-2'}", *few])
    copy = stopped_halfway(folder, "plain-1", "plain-goes-on-2")
    runs.append([str(folder / "plain.yaml"), TOGETHER, f"output.dir={copy}"])
    launch_together(folder, runs)
    return folder


@pytest.mark.parametrize(("name", "num_steps"), [("plain", STEPS), ("packed", 3), ("pairs", 3)])
def test_two_processes_that_compute_layers_together_train_as_one(folder, name, num_steps):
    assert_same_run(folder / f"{name}-2", folder / f"{name}-1", num_steps)


def test_they_give_the_same_answers(folder):
    ours, theirs = (read_rows(folder / f"plain-{n}" / "generations.jsonl") for n in (2, 1))
    assert len(ours) == 2 * 3 and ours == theirs


def test_the_model_that_they_save_is_one_for_transformers(folder):
    from transformers import AutoModelForCausalLM

    final = folder / "plain-2" / "final"
    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
    assert model.get_parameter("model.layers.1.mlp.down_proj.weight").shape == (32, 64)


def test_each_process_writes_its_part_of_layers_and_the_first_what_both_have(folder):
    checkpoint = folder / "plain-2" / "checkpoints" / f"step-{HALFWAY:08d}"
    first, second = (load_file(checkpoint / f"state-{rank:05d}.safetensors") for rank in (0, 1))
    assert set(second) < set(first)
    shared = {key.split("/")[1].split(".")[-2] for key in second}
    assert shared == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    for key, part in second.items():
        assert part.numel() == first[key].numel(), key
    assert "computed together by 2: 14 of 21 weights are cut" in (
        folder / "plain-2" / "log.txt"
    ).read_text(encoding="utf-8")


def test_what_one_process_saved_two_go_on_from_together_and_back(folder):
    assert "going on after step 10" in (folder / "plain-goes-on-2" / "log.txt").read_text()
    assert_same_run(folder / "plain-goes-on-2", folder / "plain-1")
    copy = stopped_halfway(folder, "plain-2", "plain-goes-on-1")
    run(folder / "plain.yaml", [f"output.dir={copy}"])
    assert_same_run(copy, folder / "plain-1")


def test_layers_of_many_architectures_are_computed_together(warm):
    group = run_group(["--run", str(SCRIPT)], 2)
    assert group.codes == [0, 0], group.output
    # (7 weights and 5 biases, 7 weights, the same, 4 of fused ones ...) in each of two layers.
    for line in ("LlamaConfig 24", "Qwen3Config 14", "Gemma3TextConfig 14", "Phi3Config 8"):
        assert line in group.output, group.output


@pytest.mark.long
def test_groups_of_two_share_out_data_and_weights_with_each_other(folder):
    """Four processes: what stands in a group's layers is shared out over two groups."""
    recipe = str(folder / "plain.yaml")
    ways = {
        "shared": "{type: fsdp, tensor_parallel_size: 2}",
        "copies": "{type: fsdp, tensor_parallel_size: 2, num_replicas: 2}",
        "offloaded": "{type: fsdp, tensor_parallel_size: 2, cpu_offload: true}",
    }
    runs = [
        [recipe, f"strategy={way}", f"output.dir={folder / name}"] for name, way in ways.items()
    ]
    for name, way in (("plain-1", ways["shared"]), ("plain-2", ways["copies"])):
        copy = stopped_halfway(folder, name, f"{name}-goes-on-4")
        runs.append([recipe, f"strategy={way}", f"output.dir={copy}"])
    launch_together(folder, runs, 4)
    for name in (*ways, "plain-1-goes-on-4", "plain-2-goes-on-4"):
        assert_same_run(folder / name, folder / "plain-1")
    # What four saved, two go on from in another way.
    copy = stopped_halfway(folder, "shared", "shared-goes-on-2")
    launch_together(folder, [[recipe, "strategy=fsdp", f"output.dir={copy}"]])
    assert_same_run(copy, folder / "plain-1")
