"""Recipe and prepared data -> what batches hold; estimated where nothing is prepared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from framework.engine.batches import deal
from framework.engine.order import Order
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
    batches = list(_micro_batches(plan, store, tokens))
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


def _micro_batches(plan: Plan, store: Store, tokens: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Units of each pass of each process; where there are too many, the longest units together."""
    trainer = plan.recipe.trainer
    if store.num_units > MOST_UNITS:
        yield np.argsort(-tokens, kind="stable")[: trainer.micro_batch_size]
        return
    order = Order(
        stage_ends=store.stage_ends,
        global_batch_size=trainer.global_batch_size,
        seed=trainer.seed,
        data_fingerprint=store.fingerprint,
    )
    num_steps = min(order.steps_per_epoch, trainer.max_steps or order.steps_per_epoch)
    dealt = partial(
        deal,
        num_processes=plan.data_parallel_size,
        micro_batch_size=trainer.micro_batch_size,
        global_batch_size=trainer.global_batch_size,
    )
    for step in range(num_steps):
        batch: list[int] = order.global_batch(step).tolist()
        for rank in range(min(plan.data_parallel_size, len(batch))):
            yield from (np.asarray(one) for one in dealt(batch, rank=rank) if len(one))


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
    return Lengths(
        exact=False,
        origin=_origin(recipe, rows, tokens),
        num_units=num_units,
        tokens_per_unit=per_unit,
        counted_per_unit=per_unit,
        squares_per_unit=longest * FILLED * tokens if packing else documents * tokens**2,
        heaviest=(_unlike(sample, recipe.trainer.micro_batch_size),) if whole else (),
    )


def _unlike(sample: Features, number: int) -> tuple[Features, ...]:
    """So many samples of the same size, no two documents of which begin alike."""
    first = itertools.count()
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
