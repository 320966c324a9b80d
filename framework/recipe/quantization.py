"""Recipe and a model's config.json -> how its weights are held, and what is wrong with that."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, UserError
from framework.core.protocols.components import Checked
from framework.core.protocols.models import (
    Indivisible,
    OverQuantized,
    OverWholeQuantized,
    Quantizer,
    Quantizes,
    ReadsCheckpoint,
)
from framework.core.registries import component_name, registry
from framework.recipe.model_files import local_folder, written_config

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def quantization_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """What the recipe, and the model if it is a folder of this machine, can't do together."""
    try:
        quantizer = quantizer_of(recipe, local_folder(recipe))
    except UserError as error:
        yield from error.problems
        return
    if quantizer is not None:
        yield from quantizer_conflicts(recipe, quantizer)


def quantizer_conflicts(recipe: Recipe, quantizer: Quantizer) -> Iterator[Problem]:
    """What speaks against training over weights that are held so."""
    yield from _adapter_conflicts(recipe, quantizer)
    yield from _strategy_conflicts(recipe, quantizer)
    if recipe.model.quantization is None and isinstance(quantizer, Checked):
        # Found in the model's files; one that the recipe names is asked with all components.
        yield from quantizer.check(recipe)


def missing_packages(*names: str) -> Iterator[Problem]:
    """A problem if packages without which a checkpoint can't be read are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        yield Problem(
            key="model.quantization",
            what=f"needs {' and '.join(f'the package {name!r}' for name in missing)}",
            hint=f"pip install {' '.join(missing)}",
        )


def _adapter_conflicts(recipe: Recipe, quantizer: Quantizer) -> Iterator[Problem]:
    """A problem where the adapter would train quantised weights, or can't stand beside them."""
    adapter, held = recipe.adapter, component_name(quantizer)
    if quantizer.freezes_weights and adapter.trains_all_weights:
        yield Problem(
            key="adapter",
            what=f"`{component_name(adapter)}` trains the model's own weights, and quantised ones "
            f"(`{held}`) can't be trained",
            hint="write `adapter: lora`, or leave out `model.quantization`",
        )
        return
    known = adapter.quantized_layers if isinstance(adapter, OverQuantized) else frozenset[str]()
    if quantizer.layers and quantizer.layers not in known:
        yield Problem(
            key="adapter",
            what=f"`{component_name(adapter)}` does not work over `quantization: {held}`",
            hint="write `adapter: lora`, or leave out `model.quantization`",
        )


def _strategy_conflicts(recipe: Recipe, quantizer: Quantizer) -> Iterator[Problem]:
    """A problem where the strategy would share out weights that have to stay whole."""
    adapter, strategy, held = recipe.adapter, recipe.strategy, component_name(quantizer)
    if strategy.keeps_parameters_whole:
        return
    if isinstance(quantizer, Indivisible) and quantizer.indivisible:
        yield Problem(
            key="strategy",
            what=f"`{component_name(strategy)}` shares weights out, and those of "
            f"`quantization: {held}` can't be split",
            hint="write `strategy: ddp`, or `quantization: bitsandbytes_4bit`",
        )
    elif isinstance(adapter, OverWholeQuantized) and (
        quantizer.layers in adapter.whole_quantized_layers
    ):
        yield Problem(
            key="adapter",
            what=f"`{component_name(adapter)}` works over `quantization: {held}` only where a "
            f"process holds weights whole, and `{component_name(strategy)}` shares them out",
            hint="write `strategy: ddp`, or `adapter: lora`",
        )


def quantizer_of(recipe: Recipe, folder: Path | None) -> Quantizer | None:
    """How the weights in `folder` are held: as the recipe says, or as they are quantised already.

    Args:
        folder: the model's; None as long as it is not known.

    Raises:
        UserError: the two don't fit together, or nothing reads weights that are quantised so.
    """
    asked = recipe.model.quantization
    if folder is None or not written_config(folder):
        return asked
    written = written_quantization(folder)
    if written is None:
        if isinstance(asked, ReadsCheckpoint) and not isinstance(asked, Quantizes):
            raise UserError(_not_quantized(asked, folder))
        return asked
    found = _reader(written, folder)
    if asked is not None and type(found) is not type(asked):
        raise UserError(
            Problem(
                key="model.quantization",
                what=f"the model is quantised already, by `{component_name(found)}`",
                hint=f"write `quantization: {component_name(found)}`, leave it out, or name a "
                "model with whole weights",
            )
        )
    return asked or found


def written_quantization(folder: Path) -> Mapping[str, Any] | None:
    """`quantization_config` of the folder's config.json; None if its weights are whole.

    Raises:
        UserError: config.json can't be read.
    """
    found = written_config(folder).get("quantization_config")
    return found if isinstance(found, dict) else None


def _reader(written: Mapping[str, Any], folder: Path) -> Quantizer:
    kinds = registry("quantizers")
    for kind in (kinds.get(name) for name in kinds.names()):
        found = kind.from_checkpoint(written) if isinstance(kind, ReadsCheckpoint) else None
        if found is not None:
            return found
    method = written.get("quant_method", "unknown")
    raise UserError(
        Problem(
            key="model.source",
            what=f"{str(folder)!r} holds weights quantised by {method!r}, over which nothing can "
            "be trained here",
            hint="name the model with whole weights that it was made of, and quantise it with "
            "`model.quantization: bitsandbytes_4bit` if memory is short",
        )
    )


def _not_quantized(asked: Quantizer, folder: Path) -> Problem:
    return Problem(
        key="model.quantization",
        what=f"`{component_name(asked)}` reads weights that are quantised already, and those in "
        f"{str(folder)!r} are whole",
        hint="write `quantization: bitsandbytes_4bit`, which quantises while it loads",
    )
