"""Prepared data -> the lines that say what became of its rows, the same for every command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from framework.core.protocols.training import Online
from framework.data.prepared import PreparedData
from framework.data.preview import DataNumbers, data_numbers
from framework.data.store import Store
from framework.reading.split_parts import far_parts
from framework.recipe.schema import Recipe
from framework.reports.asked import asked_lines

SHARE_TOLERANCE = 0.01
"""Difference between a dataset's asked and realised share that is worth a warning."""

LEAST_FILLED = 0.9
"""Share of packs that should be filled."""
FEW_PACKS = 20
"""Below so many, the last one's empty room says nothing."""

MOST_COLUMNS = 10
"""Unread columns of a dataset that are named; the report lists all."""

_ACTIONS = {
    "num_drop": "dropped",
    "num_change": "changed",
    "num_report": "reported",
    "num_refuse": "refused",
}


def data_lines(data: PreparedData) -> Iterator[str]:
    """Numbers of each part, and every row that is not trained as it was written."""
    recipe = data.lazy_chat.recipe
    if data.stream is not None:
        yield "train: streamed; what follows is of the first rows of each dataset"
    for name, store in (("train", data.train), ("eval", data.eval)):
        if store is not None:
            yield from part_lines(name, store, recipe)
    for name, numbers in data.train.details["sources"].items():
        if "num_eval_rows" in numbers:
            yield (
                f"{name}: data.split leaves {numbers['num_train_rows']:,} rows to train, "
                f"{numbers['num_eval_rows']:,} to evaluate, {numbers['num_test_rows']:,} to test"
            )
    # Of streamed data, training was shown the first rows alone; the evaluation's reading saw all.
    whole = data.train if data.stream is None else data.eval
    if recipe.data.split is not None and whole is not None:
        for far in far_parts(recipe.data.split, whole.details["sources"]):
            yield f"warning: {far}"
    if data.stream is None:
        yield from _mixing(data.train.details["mixing"])


def part_lines(name: str, store: Store, recipe: Recipe) -> Iterator[str]:
    """What became of the rows of one part."""
    only_prompts = isinstance(recipe.trainer.method, Online)
    yield from _rows(name, data_numbers(store), only_prompts=only_prompts)
    yield from (f"{name}: {line}" for line in _cleaned(store, dry_run=recipe.data.dry_run))
    yield from (f"{name}: {line}" for line in asked_lines(store.details))
    for counts in store.details["datasets"]:
        if counts["unread_columns"]:
            yield f"{name}: note: {counts['name']}: {_unread(counts['unread_columns'])}"


def _unread(columns: Mapping[str, str | None]) -> str:
    """Those that may be mistyped come first."""
    names = sorted(columns, key=lambda name: columns[name] is None)
    shown = [
        f"{name!r} (did you mean {columns[name]!r}?)" if columns[name] else repr(name)
        for name in names[:MOST_COLUMNS]
    ]
    if len(names) > MOST_COLUMNS:
        shown.append(f"{len(names) - MOST_COLUMNS} more")
    return f"nothing reads the {'column' if len(names) == 1 else 'columns'} {', '.join(shown)}"


def _cleaned(store: Store, *, dry_run: bool) -> Iterator[str]:
    """What each cleaner did, or would have done."""
    for counts in store.details["cleaners"]:
        done = [f"{counts[key]:,} {action}" for key, action in _ACTIONS.items() if counts[key]]
        found = ", ".join(done) or "found nothing"
        if done:
            found += f"; listed in {store.folder / counts['file']}"
        aside = " (data.dry_run: nothing of this was done)" if dry_run and done else ""
        yield f"{'warning: ' if aside else ''}{counts['cleaner']}: {found}{aside}"


def _rows(name: str, numbers: DataNumbers, *, only_prompts: bool) -> Iterator[str]:
    packs = ""
    if numbers.packing_efficiency is not None:
        packs = f" in {numbers.num_packs:,} packs ({numbers.packing_efficiency:.1%} full)"
    tokens = f"{numbers.num_tokens:,} tokens, {numbers.num_trained_tokens:,} of them trained"
    if only_prompts:
        tokens = f"{numbers.num_tokens:,} tokens of prompts; trained are the model's own answers"
    yield f"{name}: {numbers.num_rows:,} rows, {numbers.num_samples:,} samples{packs}, {tokens}"
    if numbers.num_shared_tokens:
        share = numbers.num_shared_tokens / numbers.num_tokens
        yield (
            f"{name}: {share:.1%} of the tokens begin samples that begin alike, and are computed "
            "once for those of a pack (data.share_prefixes)"
        )
    filled = numbers.packing_efficiency
    if filled is not None and filled < LEAST_FILLED and (numbers.num_packs or 0) >= FEW_PACKS:
        yield (
            f"{name}: warning: packs are only {filled:.0%} full; a mixture with fewer num_stages, "
            "or a longer data.max_length, fills them better"
        )
    fates = {
        f"longer than data.max_length{_fates(numbers)}": numbers.num_over_length_rows,
        "with nothing to train, left out": numbers.num_untrained_rows,
        "that can't be read or don't fit their format, skipped": numbers.num_skipped_rows,
    }
    for fate, count in fates.items():
        if count:
            yield f"{name}: warning: {count:,} rows {fate}; details.json and the report list them"


def _mixing(mixing: Mapping[str, Any]) -> Iterator[str]:
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
