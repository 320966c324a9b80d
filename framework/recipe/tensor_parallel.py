"""What a recipe can't have where several processes compute each layer together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem
from framework.core.registries import component_name
from framework.recipe.model_files import text_config

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

KEY = ".tensor_parallel_size"
ALONE = "write tensor_parallel_size: 1"


def tensor_parallel_conflicts(recipe: Recipe, size: int) -> Iterator[Problem]:
    """Whatever does more with a layer than to multiply by its weights; and, where the model's
    config.json is on this machine, heads that can't be shared.

    Args:
        size: how many processes, more than one.
    """
    model, adapter = recipe.model, recipe.adapter
    refused = {
        f"adapter `{component_name(adapter)}` stands in layers that the model's plan cuts": (
            not adapter.trains_all_weights,
            "write `adapter: full`",
        ),
        "quantised weights can't be cut": (
            model.quantization is not None,
            "leave out `model.quantization`",
        ),
        "layers that exchange what they compute can't be compiled": (
            model.compile,
            "write `model.compile: false`",
        ),
        "products in 8 bits have scales of whole weights": (
            model.float8,
            "write `model.float8: false`",
        ),
        "shifted attention shifts half of all heads, and a process has some of them": (
            model.shifted_attention is not None,
            "leave out `model.shifted_attention`",
        ),
    }
    for what, (is_there, hint) in refused.items():
        if is_there:
            yield Problem(key=KEY, what=what, hint=f"{hint}, or {ALONE}")
    yield from indivisible_heads(text_config(recipe), KEY, size)


def indivisible_heads(config: Mapping[str, Any], key: str, size: int) -> Iterator[Problem]:
    """Heads of attention that so many processes can't share.

    Args:
        config: of the language model.
        key: the setting that shares them.
    """
    for name in ("num_attention_heads", "num_key_value_heads"):
        number = config.get(name)
        if isinstance(number, int) and number % size:
            yield Problem(
                key=key,
                what=f"{size} processes can't share the model's {number} {name}",
                hint=f"write a number that divides {number}",
            )
