"""Adapters of two runs become one that is their weighted sum, or are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from warm_start import framework

from framework.cli.combine import Method
from framework.core.problems import UserError
from framework.runs.combine import combine
from framework.runs.merge import merge
from framework.runs.trained import FinishedRun
from framework.train import run

pytestmark = pytest.mark.usefixtures("warm")

TOKENS = torch.arange(5, 45)[None]


@pytest.fixture
def trained(write_recipe, tmp_path):
    def train(name, **adapter):
        recipe = write_recipe(
            adapter={"type": "lora", "r": 4, **adapter},
            trainer={"max_steps": 3, "learning_rate": 1e-2},
        )
        run(recipe, [f"output.dir={tmp_path / name}", f"trainer.seed={len(name)}"])
        return FinishedRun.open(tmp_path / name)

    return train


def updates(tiny_model_dir, final):
    """Layer -> what the adapter adds to its weight."""
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), str(final)
    )
    return {
        name: layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def test_concatenated_adapters_are_the_weighted_sum_and_can_be_merged(
    trained, tiny_model_dir, tmp_path
):
    one, other = trained("a"), trained("bb", r=6, use_rslora=True)
    said = framework(
        "combine", one.path, other.path, "-o", tmp_path / "sum", "-w", "0.5", "-w", "2", "--json"
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["rank"] == 10
    assert found["distance_from_sum"] < 1e-5
    first, second = updates(tiny_model_dir, one.final), updates(tiny_model_dir, other.final)
    both = updates(tiny_model_dir, tmp_path / "sum" / "final")
    assert both.keys() == first.keys() == second.keys()
    for name, update in both.items():
        assert torch.allclose(update, 0.5 * first[name] + 2 * second[name], atol=1e-6)
    proof = merge(FinishedRun.open(tmp_path / "sum"), tmp_path / "merged", "float32")
    assert proof.largest_difference <= 1e-4 < proof.largest_change


def test_every_method_writes_one_adapter_and_says_how_far_it_is_from_the_sum(trained, tmp_path):
    runs = [trained("a"), trained("bb")]
    far = {}
    for method in Method:
        prunes = method.value.startswith(("ties", "dare", "magnitude_prune"))
        found = combine(
            runs,
            tmp_path / method.value,
            method=method.value,
            weights=[0.5, 0.5],
            rank=8 if method.value.endswith("svd") else None,
            density=0.7 if prunes else None,
        )
        far[method.value] = found.distance_from_sum
        assert load_file(tmp_path / method.value / "final" / "adapter_model.safetensors")
    assert far["cat"] < 1e-5
    assert far["svd"] < 1e-5  # rank 8 holds the sum of two of rank 4
    assert far["linear"] > 1e-2
    assert 0 < far["magnitude_prune_svd"] < 1


def test_what_cannot_be_combined_is_refused(trained, tmp_path):
    one = trained("a")
    other = trained("bb", modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"modules_to_save .* would be left out"):
        combine([one, other], tmp_path / "sum", method="cat", weights=[1, 1])
    with pytest.raises(UserError, match="1 weights for 2 adapters"):
        combine([one, one], tmp_path / "sum", method="cat", weights=[1])
    with pytest.raises(UserError, match="ranks that differ need --method cat or svd"):
        combine([one, trained("ccc", r=2)], tmp_path / "sum", method="linear", weights=[1, 1])
    assert not (tmp_path / "sum").exists()
    said = framework("combine", one.path, one.path, "-o", tmp_path / "sum", "--method", "ties")
    assert said.returncode == 2
    assert "--density 0.5" in said.stderr


def test_adapters_of_different_bases_are_refused(trained, write_recipe, tmp_path, tiny_model_dir):
    one = trained("a")
    base = tmp_path / "another"
    shutil.copytree(tiny_model_dir, base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.1)
    model.save_pretrained(base)
    recipe = write_recipe(
        adapter={"type": "lora", "r": 4}, trainer={"max_steps": 1}, model={"source": str(base)}
    )
    run(recipe, [f"output.dir={tmp_path / 'other'}"])
    with pytest.raises(UserError, match="was trained from another model"):
        combine(
            [one, FinishedRun.open(tmp_path / "other")],
            tmp_path / "sum",
            method="cat",
            weights=[1, 1],
        )
