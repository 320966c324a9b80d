"""Runs with adapters that do more than LoRA: resumed, merged, and shared among processes."""

from __future__ import annotations

import shutil

import pytest
from conftest import read_rows
from safetensors.torch import load_file

from framework.core.problems import UserError
from framework.runs.merge import merge
from framework.runs.trained import FinishedRun
from framework.train import run

SETTINGS = {
    "adalora": {"type": "adalora", "init_r": 4, "target_r": 2, "lora_dropout": 0.1},
    "corda": {"type": "lora", "r": 4, "init_lora_weights": "corda"},
    "lora_ga": {"type": "lora", "r": 4, "init_lora_weights": "lora_ga"},
    "eva": {"type": "lora", "r": 4, "init_lora_weights": "eva", "loraplus_lr_ratio": 4},
    "vera": {"type": "vera", "r": 16, "vera_dropout": 0.1},
    "shira": {"type": "shira", "r": 4},
    "oft": {"type": "oft", "oft_block_size": 16},
    "fourierft": {"type": "fourierft", "n_frequency": 64},
    "p_tuning": {"type": "p_tuning", "num_virtual_tokens": 4},
    "prefix_tuning": {"type": "prefix_tuning", "num_virtual_tokens": 4},
}
NUM_STEPS = 6


def written(write_recipe, name, **trainer):
    return write_recipe(
        adapter=SETTINGS[name],
        trainer={"max_steps": NUM_STEPS, "learning_rate": 1e-2, "global_batch_size": 4, **trainer},
        checkpoint={"every_steps": 3, "keep_last": 9},
    )


def weights(run_dir):
    return load_file(run_dir / "final" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(name, write_recipe, tmp_path):
    recipe, directory = written(write_recipe, name), tmp_path / "run"
    run(recipe)
    whole, losses = weights(directory), read_rows(directory / "metrics.jsonl")
    shutil.rmtree(directory / "final")
    shutil.rmtree(directory / "checkpoints" / f"step-{NUM_STEPS:08d}")
    run(recipe)
    resumed, again = weights(directory), read_rows(directory / "metrics.jsonl")
    assert whole.keys() == resumed.keys()
    assert all(whole[key].equal(resumed[key]) for key in whole)
    assert [row["loss"] for row in losses] == [row["loss"] for row in again]


@pytest.mark.parametrize("name", ["adalora", "vera", "oft", "corda", "lora_ga", "eva"])
def test_what_merges_is_merged_and_proven(name, write_recipe, tmp_path):
    run(written(write_recipe, name))
    proof = merge(FinishedRun.open(tmp_path / "run"), tmp_path / "merged", "float32")
    assert proof.largest_difference <= 1e-4 < proof.largest_change
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_what_cannot_be_merged_says_how_it_is_served(write_recipe, tmp_path):
    run(written(write_recipe, "p_tuning", max_steps=1))
    with pytest.raises(UserError, match=r"can't be merged: virtual tokens.*from_pretrained"):
        merge(FinishedRun.open(tmp_path / "run"), tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_ranks_move_until_the_last_phase_and_only_the_chosen_are_saved(write_recipe, tmp_path):
    # Without a phase in which ranks stay, the last step decides.
    run(written(write_recipe, "adalora"), ["adapter.tfinal_ratio=0"])
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(row["penalty"] > 0 for row in rows)
    ranks = [len(value) for key, value in weights(tmp_path / "run").items() if "lora_E" in key]
    assert sum(ranks) == 2 * len(ranks)
    assert len(set(ranks)) > 1


@pytest.mark.slow
def test_two_processes_learn_what_one_does(write_recipe, launched, tmp_path):
    # One of them may have more documents, and so forward passes, than the other.
    recipe = written(write_recipe, "prefix_tuning")
    run(recipe, [f"output.dir={tmp_path / 'one'}"])
    launched(recipe, f"output.dir={tmp_path / 'two'}", num_processes=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    # Sums over the batch in another order, through six steps of Adam.
    assert all(one[key].allclose(two[key], atol=1e-4) for key in one)
