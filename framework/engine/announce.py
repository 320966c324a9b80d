"""What is about to run -> the lines that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from framework.core.protocols.training import InCompany
from framework.core.registries import component_name
from framework.data.prepared import PreparedData
from framework.data.preview import length_histogram
from framework.models.load import Bundle
from framework.planning.plan import Plan, Steps
from framework.recipe.cadence import compares_nothing
from framework.recipe.comparisons import rows_hold_several_documents
from framework.recipe.dump import component_values
from framework.recipe.optimization import warmup_notes
from framework.recipe.sharing import unshared_because
from framework.reports.preparation_lines import data_lines

MOST_GROUPS = 8
"""Parameter groups that are announced; `plan.json` lists all."""


def announcement(
    plan: Plan,
    data: PreparedData,
    bundle: Bundle,
    steps: Steps,
    groups: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """Model, precision, data and steps; and every row that is not trained as it was written."""
    recipe = plan.recipe
    share = bundle.num_trained_parameters / bundle.num_parameters
    yield (
        f"model: {bundle.num_parameters:,} parameters, {bundle.num_trained_parameters:,} trained "
        f"({share:.1%}, {component_name(recipe.adapter)}); weights {plan.weights_dtype}, "
        f"products {plan.autocast_dtype or plan.weights_dtype}; "
        f"attention {bundle.attention.name} ({bundle.attention.reason})"
    )
    if bundle.quantizer is not None:
        held = bundle.num_quantized_parameters / bundle.num_parameters
        verb = "held" if bundle.quantizer.freezes_weights else "rounded in each pass"
        yield (
            f"quantised: {bundle.num_quantized_parameters:,} parameters ({held:.1%}) are {verb} "
            f"by {component_name(bundle.quantizer)}"
        )
    yield from plan.notes
    yield from bundle.notes
    yield from _group_lines(groups)
    yield from data_lines(data)
    because = unshared_because(recipe)
    if because and rows_hold_several_documents(recipe):
        yield f"beginnings in common: computed for each document, {because}"
    yield from _lone_lines(plan, data)
    epoch = f", {steps.steps_per_epoch:,} an epoch" if steps.steps_per_epoch else ""
    yield (
        f"run: {steps.num_steps:,} steps of {recipe.trainer.global_batch_size} "
        f"{'packs' if recipe.data.packing else 'samples'}{epoch}; "
        f"{plan.world.num_processes} x {plan.world.device}, {passes_text(plan)}"
    )
    if recipe.trainer.max_steps is None:
        # Of a number of steps that is written, it is said of the recipe.
        yield from (str(note) for note in warmup_notes(recipe.trainer, steps.num_steps))
    if compares_nothing(recipe, steps.checkpoint_every, steps.evaluate_every, steps.num_steps):
        yield "best checkpoint: the one of the last step, the only one that is saved"


def passes_text(plan: Plan) -> str:
    """What forward passes are made of, and why."""
    size = plan.pass_size
    if size.num_units is None:
        return f"passes of at most {size.num_tokens:,} tokens (micro_batch_size: auto)"
    why = f" (micro_batch_size: auto: {size.reason})" if size.reason else ""
    return f"micro-batches of {size.num_units}, {plan.num_accumulation_steps} a step{why}"


def _lone_lines(plan: Plan, data: PreparedData) -> Iterator[str]:
    """What the last batches leave alone, where that is no matter of course."""
    trainer, size = plan.recipe.trainer, plan.pass_size.num_units
    if size is None:
        return
    method = trainer.method
    fate = method.lone_samples() if isinstance(method, InCompany) else ""
    rest = data.train.num_units % trainer.global_batch_size if data.stream is None else 0
    num_held_out = 0 if data.eval is None else data.eval.num_units
    alone = {"each epoch": rest % size == 1, "data.eval": num_held_out % size == 1}
    for name, is_alone in alone.items():
        if fate and is_alone:
            yield f"the last sample of {name} is alone in its micro-batch of {size}: {fate}"


def _group_lines(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for group in groups[:MOST_GROUPS]:
        yield (
            f"optimizer group: {group['name']}: {group['num_parameters']:,} parameters in "
            f"{group['num_tensors']:,} tensors, peak learning rate {group['learning_rate']:g}, "
            f"weight decay {group['weight_decay']:g}"
        )
    if len(groups) > MOST_GROUPS:
        yield f"optimizer group: {len(groups) - MOST_GROUPS} more; plan.json lists all"


def planned(
    plan: Plan, bundle: Bundle, steps: Steps, groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Every number that was derived from the recipe, for `plan.json`."""
    return {
        "num_devices": plan.world.num_processes,
        "strategy": component_values(plan.recipe.strategy),
        "gradient_checkpointing": component_values(plan.recipe.model.gradient_checkpointing),
        "num_accumulation_steps": plan.num_accumulation_steps,
        "weights_dtype": plan.weights_dtype,
        "autocast_dtype": plan.autocast_dtype,
        "attention": bundle.attention.name,
        "num_parameters": bundle.num_parameters,
        "num_trained_parameters": bundle.num_trained_parameters,
        "parameter_groups": list(groups),
        "quantizer": bundle.quantizer and component_name(bundle.quantizer),
        "num_quantized_parameters": bundle.num_quantized_parameters,
        **asdict(steps),
    }


def described(data: PreparedData) -> dict[str, Any]:
    """What became of the rows, for the report."""
    parts = {"train": data.train, "eval": data.eval}
    return {
        name: store and {**store.details, "length_histogram": length_histogram(store)}
        for name, store in parts.items()
    }
