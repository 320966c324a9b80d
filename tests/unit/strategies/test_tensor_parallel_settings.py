"""Layers that several processes compute: what can't be is refused before anything is loaded."""

from __future__ import annotations

import shutil

import pytest
from architectures import build

from framework.core.problems import UserError
from framework.core.world import World
from framework.models.tensor_parallel import TensorGroup, cut_layers
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve, resolve_with_origins

KEY = "strategy.tensor_parallel_size"


@pytest.fixture
def problems(write_recipe):
    """What is refused of a recipe for so many processes together."""

    def found(size=2, **sections):
        strategy = {"type": "fsdp", "tensor_parallel_size": size}
        try:
            resolve(write_recipe(**{"adapter": "full", **sections}, strategy=strategy))
        except UserError as error:
            return [str(one) for one in error.problems]
        return []

    return found


def test_all_weights_of_a_model_can_be_trained_together(problems):
    assert problems() == []
    assert problems(adapter={"type": "freeze", "trainable": ["norm"]}) == []


@pytest.mark.parametrize(
    ("sections", "what", "hint"),
    [
        ({"adapter": {"type": "lora", "r": 4}}, "adapter `lora` stands in layers", "adapter: full"),
        ({"model": {"compile": True}}, "can't be compiled", "model.compile: false"),
        ({"model": {"shifted_attention": {}}}, "half of all heads", "model.shifted_attention"),
    ],
)
def test_what_does_more_with_layers_is_refused(problems, sections, what, hint):
    (found,) = problems(**sections)
    assert KEY in found and what in found and hint in found
    assert "or write tensor_parallel_size: 1" in found
    assert problems(1, **sections) == []


def test_quantised_weights_are_refused(problems):
    found = problems(model={"quantization": "bitsandbytes_4bit"}, adapter={"type": "lora", "r": 4})
    assert any(KEY in one and "quantised weights can't be cut" in one for one in found)


def test_heads_that_cannot_be_shared_are_found_in_the_models_configuration(problems):
    found = problems(4)
    assert len(found) == 1
    assert (
        KEY in found[0] and "4 processes can't share the model's 2 num_key_value_heads" in found[0]
    )


def test_a_configuration_that_nobody_can_read_is_told_once(problems, tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    (found,) = problems(model={"source": str(tmp_path / "model")})
    assert "can't be read" in found


def test_the_number_of_processes_has_to_be_a_multiple(write_recipe):
    recipe = write_recipe(adapter="full", strategy={"type": "fsdp", "tensor_parallel_size": 2})
    resolved = resolve_with_origins(recipe)
    with pytest.raises(UserError) as refused:
        make_plan(resolved, World(num_processes=3))
    assert f"{KEY}: 3 processes can't compute layers 2 at a time" in str(refused.value)
    assert "start a multiple of 2" in str(refused.value)


def test_a_batch_is_shared_by_groups(write_recipe):
    strategy = {"type": "fsdp", "tensor_parallel_size": 2}
    trainer = {"global_batch_size": 8, "micro_batch_size": 2}
    resolved = resolve_with_origins(
        write_recipe(adapter="full", strategy=strategy, trainer=trainer)
    )
    plan = make_plan(resolved, World(num_processes=4))
    assert (plan.data_parallel_size, plan.num_accumulation_steps) == (2, 2)
    with pytest.raises(UserError) as refused:
        make_plan(resolved, World(num_processes=32))
    assert "8 can't be shared by 16 groups of 2 processes of micro_batch_size 2" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("config", "settings", "size", "what"),
    [
        ("GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2}, 2, "has no plan of tensor"),
        ("MixtralConfig", {"num_local_experts": 4}, 2, "cuts model.layers.*.mlp"),
        ("LlamaConfig", {}, 4, "4 processes can't share the 2 num_key_value_heads of the model"),
        ("LlamaConfig", {"intermediate_size": 97}, 2, "(97, 64), can't be cut in 2 equal parts"),
    ],
)
def test_models_that_cannot_be_cut_are_refused_with_the_reason(config, settings, size, what):
    model = build(config, settings, attention="eager")
    with pytest.raises(UserError) as refused:
        cut_layers(model, TensorGroup(rank=0, size=size))
    assert what in str(refused.value)
    assert "write tensor_parallel_size: 1; `fsdp` alone shares out any model" in str(refused.value)
