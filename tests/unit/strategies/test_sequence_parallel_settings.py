"""Rows that several processes compute: what can't be is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from framework.core.problems import UserError
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve, resolve_with_origins

KEY = "strategy.sequence_parallel_size"


@pytest.fixture
def problems(write_recipe):
    """What is refused of a recipe whose rows so many processes compute together."""

    def found(size=2, strategy=(), **sections):
        settings = {"type": "fsdp", "sequence_parallel_size": size, **dict(strategy)}
        try:
            resolve(write_recipe(**sections, strategy=settings))
        except UserError as error:
            return [str(one) for one in error.problems]
        return []

    return found


def test_adapters_and_all_weights_can_be_trained_with_rows_in_slices(problems):
    assert problems() == problems(adapter="full") == []
    assert problems(model={"gradient_checkpointing": True}) == []


@pytest.mark.parametrize(
    ("sections", "what", "hint"),
    [
        ({"model": {"compile": True}}, "can't be compiled", "model.compile: false"),
        ({"model": {"shifted_attention": {}}}, "half of all heads", "model.shifted_attention"),
        (
            {"model": {"attention": "eager"}, "data": {"packing": False}},
            "`attention: eager` sees a slice's tokens alone",
            "model.attention: auto",
        ),
        (
            {
                "model": {"rope_scaling": {"type": "dynamic", "factor": 2}},
                "data": {"packing": False},
                "trainer": {"micro_batch_size": 1},
            },
            "rotations of `dynamic`",
            "model.rope_scaling.type: yarn",
        ),
    ],
)
def test_what_sees_more_than_a_slice_is_refused(problems, sections, what, hint):
    if "attention" in sections.get("model", {}):
        sections = {**sections, "trainer": {"micro_batch_size": 1}}
    (found,) = problems(**sections)
    assert KEY in found and what in found and hint in found
    assert "or write sequence_parallel_size: 1" in found
    assert problems(1, **sections) == []


def test_a_teacher_is_refused(problems, tiny_model_dir):
    trainer = {"type": "distillation", "teacher": str(tiny_model_dir)}
    (found,) = problems(trainer=trainer)
    assert KEY in found and "`distillation` compares all logits" in found
    assert problems(1, trainer=trainer) == []


def test_layers_and_rows_are_not_both_computed_together(problems):
    (found,) = problems(strategy={"tensor_parallel_size": 2}, adapter="full")
    assert KEY in found and "rows and layers can't both be computed together" in found


@pytest.mark.parametrize(
    ("changes", "size", "what"),
    [
        ({}, 4, "4 processes can't share the model's 2 num_key_value_heads"),
        ({"layer_types": ["full_attention", "conv"]}, 2, "layers of conv, which see more than"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 2, "rotations, dynamic, depend"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "longrope"}}},
            2,
            "rotations, longrope, depend",
        ),
    ],
)
def test_models_that_cannot_be_sliced_are_found_by_their_configuration(
    problems, tiny_model_dir, tmp_path, changes, size, what
):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (found,) = problems(size, model={"source": str(tmp_path / "model")})
    assert KEY in found and what in found


def test_a_batch_is_shared_by_groups(write_recipe):
    strategy = {"type": "fsdp", "sequence_parallel_size": 2}
    trainer = {"global_batch_size": 8, "micro_batch_size": 2}
    resolved = resolve_with_origins(write_recipe(strategy=strategy, trainer=trainer))
    plan = make_plan(resolved, World(num_processes=4))
    assert (plan.data_parallel_size, plan.num_accumulation_steps) == (2, 2)
    with pytest.raises(UserError) as refused:
        make_plan(resolved, World(num_processes=3))
    assert f"{KEY}: 3 processes can't compute rows 2 at a time" in str(refused.value)
    assert "start a multiple of 2, or write sequence_parallel_size: 1" in str(refused.value)
