"""What is about to run -> the lines that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from framework.core.registries import component_name
from framework.data.prepared import PreparedData
from framework.data.preview import DataNumbers, data_numbers, length_histogram
from framework.models.load import Bundle
from framework.planning.plan import Plan, Steps
from framework.reports.asked import asked_lines

SHARE_TOLERANCE = 0.01
"""Difference between a dataset's asked and realised share that is worth a warning."""


def announcement(plan: Plan, data: PreparedData, bundle: Bundle, steps: Steps) -> Iterator[str]:
    """Model, precision, data and steps; and every row that is not trained as it was written."""
    recipe = plan.recipe
    share = bundle.num_trained_parameters / bundle.num_parameters
    yield (
        f"model: {bundle.num_parameters:,} parameters, {bundle.num_trained_parameters:,} trained "
        f"({share:.1%}, {component_name(recipe.adapter)}); weights {plan.weights_dtype}, "
        f"products {plan.autocast_dtype or plan.weights_dtype}; "
        f"attention {bundle.attention.name} ({bundle.attention.reason})"
    )
    if data.stream is not None:
        yield "train: streamed; what follows is of the first rows of each dataset"
    for name, store in (("train", data.train), ("eval", data.eval)):
        if store is not None:
            yield from _data_lines(name, data_numbers(store))
            yield from (f"{name}: {line}" for line in asked_lines(store.details))
    for name, numbers in data.train.details["sources"].items():
        if "num_eval_rows" in numbers:
            yield (
                f"{name}: data.split leaves {numbers['num_train_rows']:,} rows to train, "
                f"{numbers['num_eval_rows']:,} to evaluate, {numbers['num_test_rows']:,} to test"
            )
    if data.stream is None:
        yield from _mixing_lines(data.train.details["mixing"])
    epoch = f", {steps.steps_per_epoch:,} an epoch" if steps.steps_per_epoch else ""
    yield (
        f"run: {steps.num_steps:,} steps of {recipe.trainer.global_batch_size} "
        f"{'packs' if recipe.data.packing else 'samples'}{epoch}; "
        f"{plan.world.num_processes} x {plan.world.device}, micro-batches of "
        f"{recipe.trainer.micro_batch_size}, {plan.num_accumulation_steps} a step"
    )


def planned(plan: Plan, bundle: Bundle, steps: Steps) -> dict[str, Any]:
    """Every number that was derived from the recipe, for `plan.json`."""
    return {
        "num_devices": plan.world.num_processes,
        "num_accumulation_steps": plan.num_accumulation_steps,
        "weights_dtype": plan.weights_dtype,
        "autocast_dtype": plan.autocast_dtype,
        "attention": bundle.attention.name,
        "num_parameters": bundle.num_parameters,
        "num_trained_parameters": bundle.num_trained_parameters,
        **asdict(steps),
    }


def described(data: PreparedData) -> dict[str, Any]:
    """What became of the rows, for the report."""
    parts = {"train": data.train, "eval": data.eval}
    return {
        name: store and {**store.details, "length_histogram": length_histogram(store)}
        for name, store in parts.items()
    }


def _data_lines(name: str, numbers: DataNumbers) -> Iterator[str]:
    packs = ""
    if numbers.packing_efficiency is not None:
        packs = f" in {numbers.num_packs:,} packs ({numbers.packing_efficiency:.1%} full)"
    yield (
        f"{name}: {numbers.num_rows:,} rows, {numbers.num_samples:,} samples{packs}, "
        f"{numbers.num_tokens:,} tokens, {numbers.num_trained_tokens:,} of them trained"
    )
    fates = {
        f"longer than data.max_length{_fates(numbers)}": numbers.num_over_length_rows,
        "with nothing to train, left out": numbers.num_untrained_rows,
        "that don't fit their format, skipped": numbers.num_skipped_rows,
    }
    for fate, count in fates.items():
        if count:
            yield f"{name}: warning: {count:,} rows {fate}; the report lists them"


def _mixing_lines(mixing: Mapping[str, Any]) -> Iterator[str]:
    """What one epoch has of each dataset; nothing where every sample stands once."""
    datasets = mixing["datasets"]
    if all(one["asked"] is None and one["passes"] == 1.0 for one in datasets):
        return
    unit = mixing["unit"].replace("_", " ")
    parts = [
        f"{one['name']} {one['realised']:.1%}{_asked(one)} in {one['num_samples']:,} samples "
        f"({one['passes']:.3g} passes, {one['num_unused_samples']:,} samples unused)"
        for one in datasets
    ]
    yield f"train: an epoch, by {unit}: {'; '.join(parts)}"
    for one in datasets:
        if one["asked"] is not None and abs(one["realised"] - one["asked"]) > SHARE_TOLERANCE:
            yield (
                f"train: warning: {one['name']} has {one['realised']:.1%} of the {unit}, asked "
                f"were {one['asked']:.1%}: its samples are too few and too long for that share"
            )


def _asked(dataset: Mapping[str, Any]) -> str:
    return "" if dataset["asked"] is None else f" (asked {dataset['asked']:.1%})"


def _fates(numbers: DataNumbers) -> str:
    """What became of the rows that are too long: ` (2 cut, 1 answer without its end)`."""
    fates = {
        "cut": numbers.num_cut_rows,
        "split": numbers.num_split_rows,
        "dropped": numbers.num_dropped_rows,
        "answers trained without their end": numbers.num_cut_answers,
        "tokens no longer trained": numbers.num_lost_trained_tokens,
    }
    return f" ({', '.join(f'{count:,} {fate}' for fate, count in fates.items() if count)})"
