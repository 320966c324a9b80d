"""What is batched: packs, or single samples, from a store on disk or from a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from framework.core.batch import Encoded
from framework.data.store import Store


class Unit(Protocol):
    """The documents that share a row of a batch."""

    @property
    def sample_ids(self) -> Sequence[str]:
        """The samples in it."""
        ...

    @property
    def documents(self) -> Sequence[Encoded]:
        """Their documents, in the samples' order."""
        ...


@dataclass(frozen=True)
class StoredUnit:
    """A unit of a store, read when it is asked for."""

    store: Store
    index: int

    @property
    def sample_ids(self) -> Sequence[str]:
        """The samples in it."""
        return [self.store.sample_id(int(sample)) for sample in self.store.unit(self.index)]

    @property
    def documents(self) -> Sequence[Encoded]:
        """Their documents."""
        samples = self.store.unit(self.index)
        return [one for at in samples for one in self.store.features(int(at)).documents]


@dataclass(frozen=True, kw_only=True)
class HeldUnit:
    """A unit that is held in memory."""

    sample_ids: Sequence[str]
    documents: Sequence[Encoded]


def ids_of(units: Iterable[Unit]) -> list[str]:
    """The samples of all these units, in order."""
    return [one for unit in units for one in unit.sample_ids]
