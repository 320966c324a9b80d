"""Prepared or streamed data -> the global batch of each optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from framework.core.protocols.training import Online
from framework.data.prepared import PreparedData
from framework.data.store import Store
from framework.data.stream import Position, Stream
from framework.data.units import StoredUnit, Unit
from framework.engine.order import Order
from framework.recipe.schema import Trainer


class Feed(Protocol):
    """The sequence of global batches of a run, whatever the number of processes."""

    @property
    def fingerprint(self) -> str:
        """Names the content of the data."""
        ...

    def global_batch(self, step: int) -> Sequence[Unit]:
        """Units of optimizer step `step`, counted from 0: the current one or the one after it."""
        ...

    def epoch(self, num_steps: int) -> float:
        """Passes over the data that are done after so many steps."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What is needed, besides the number of steps, to go on after the current one."""
        ...

    def restore(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Goes on after `num_steps` steps, where `state` was taken."""
        ...


def make_feed(train: Store | Stream, trainer: Trainer) -> Feed:
    """What feeds the training loop."""
    if isinstance(train, Stream):
        return StreamFeed(train, trainer.global_batch_size)
    if isinstance(trainer.method, Online):
        return PromptFeed(train, trainer, trainer.method)
    order = Order(
        stage_ends=train.stage_ends,
        global_batch_size=trainer.global_batch_size,
        seed=trainer.seed,
        data_fingerprint=train.fingerprint,
    )
    return StoreFeed(train, order)


def units_per_epoch(data: PreparedData, trainer: Trainer) -> int | None:
    """Samples or packs of one epoch, or answers, as often as each is learned from; None for a
    stream, whose length nobody knows."""
    if data.stream is not None:
        return None
    if isinstance(trainer.method, Online):
        method = trainer.method
        return data.train.num_units * method.num_generations * method.num_iterations
    return data.train.num_units


class StoreFeed:
    """Prepared data: any step's batch can be asked for, so there is no state."""

    def __init__(self, store: Store, order: Order) -> None:
        self._store = store
        self._order = order

    @property
    def fingerprint(self) -> str:
        """The data's cache key."""
        return self._order.data_fingerprint

    def global_batch(self, step: int) -> Sequence[Unit]:
        """Units of any step."""
        return [StoredUnit(self._store, int(unit)) for unit in self._order.global_batch(step)]

    def epoch(self, num_steps: int) -> float:
        """Share of the passes, by steps."""
        return round(num_steps / self._order.steps_per_epoch, 4)

    def state(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Needs nothing."""


class PromptFeed:
    """Prepared prompts: as many as a batch of answers needs; epochs follow each other seamlessly,
    since answers can only be made of whole batches."""

    def __init__(self, store: Store, trainer: Trainer, method: Online) -> None:
        self._store = store
        self._num_iterations = method.num_iterations
        self._num_prompts = trainer.global_batch_size // method.num_generations
        self._order = Order(
            stage_ends=store.stage_ends,
            global_batch_size=1,
            seed=trainer.seed,
            data_fingerprint=store.fingerprint,
        )

    @property
    def fingerprint(self) -> str:
        """The data's cache key."""
        return self._order.data_fingerprint

    def global_batch(self, step: int) -> Sequence[Unit]:
        """Prompts of any step; steps that learn from the same answers have the same."""
        first = step // self._num_iterations * self._num_prompts
        numbers = range(first, first + self._num_prompts)
        return [
            StoredUnit(self._store, int(unit))
            for number in numbers
            for unit in self._order.global_batch(number)
        ]

    def epoch(self, num_steps: int) -> float:
        """Share of the passes over the prompts, by steps."""
        num_prompts = num_steps / self._num_iterations * self._num_prompts
        return round(num_prompts / self._order.num_units, 4)

    def state(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Needs nothing."""


class StreamFeed:
    """Streamed data: one batch after the other, from a position on."""

    def __init__(self, stream: Stream, global_batch_size: int) -> None:
        self._stream = stream
        self._size = global_batch_size
        self._num_taken = 0
        self._current: Sequence[Unit] = ()

    @property
    def fingerprint(self) -> str:
        """Of the recipe's data section and the first rows."""
        return self._stream.fingerprint

    def global_batch(self, step: int) -> Sequence[Unit]:
        """The current step's units, or the next one's."""
        if step == self._num_taken:
            self._current = self._stream.take(self._size)
            self._num_taken += 1
        assert step == self._num_taken - 1, "a stream only goes forward"
        return self._current

    def epoch(self, num_steps: int) -> float:
        """Passes that every dataset has ended."""
        return float(min(cursor.num_passes for cursor in self._stream.cursors.values()))

    def state(self) -> Mapping[str, Any]:
        """The stream's position."""
        return self._stream.position().as_json()

    def restore(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Goes to that position."""
        self._stream.go_to(Position(**state))
        self._num_taken = num_steps
        self._current = ()
