"""What settings of long context and of memory demand of the rest of the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, UserError
from framework.core.protocols.models import Prefixing, Stepping
from framework.core.protocols.training import Comparing, Online
from framework.core.registries import component_name
from framework.recipe.comparisons import rows_hold_several_documents
from framework.recipe.model_files import local_folder, written_config

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe, RopeScaling


def group_size(recipe: Recipe) -> int | None:
    """Tokens of a group of shifted attention; None: there is none."""
    shifted = recipe.model.shifted_attention
    if shifted is None:
        return None
    return shifted.group_size or max(2, recipe.data.max_length // 4)


def model_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Every conflict between settings of `model` and what stands around them."""
    yield from _rope(recipe)
    yield from _positions(recipe)
    yield from _shifted(recipe)
    yield from _switches(recipe)


def length_conflicts(recipe: Recipe, num_positions: int | None) -> Iterator[Problem]:
    """A problem where rows may be longer than the model.

    Args:
        num_positions: what the model has; None where nothing says so.
    """
    adapter, method, max_length = recipe.adapter, recipe.trainer.method, recipe.data.max_length
    num_virtual = adapter.num_virtual_tokens if isinstance(adapter, Prefixing) else 0
    num_answered = method.max_new_tokens if isinstance(method, Online) else 0
    left = None if num_positions is None else num_positions - num_virtual - num_answered
    if num_positions is None or left is None or max_length <= left:
        return
    added = f", with the adapter's {num_virtual} virtual tokens," if num_virtual else ""
    added += f", with answers of trainer.max_new_tokens {num_answered}," if num_answered else ""
    fitting = f"write `data.max_length: {left}`, or " if left > 0 else "write "
    scaling = recipe.model.rope_scaling
    unscaled = num_positions / (1 if scaling is None else scaling.factor)
    factor = math.ceil((max_length + num_virtual + num_answered) / unscaled)
    yield Problem(
        key="data.max_length",
        what=f"{max_length}{added} is longer than the model's {num_positions} positions",
        hint=f"{fitting}`model.rope_scaling: {{type: yarn, factor: {factor}}}`",
    )


def model_notes(recipe: Recipe) -> Iterator[Problem]:
    """What needs a GPU, which may not be there where the recipe is checked."""
    model = recipe.model
    if model.float8:
        yield Problem(
            key="model.float8",
            what="runs only on a GPU of compute capability 8.9 or above; training elsewhere is "
            "refused",
        )
    if model.attention == "flex_attention":
        yield Problem(
            key="model.attention",
            what="flex_attention runs only on a GPU; training elsewhere is refused",
        )


def _rope(recipe: Recipe) -> Iterator[Problem]:
    scaling = recipe.model.rope_scaling
    if scaling is None:
        return
    if scaling.type == "dynamic" and rows_hold_several_documents(recipe):
        yield Problem(
            key="model.rope_scaling.type",
            what="with `dynamic` a document's rotations depend on the longest one beside it",
            hint="write `data.packing: false` and `trainer.micro_batch_size: 1`, with a trainer "
            "of single answers; or `type: yarn`",
        )
    if scaling.type != "yarn":
        for name in ("beta_fast", "beta_slow", "attention_factor"):
            if vars(scaling)[name] is not None:
                yield Problem(
                    key=f"model.rope_scaling.{name}",
                    what=f"is a setting of `type: yarn`, not of {scaling.type}",
                    hint="remove it",
                )


def _positions(recipe: Recipe) -> Iterator[Problem]:
    """What is known of the model's length before it is loaded."""
    try:
        config = written_config(local_folder(recipe))
    except UserError as error:
        yield from error.problems
        return
    yield from length_conflicts(recipe, _written_positions(config, recipe.model.rope_scaling))


def _written_positions(config: Mapping[str, Any], scaling: RopeScaling | None) -> int | None:
    """Positions by a model's config.json and the recipe; None where they don't say."""
    text = _within(config, "text_config") or config
    limit = text.get("max_position_embeddings")
    if not isinstance(limit, int):
        return None
    if scaling is not None:
        return round((scaling.original_max_position_embeddings or limit) * scaling.factor)
    own = _within(text, "rope_parameters") or _within(text, "rope_scaling")
    factor = own.get("factor")
    is_dynamic = "dynamic" in (own.get("rope_type"), own.get("type"))
    return round(limit * factor) if is_dynamic and isinstance(factor, int | float) else limit


def _within(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping inside of it; empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _shifted(recipe: Recipe) -> Iterator[Problem]:
    size, model, method = group_size(recipe), recipe.model, recipe.trainer.method
    if size is None:
        return
    if model.attention not in {"auto", "sdpa"}:
        yield Problem(
            key="model.attention",
            what=f"shifted attention is computed by `sdpa`, not by {model.attention}",
            hint="write attention: auto",
        )
    if size >= recipe.data.max_length:
        yield Problem(
            key="model.shifted_attention.group_size",
            what=f"{size} is no less than data.max_length {recipe.data.max_length}: every document "
            "would be one group",
            hint=f"write group_size: {max(2, recipe.data.max_length // 4)}",
        )
    compares = isinstance(method, Comparing) and method.compared_with() is not None
    if compares or isinstance(method, Online):
        yield Problem(
            key="model.shifted_attention",
            what=f"{component_name(method)} compares numbers of the trained model with those of a "
            "model that has full attention",
            hint="remove it, or train with `trainer: sft`",
        )


def _switches(recipe: Recipe) -> Iterator[Problem]:
    model, adapter = recipe.model, recipe.adapter
    if model.float8 and not adapter.trains_all_weights:
        yield Problem(
            key="model.float8",
            what=f"speeds up the training of the model's own weights, and adapter "
            f"{component_name(adapter)} leaves them frozen",
            hint="write float8: false, or `adapter: full`",
        )
    if model.float8 and model.quantization is not None:
        yield Problem(
            key="model.float8",
            what="the weights are held in few bits already",
            hint="write float8: false, or remove model.quantization",
        )
    changes = isinstance(adapter, Stepping) and adapter.changes_trained_parameters
    if model.compile and changes:
        yield Problem(
            key="model.compile",
            what=f"adapter {component_name(adapter)} changes what is trained, and each change "
            "would be compiled anew",
            hint="write compile: false",
        )
    if model.compile and model.quantization is not None:
        yield Problem(
            key="model.compile",
            what="kernels of quantised weights can't be compiled",
            hint="write compile: false, or remove model.quantization",
        )
