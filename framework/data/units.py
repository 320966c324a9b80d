"""What is batched: packs, or single samples, from a store on disk or from a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from framework.core.batch import Features
from framework.data.store import Store


class Unit(Protocol):
    """The samples that share a row of a batch."""

    @property
    def num_samples(self) -> int:
        """How many they are."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed for it, as far as they are known without a model."""
        ...

    @property
    def sample_ids(self) -> Sequence[str]:
        """The samples in it."""
        ...

    @property
    def features(self) -> Sequence[Features]:
        """What each of them is made of."""
        ...


@dataclass(frozen=True)
class StoredUnit:
    """A unit of a store, read when it is asked for."""

    store: Store
    index: int

    @property
    def num_samples(self) -> int:
        """How many samples are in it."""
        return len(self.store.unit(self.index))

    @property
    def num_tokens(self) -> int:
        """Those that its samples don't share."""
        return self.store.computed_length(self.index)

    @property
    def sample_ids(self) -> Sequence[str]:
        """The samples in it."""
        return [self.store.sample_id(int(sample)) for sample in self.store.unit(self.index)]

    @property
    def features(self) -> Sequence[Features]:
        """What each of them is made of."""
        return [self.store.features(int(sample)) for sample in self.store.unit(self.index)]


@dataclass(frozen=True, kw_only=True)
class HeldUnit:
    """A unit that is held in memory."""

    sample_ids: Sequence[str]
    features: Sequence[Features]

    @property
    def num_samples(self) -> int:
        """How many samples are in it."""
        return len(self.sample_ids)

    @property
    def num_tokens(self) -> int:
        """Those of all its samples."""
        return sum(one.num_tokens for one in self.features)


def ids_of(units: Iterable[Unit]) -> list[str]:
    """The samples of all these units, in order."""
    return [one for unit in units for one in unit.sample_ids]
