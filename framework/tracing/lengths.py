"""Recipe and prepared data -> what batches hold; estimated where nothing is prepared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from framework.chat.lazy_chat import LazyChat
from framework.core.batch import Encoded, Features
from framework.core.problems import UserError
from framework.core.protocols.training import Online
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    RowError,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)
from framework.data.prepare import find_prepared
from framework.data.store import Store
from framework.engine.order import Order
from framework.planning.passes import PassSize
from framework.planning.plan import Plan
from framework.reading.parts import named_datasets
from framework.reading.rows import expected_rows
from framework.recipe.schema import Recipe

MOST_UNITS = 2_000_000
"""Units whose batches are looked at one by one."""
BYTES_PER_TOKEN = 4
"""Of English text, about."""
FILLED = 0.95
"""Of packs, about."""
SHORTEST = 2
"""Tokens of a document."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What passes go over."""

    exact: bool
    origin: str
    """Where the numbers come from, in words."""
    num_units: int | None
    """Packs or samples of an epoch; None where nobody knows."""
    tokens_per_unit: float
    """That are computed, on average."""
    counted_per_unit: float
    """Tokens as a run counts them: what documents have in common, for each of them."""
    squares_per_unit: float
    """Sum of the squared lengths of a unit's documents, on average."""
    heaviest: tuple[tuple[Features, ...], ...]
    """Micro-batches, one of which takes most memory."""
    passes_per_step: float
    """Forward passes of each process, on average."""
    most_passes: int
    """In one step."""


def lengths_of(plan: Plan, folder: Path) -> Lengths:
    """Those of the prepared data, or what the recipe allows at most.

    Args:
        folder: the model's; with its tokenizer if prepared data are to be found.
    """
    recipe = plan.recipe
    if recipe.data.streaming is None and not isinstance(recipe.trainer.method, Online):
        try:
            store = find_prepared(recipe, "train", LazyChat(recipe, folder))
        except (UserError, OSError):
            store = None
        if store is not None:
            return prepared_lengths(plan, store)
    return _estimated(plan)


# ---- prepared


def prepared_lengths(plan: Plan, store: Store) -> Lengths:
    """Exact: the very micro-batches of the run's first epoch."""
    units = store.arrays["units"]
    tokens = _per_unit(store, store.computed_lengths())
    ends = store.arrays["feature_ends"]
    squares = np.cumsum(np.square(store.document_lengths().astype(np.float64)))[ends - 1]
    # What a document shares is looked at as often as it is computed: for the first that has it.
    beside = np.diff(squares, prepend=0)[units] - np.square(store.arrays["shared"], dtype=float)
    trained = np.cumsum(store.trained, dtype=np.int64)[store.sample_ends() - 1]
    labels = _per_unit(store, np.diff(trained, prepend=0)[units])
    passes = _passes(plan, store, tokens)
    batches = passes.batches
    chosen = {
        max(range(len(batches)), key=lambda at: int(counts[batches[at]].sum()))
        for counts in (tokens, labels)
    }
    return Lengths(
        exact=True,
        origin=f"prepared data, {store.num_units:,} "
        f"{'packs' if plan.recipe.data.packing else 'samples'}{_shared(store)}",
        num_units=store.num_units,
        tokens_per_unit=float(tokens.mean()),
        counted_per_unit=float((tokens + _per_unit(store, store.arrays["shared"])).mean()),
        squares_per_unit=float(_per_unit(store, beside).mean()),
        heaviest=tuple(_features(store, batches[at]) for at in sorted(chosen)),
        passes_per_step=passes.per_step,
        most_passes=passes.most,
    )


def _shared(store: Store) -> str:
    num_shared = int(store.arrays["shared"].sum())
    if not num_shared:
        return ""
    share = num_shared / (num_shared + int(store.computed_lengths().sum()))
    return f", {share:.0%} of whose tokens are computed for several samples at once"


def _per_unit(store: Store, per_member: NDArray[Any]) -> NDArray[Any]:
    """Sums over the members of each unit."""
    return np.diff(np.cumsum(per_member)[store.arrays["unit_ends"] - 1], prepend=0)


class _Passes(NamedTuple):
    """Of an epoch."""

    batches: list[NDArray[np.int64]]
    """Units of each pass of each process, empty ones left out."""
    per_step: float
    most: int


def _passes(plan: Plan, store: Store, tokens: NDArray[Any]) -> _Passes:
    """Every pass; where there are too many, one of the longest units together."""
    trainer, size = plan.recipe.trainer, plan.pass_size
    num_parts = plan.data_parallel_size
    if store.num_units > MOST_UNITS:
        share = -(-trainer.global_batch_size // num_parts)
        longest = int(tokens.max())
        mean, most = _num_passes(plan, share, float(tokens.mean()), longest)
        return _Passes([_longest_together(tokens, size, share)], mean, most)
    order = Order(
        stage_ends=store.stage_ends,
        global_batch_size=trainer.global_batch_size,
        seed=trainer.seed,
        data_fingerprint=store.fingerprint,
    )
    num_steps = min(order.steps_per_epoch, trainer.max_steps or order.steps_per_epoch)
    batches: list[NDArray[np.int64]] = []
    numbers: list[int] = []
    for step in range(num_steps):
        batch = order.global_batch(step)
        shares = size.deal(tokens[batch].tolist(), num_parts)
        numbers.append(len(shares[0]))
        batches += [batch[list(one)] for share in shares for one in share if len(one)]
    if plan.num_accumulation_steps is not None:
        return _Passes(batches, plan.num_accumulation_steps, plan.num_accumulation_steps)
    return _Passes(batches, float(np.mean(numbers)), max(numbers))


def _num_passes(plan: Plan, share: int, mean: float, longest: int) -> tuple[float, int]:
    """(Forward passes of a step, most of one), as far as tokens per unit say.

    Args:
        share: units of a process.
        mean: tokens of a unit.
        longest: tokens of the longest.
    """
    if plan.num_accumulation_steps is not None:
        return plan.num_accumulation_steps, plan.num_accumulation_steps
    room = plan.pass_size.num_tokens
    expected = max(1, round(share * mean / room))
    return expected, 1 if share * longest <= room else max(2, expected)


def _longest_together(tokens: NDArray[Any], size: PassSize, share: int) -> NDArray[np.int64]:
    """Of so many units that a process has, as many as a pass may have of the longest that fit."""
    order = np.argsort(-tokens, kind="stable")
    if size.num_units is not None:
        return order[: size.num_units]
    sorted_tokens = -tokens[order]
    chosen, left, at = [int(order[0])], size.num_tokens - int(tokens[order[0]]), 1
    while len(chosen) < share:
        at = max(at, int(np.searchsorted(sorted_tokens, -left)))
        if at >= len(order):
            break
        chosen.append(int(order[at]))
        left -= int(tokens[order[at]])
        at += 1
    return np.asarray(chosen)


def _features(store: Store, units: NDArray[np.int64]) -> tuple[Features, ...]:
    return tuple(store.features(int(sample)) for unit in units for sample in store.unit(int(unit)))


# ---- estimated


def _estimated(plan: Plan) -> Lengths:
    recipe = plan.recipe
    longest, packing = recipe.data.max_length, recipe.data.packing
    sample = _sample(recipe, longest)
    rows, text_bytes = _rows(recipe)
    tokens = float(longest)
    if text_bytes and rows:
        tokens = min(float(longest), text_bytes / rows / BYTES_PER_TOKEN)
    num_units = rows
    if packing and rows is not None:
        num_units = max(1, round(rows * tokens / (longest * FILLED)))
    sizes = [len(document.tokens) for document in sample.documents]
    whole = sum(sizes)
    documents = len(sizes)
    per_unit = longest * FILLED if packing else tokens * documents
    share = -(-recipe.trainer.global_batch_size // plan.data_parallel_size)
    num_passes, most = _num_passes(plan, share, per_unit, whole)
    return Lengths(
        exact=False,
        origin=_origin(recipe, rows, tokens),
        num_units=num_units,
        tokens_per_unit=per_unit,
        counted_per_unit=per_unit,
        squares_per_unit=longest * FILLED * tokens if packing else documents * tokens**2,
        heaviest=(_full(plan, sample, share),) if whole else (),
        passes_per_step=num_passes,
        most_passes=most,
    )


def _full(plan: Plan, sample: Features, share: int) -> tuple[Features, ...]:
    """A pass of samples as long as they may be, of so many that a process has, and of a shorter one
    in what is left of its tokens."""
    size = plan.pass_size
    number = size.most_units(sample.num_tokens, share)
    found = _unlike(sample, number)
    left = (size.num_tokens - number * sample.num_tokens) // len(sample.documents)
    if size.num_units is None and number < share and left >= SHORTEST:
        found += _unlike(_sample(plan.recipe, left), 1, number * len(sample.documents))
    return found


def _unlike(sample: Features, number: int, first_token: int = 0) -> tuple[Features, ...]:
    """So many samples of the same size, no two documents of which begin alike."""
    first = itertools.count(first_token)
    return tuple(
        replace(
            sample,
            documents=tuple(
                replace(one, tokens=(next(first), *one.tokens[1:])) for one in sample.documents
            ),
        )
        for _ in range(number)
    )


def _origin(recipe: Recipe, rows: int | None, tokens: float) -> str:
    said = "the data are not prepared: memory as if every token up to max_length were there"
    if isinstance(recipe.trainer.method, Online):
        said = "answers are not known: memory as if all were as long as they may be"
    if rows is None:
        return f"{said}; the number of rows is not known"
    return f"{said}; about {rows:,} rows of {tokens:,.0f} tokens"


def _rows(recipe: Recipe) -> tuple[int | None, int | None]:
    """(Rows of the training data, bytes of their files), as far as they are known at once."""
    total, size = 0, 0
    for dataset in named_datasets(recipe, "train").values():
        try:
            rows = expected_rows(dataset)
        except (UserError, OSError):
            rows = None
        if rows is None:
            return None, None
        total += round(rows * (1.0 if dataset.epochs is None else dataset.epochs))
        path = vars(dataset.source).get("path")
        if isinstance(path, str) and Path(path).is_file():
            size += Path(path).stat().st_size
    return total or None, size or None


def _sample(recipe: Recipe, longest: int) -> Features:
    """One of the trainer's samples, as long as it may be."""
    method = recipe.trainer.method
    if isinstance(method, Online):
        longest += method.max_new_tokens
        return Features(documents=(_document(longest),))
    try:
        (features, *_) = method.features(_WRITTEN[method.consumes[0]], _Longest(longest))
    except RowError:  # a class of the recipe's own names, say
        return Features(documents=(_document(longest, only_last=True),), numbers=(0.0,))
    return features


def _document(length: int, *, only_last: bool = False) -> Encoded:
    trained = (False,) * (length - 1) + (True,) if only_last else (False, *(True,) * (length - 1))
    return Encoded(tokens=(1,) * length, trained=trained)


_ASKED = (Message(role="user", content="?"),)
_ANSWERED = (Message(role="assistant", content="."),)
_TALK = Conversation(messages=_ASKED + _ANSWERED)
_WRITTEN: dict[type[Sample], Sample] = {
    Conversation: _TALK,
    Completion: Completion(prompt="?", completion="."),
    Document: Document(text="."),
    Tokenized: Tokenized(tokens=(1, 1), trained=(False, True)),
    Preference: Preference(messages=_ASKED, chosen=_ANSWERED, rejected=_ANSWERED, margin=1),
    UnpairedPreference: UnpairedPreference(messages=_ASKED, completion=_ANSWERED, label=True),
    PromptOnly: PromptOnly(messages=_ASKED),
    StepwiseSupervision: StepwiseSupervision(messages=_ASKED, steps=(".",), labels=(1.0,)),
    Classified: Classified(content=_TALK, label=0),
    Scored: Scored(content=_TALK, score=0.0),
}
"""Of each kind one, for trainers that look into it."""


class _Longest:
    """A chat of which every document has so many tokens; implements `protocols.Chat`."""

    def __init__(self, length: int) -> None:
        self._length = length

    def conversation(self, sample: Conversation) -> Sequence[Encoded]:
        """One document."""
        return [_document(self._length)]

    def completion(self, sample: Completion) -> Encoded:
        """One document."""
        return _document(self._length)

    def document(self, sample: Document) -> Encoded:
        """One document."""
        return _document(self._length)

    def prompt_only(self, sample: PromptOnly) -> Encoded:
        """One document."""
        return _document(self._length)

    def tokenized(self, sample: Tokenized) -> Encoded:
        """One document."""
        return _document(self._length)

    def preference(self, sample: Preference) -> tuple[Encoded, Encoded]:
        """Two."""
        return _document(self._length), _document(self._length)

    def unpaired_preference(self, sample: UnpairedPreference) -> Encoded:
        """One document."""
        return _document(self._length)

    def read_at_end(self, sample: Classified | Scored | Preference) -> tuple[Encoded, ...]:
        """One, or two."""
        document = _document(self._length, only_last=True)
        return (document, document) if isinstance(sample, Preference) else (document,)

    def steps(self, sample: StepwiseSupervision, separator: str) -> Encoded:
        """One document."""
        return _document(self._length, only_last=True)
