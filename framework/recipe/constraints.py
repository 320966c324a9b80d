"""What the recipe's own sections demand of each other; a component states its own in `check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.protocols.data import Deciding, Formatter
from framework.core.protocols.training import Weighing
from framework.core.registries import component_name, registry
from framework.core.samples import (
    Completion,
    Document,
    Sample,
    Tokenized,
)
from framework.recipe.cadence import cadence_conflicts
from framework.recipe.chat_templates import missing_template
from framework.recipe.comparisons import comparison_conflicts
from framework.recipe.long_context import model_conflicts, model_notes
from framework.recipe.masking import masking_conflicts
from framework.recipe.micro_batches import AUTO, units_of_a_pass
from framework.recipe.optimization import optimization_conflicts, warmup_notes
from framework.recipe.quantization import quantization_conflicts
from framework.recipe.repeated_data import repeated_data
from framework.recipe.row_slice import slice_bounds
from framework.recipe.sample_words import words_for
from framework.recipe.schema import default_name
from framework.recipe.spreading import spreading_conflicts
from framework.recipe.without_effect import unused_in_sections

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe


_EVALUATED = "add a dataset under `data.eval`, or write `split: {eval: 0.05}` or"


def section_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Every conflict between settings of different fields or sections."""
    yield from _either_or(recipe)
    yield from _batch(recipe)
    yield from _template(recipe)
    yield from _names(recipe)
    yield from _rows(recipe)
    yield from _streaming(recipe)
    yield from _mixing(recipe)
    yield from _split(recipe)
    yield from _cleaners(recipe)
    yield from _formats(recipe)
    yield from masking_conflicts(recipe)
    yield from comparison_conflicts(recipe)
    yield from _additions(recipe)
    yield from _loss_weights(recipe)
    yield from _attention(recipe)
    yield from model_conflicts(recipe)
    yield from _precision(recipe)
    yield from quantization_conflicts(recipe)
    yield from _evaluation(recipe)
    yield from unused_in_sections(recipe)
    yield from _kept_checkpoints(recipe)
    yield from _cadence(recipe)
    yield from optimization_conflicts(recipe)
    yield from spreading_conflicts(recipe)


def _either_or(recipe: Recipe) -> Iterator[Problem]:
    pairs = (
        ("trainer", recipe.trainer, "max_steps", "num_train_epochs"),
        ("trainer", recipe.trainer, "warmup_steps", "warmup_ratio"),
        ("checkpoint", recipe.checkpoint, "every_steps", "every_epochs"),
        ("evaluation", recipe.evaluation, "every_steps", "every_epochs"),
    )
    for section, settings, first, second in pairs:
        written = vars(settings)
        if written[first] is not None and written[second] is not None:
            yield Problem(
                key=f"{section}.{first}",
                what=f"says the same thing as `{section}.{second}`",
                hint="keep one of the two",
            )


def _batch(recipe: Recipe) -> Iterator[Problem]:
    whole, part = recipe.trainer.global_batch_size, recipe.trainer.micro_batch_size
    if part != AUTO and whole % part:
        near = max(size for size in range(1, part + 1) if whole % size == 0)
        yield Problem(
            key="trainer.micro_batch_size",
            what=f"{part} does not divide global_batch_size {whole}",
            hint=f"write micro_batch_size: {near}",
        )
    method = recipe.trainer.method
    if recipe.data.packing and not method.packs:
        yield Problem(
            key="data.packing",
            what=f"the trainer {type(method).__name__} can't pack",
            hint="write packing: false",
        )


def _streaming(recipe: Recipe) -> Iterator[Problem]:
    """A stream's end is never seen, and what was read is not kept."""
    if recipe.data.streaming is None:
        return
    trainer, checkpoint, evaluation = recipe.trainer, recipe.checkpoint, recipe.evaluation
    if trainer.max_steps is None:
        yield Problem(
            key="trainer.max_steps",
            what="is missing: a stream doesn't say how many steps an epoch has",
            hint="write max_steps: 1000",
        )
    elif checkpoint.every_steps is None:
        yield Problem(
            key="checkpoint.every_steps",
            what="is missing: with streamed data no epoch ends that could be saved",
            hint=f"write every_steps: {max(1, trainer.max_steps // 10)}",
        )
    if len(recipe.data.train) > 1 and any(one.weight is None for one in recipe.data.train):
        yield Problem(
            key="data.train",
            what="a stream of several datasets needs the weight of each: their sizes are unknown",
            hint="write `weight: 1` beside each source",
        )
    if component_name(recipe.data.mixture) != "shuffle":
        yield Problem(
            key="data.mixture",
            what="a stream has no end, so no part of it can be mixed in another way than the rest",
            hint="write mixture: shuffle, or prepare the data instead of streaming it",
        )
    if recipe.data.mixing_unit != "trained_tokens":
        yield Problem(
            key="data.mixing_unit",
            what="a stream is mixed by trained tokens",
            hint="write mixing_unit: trained_tokens",
        )
    without = (
        ("trainer.num_train_epochs", trainer.num_train_epochs, "write trainer.max_steps"),
        ("checkpoint.every_epochs", checkpoint.every_epochs, "write every_steps"),
        ("evaluation.every_epochs", evaluation.every_epochs, "write every_steps"),
        ("data.cleaners", recipe.data.cleaners, "clean the data first: `framework data clean`"),
    )
    for key, value, hint in without:
        if value:
            yield Problem(key=key, what="can't be used with streamed data", hint=hint)
    for index, dataset in enumerate(recipe.data.train):
        if dataset.epochs is not None:
            yield Problem(
                key=f"data.train[{index}].epochs",
                what="a stream goes over every dataset as often as its weight demands",
                hint="remove it",
            )
        if dataset.rows is not None:
            yield Problem(
                key=f"data.train[{index}].rows",
                what="a slice can't be streamed: it has to count rows",
                hint="leave it out, or prepare the data instead of streaming it",
            )


def _template(recipe: Recipe) -> Iterator[Problem]:
    written = recipe.tokenizer.chat_template
    missing = None if written is None else missing_template(written)
    if missing:
        yield missing


def _names(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    of_train = {one.name or default_name(key) for key, one in data.datasets_of("train").items()}
    for part, datasets in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        # What a split takes from `train` keeps its names.
        held_out = part != "train" and data.split is not None and vars(data.split)[part]
        taken = set(of_train) if held_out else set[str]()
        for index, dataset in enumerate(datasets):
            key = f"data.{part}[{index}]"
            name = dataset.name or default_name(key)
            if name in taken:
                yield Problem(
                    key=f"{key}.name",
                    what=f"{name!r} is the name of another dataset of this part",
                    hint="write another name; sample ids begin with it",
                )
            taken.add(name)


def _rows(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    for part, datasets in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        for index, dataset in enumerate(datasets):
            if dataset.rows is None:
                continue
            try:
                slice_bounds(dataset.rows)
            except UserError as error:
                for problem in error.problems:
                    yield replace(problem, key=f"data.{part}[{index}].rows")


def _split(recipe: Recipe) -> Iterator[Problem]:
    split = recipe.data.split
    if split is None:
        return
    held_out = split.eval + split.test
    if not 0 < held_out < 1:
        what = "nothing is held out" if not held_out else f"{held_out:g} of the rows are held out"
        yield Problem(key="data.split", what=what, hint="write eval: 0.05, or test: 0.05, or both")
    if split.key and split.stratify is not None:
        yield Problem(
            key="data.split.stratify",
            what="a key decides each row by itself, so no class can be split exactly",
            hint="remove `stratify`, or `key`",
        )
    if recipe.data.streaming is not None and not split.key:
        yield Problem(
            key="data.split",
            what="exact parts can't be drawn of a stream, whose rows are not counted",
            hint="write key: [COLUMN]",
        )


def section_notes(recipe: Recipe) -> Iterator[Problem]:
    """What is allowed in a section, and perhaps not meant."""
    yield from model_notes(recipe)
    yield from repeated_data(recipe.data)
    if recipe.trainer.max_steps is not None:
        yield from warmup_notes(recipe.trainer, recipe.trainer.max_steps)
    for first, second in _equal_cleaners(recipe):
        if second > first + 1:
            yield Problem(
                key=f"data.cleaners[{second}]",
                what=f"is the same as data.cleaners[{first}]: it looks again, at what those in "
                "between leave",
            )


def _cleaners(recipe: Recipe) -> Iterator[Problem]:
    for first, second in _equal_cleaners(recipe):
        if second == first + 1:
            yield Problem(
                key=f"data.cleaners[{second}]",
                what=f"is the same as data.cleaners[{first}], right after it",
                hint="keep one of the two",
            )


def _equal_cleaners(recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Positions of each cleaner that stands twice with the same settings, and of the one before."""
    cleaners = recipe.data.cleaners
    for second, cleaner in enumerate(cleaners):
        same = [first for first in range(second) if cleaners[first] == cleaner]
        if same:
            yield same[-1], second


def _mixing(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    weighted = [one for one in data.train if one.weight is not None]
    for index, dataset in enumerate(data.train):
        if weighted and dataset.weight is None:
            yield Problem(
                key=f"data.train[{index}].weight",
                what="is missing, and other datasets of data.train have one",
                hint="give every dataset a weight, or none",
            )
    for part, datasets in (("eval", data.eval), ("test", data.test)):
        for index, dataset in enumerate(datasets):
            for name in ("weight", "epochs"):
                if vars(dataset)[name] is not None:
                    yield Problem(
                        key=f"data.{part}[{index}].{name}",
                        what="held-out data are never mixed, each row counts once",
                        hint="remove it; `rows:` makes the dataset smaller",
                    )


def _formats(recipe: Recipe) -> Iterator[Problem]:
    for part, datasets in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for index, dataset in enumerate(datasets):
            # What one that decides by rows makes is only known from them: it checks that itself.
            if not isinstance(dataset.format, Deciding):
                yield from unfit_format(f"data.{part}[{index}].format", dataset.format, recipe)


def unfit_format(key: str, format_: Formatter, recipe: Recipe) -> Iterator[Problem]:
    """A problem if the trainer can't learn from the samples that the format makes."""
    method = recipe.trainer.method
    if format_.produces in method.consumes:
        return
    learned = ", ".join(words_for(kind) for kind in method.consumes)
    yield Problem(
        key=key,
        what=f"format `{_name(format_)}` makes {words_for(format_.produces)}; "
        f"trainer `{_name(method)}` learns from {learned}",
        hint=_other_trainer(format_.produces) or "use another format (`framework list` shows them)",
    )


def _name(component: object) -> str:
    return component_name(component) or type(component).__name__


def _other_trainer(kind: type[Sample]) -> str:
    """What to write for samples of which the recipe's trainer can't learn."""
    if kind is Document:
        return "to train on raw text, write `trainer: {type: pretrain}`"
    kinds = registry("trainers")
    learning = [
        f"`trainer: {{type: {name}}}`"
        for name in kinds.names()
        if kind in vars(kinds.get(name)).get("consumes", ())
    ]
    return f"write {' or '.join(learning)}, or use another format"


_WITHOUT_PROMPT = (Document, Tokenized)


def _additions(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    for part, datasets in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        for index, dataset in enumerate(datasets):
            yield from unfit_additions(f"data.{part}[{index}]", dataset, dataset.format)


def unfit_additions(key: str, dataset: Dataset, format_: Formatter) -> Iterator[Problem]:
    """A problem for what the dataset adds to samples that have no place for it."""
    produces = format_.produces
    if dataset.task_prefix is not None and produces in _WITHOUT_PROMPT:
        yield Problem(
            key=f"{key}.task_prefix",
            what=f"rows of {words_for(produces)} have no prompt before which it could stand",
            hint="leave it out, or use a format with prompts",
        )
    if dataset.system_prompt is not None and produces in (*_WITHOUT_PROMPT, Completion):
        yield Problem(
            key=f"{key}.system_prompt",
            what=f"rows of {words_for(produces)} have no place for a system turn",
            hint="leave it out, or use a format that makes conversations",
        )


def _loss_weights(recipe: Recipe) -> Iterator[Problem]:
    """Weights that the loss would not look at."""
    method = recipe.trainer.method
    if isinstance(method, Weighing) and method.weighs_samples:
        return
    for part, datasets in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for index, dataset in enumerate(datasets):
            if dataset.loss_weight_column is not None:
                yield Problem(
                    key=f"data.{part}[{index}].loss_weight_column",
                    what=f"trainer `{_name(method)}` counts every row the same",
                    hint="remove it",
                )


def _attention(recipe: Recipe) -> Iterator[Problem]:
    if recipe.model.attention != "eager":
        return
    if recipe.data.packing:
        yield Problem(
            key="data.packing",
            what="eager attention can't keep the documents of a pack apart",
            hint="write packing: false, or model.attention: sdpa",
        )
    units = units_of_a_pass(recipe)
    if units is not None and units.number > 1:
        yield Problem(
            key="trainer.micro_batch_size",
            what="eager attention takes one document at a time",
            hint="write micro_batch_size: 1, or model.attention: sdpa",
        )


def _precision(recipe: Recipe) -> Iterator[Problem]:
    if recipe.model.dtype == "float16" and recipe.adapter.trains_all_weights:
        yield Problem(
            key="model.dtype",
            what="float16 weights can't be trained: their updates underflow",
            hint="write dtype: auto, or an adapter",
        )


def _kept_checkpoints(recipe: Recipe) -> Iterator[Problem]:
    checkpoint, evaluation = recipe.checkpoint, recipe.evaluation
    every = checkpoint.every_steps
    if checkpoint.keep_best is None:
        if recipe.output.final == "best":
            yield Problem(
                key="output.final",
                what="no checkpoint is kept because it is the best",
                hint="write checkpoint.keep_best: {}, or output.final: last",
            )
        return
    if not recipe.data.datasets_of("eval"):
        yield Problem(
            key="checkpoint.keep_best",
            what="needs an evaluation, and `data.eval` is empty",
            hint=f"{_EVALUATED} `keep_best: null`",
        )
    elif evaluation.every_steps is None and evaluation.every_epochs is None:
        yield Problem(
            key="checkpoint.keep_best",
            what="compares nothing: the model is evaluated once, at the end",
            hint=f"write evaluation.every_steps: {every or 100}",
        )


def _cadence(recipe: Recipe) -> Iterator[Problem]:
    """What is known without the steps of an epoch, on which the rest depends."""
    checkpoint, evaluation = recipe.checkpoint, recipe.evaluation
    if checkpoint.every_steps is not None:
        evaluate_every = evaluation.every_steps or 0
        yield from cadence_conflicts(
            recipe, checkpoint.every_steps, evaluate_every, recipe.trainer.max_steps
        )


def _evaluation(recipe: Recipe) -> Iterator[Problem]:
    evaluation, data = recipe.evaluation, recipe.data
    has_eval, has_test = bool(data.datasets_of("eval")), bool(data.datasets_of("test"))
    if evaluation.early_stopping and not has_eval:
        yield Problem(
            key="evaluation.early_stopping",
            what="needs an evaluation loss, and `data.eval` is empty",
            hint=f"{_EVALUATED} `early_stopping: null`",
        )
    if evaluation.num_generations and not has_test:
        yield Problem(
            key="evaluation.num_generations",
            what="needs rows to ask, and `data.test` is empty",
            hint="add a dataset under `data.test`, or write `split: {test: 0.05}`",
        )
    periodic = "every_steps" if evaluation.every_steps else "every_epochs"
    if vars(evaluation)[periodic] and not (has_eval or has_test):
        yield Problem(
            key=f"evaluation.{periodic}",
            what="there is nothing to evaluate on",
            hint=f"add a dataset under `data.eval` or `data.test`, or write `{periodic}: null`",
        )
