"""What a recipe can't have where several processes compute slices of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem
from framework.core.protocols.training import Comparing
from framework.core.registries import component_name
from framework.recipe.model_files import rotations_by_length, text_config
from framework.recipe.tensor_parallel import indivisible_heads

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

KEY = ".sequence_parallel_size"
ALONE = "write sequence_parallel_size: 1"
_WITHIN_ATTENTION = ("full_attention", "sliding_attention")
"""Kinds of layers in which tokens see each other in attention alone, by way of documents."""


def sequence_parallel_conflicts(recipe: Recipe, size: int) -> Iterator[Problem]:
    """Whatever looks at more of a row than a slice, outside of the attention that is exchanged for;
    and, where the model's config.json is on this machine, what it says of that.

    Args:
        size: how many processes, more than one.
    """
    model, method = recipe.model, recipe.trainer.method
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    has_teacher = comparison is not None and comparison.source is not None
    scaling = recipe.model.rope_scaling
    refused = {
        f"`{component_name(method)}` compares all logits of a label with a teacher's": (
            has_teacher,
            "write `trainer: sft`",
        ),
        f"`attention: {model.attention}` sees a slice's tokens alone": (
            model.attention == "eager",
            "write `model.attention: auto`",
        ),
        "shifted attention shifts half of all heads, and a process has some of them": (
            model.shifted_attention is not None,
            "leave out `model.shifted_attention`",
        ),
        "layers that exchange what they compute can't be compiled": (
            model.compile,
            "write `model.compile: false`",
        ),
        "rotations of `dynamic` depend on how long a slice is": (
            scaling is not None and scaling.type == "dynamic",
            "write `model.rope_scaling.type: yarn`",
        ),
    }
    for what, (is_there, hint) in refused.items():
        if is_there:
            yield Problem(key=KEY, what=what, hint=f"{hint}, or {ALONE}")
    yield from unfit_model(text_config(recipe), KEY, size)


def unfit_model(config: Mapping[str, Any], key: str, size: int) -> Iterator[Problem]:
    """What a model's configuration says that can't be computed in slices.

    Args:
        config: of the language model.
    """
    yield from indivisible_heads(config, key, size)
    kinds = config.get("layer_types")
    others = sorted(set(kinds) - set(_WITHIN_ATTENTION)) if isinstance(kinds, list) else []
    if others:
        what = f"the model has layers of {others[0]}, which see more than a slice of a row"
        yield Problem(key=key, what=what, hint=ALONE)
    rotations = rotations_by_length(config)
    if rotations is not None:
        what = f"the model's rotations, {rotations}, depend on how long a slice is"
        yield Problem(key=key, what=what, hint=ALONE)
