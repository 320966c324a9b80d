"""A reference and a store -> what the reference says of every label, asked once and kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from framework.adapting.trained_adapter import TrainedAdapter
from framework.core.batch import Batch, Policy
from framework.core.cache import cached_folder, find_folder
from framework.core.protocols.models import StartingFrom
from framework.data.store import Store
from framework.distributed.collectives import data_share, sum_over_processes
from framework.models.collate import flat_batch, on_device
from framework.planning.passes import PassSize
from framework.planning.plan import Plan

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_KIND = "references"
_FILE = "negative_log_likelihoods.bin"
_DTYPE = "<f4"


class _Asked(NamedTuple):
    """What was found of a few samples."""

    samples: tuple[int, ...]
    values: NDArray[np.float32]
    """Of the labels of each, one after the other."""


def reference_key(plan: Plan, store: Store, attention: str, *, with_adapter: bool) -> str:
    """Everything that the numbers depend on -> the name under which they are kept.

    Args:
        with_adapter: the adapter's start is a part of the reference.
    """
    recipe = plan.recipe
    apart = {"source", "gradient_checkpointing", "activation_offload"}
    parts: dict[str, Any] = {
        "data": store.fingerprint,
        "model": recipe.model.source.fingerprint(),
        "settings": [f"{k}={v!r}" for k, v in vars(recipe.model).items() if k not in apart],
        "dtypes": [plan.weights_dtype, plan.autocast_dtype],
        "attention": attention,
        "device": plan.world.device,
        "adapter": _adapter_key(recipe) if with_adapter else [],
        "versions": [importlib.metadata.version(name) for name in ("torch", "transformers")],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _adapter_key(recipe: Recipe) -> list[Any]:
    """Everything that the start of the recipe's adapter depends on."""
    adapter = recipe.adapter
    folders = adapter.started_from() if isinstance(adapter, StartingFrom) else ()
    trained = [TrainedAdapter.open(folder, "adapter").fingerprint() for folder in folders]
    return [repr(adapter), recipe.trainer.seed, *trained]


def precomputed(
    key: str,
    store: Store,
    policy: Policy,
    accelerator: Accelerator,
    pass_size: PassSize,
    say: Callable[[str], None],
) -> RecordedPolicy:
    """The policy's answers about all samples of the store, from the cache or asked for now by all
    processes together."""
    missing = find_folder(_KIND, key, hashes=True) is None
    (num_missing,) = sum_over_processes(accelerator, [float(missing)])
    if not num_missing:
        say(f"reference: asked about {store.num_samples:,} samples before, kept in the cache")
    else:
        say(f"reference: asking about {store.num_samples:,} samples before training")
        asked = gather_object(list(_ask(store, policy, accelerator, pass_size)))
        values = _in_order(store, asked)
        # Every machine has a cache of its own; the first of its processes writes it.
        cached_folder(_KIND, key, lambda folder: values.tofile(folder / _FILE), hashes=True)
    folder = find_folder(_KIND, key)
    assert folder is not None, "it was just made"
    return RecordedPolicy(store, folder / _FILE)


def _ask(
    store: Store, policy: Policy, accelerator: Accelerator, pass_size: PassSize
) -> Iterator[_Asked]:
    """What this process has to ask about, in passes as training has them.

    Processes may share the weights out, so all ask equally often: the last time perhaps of nothing.
    """
    rank, size = data_share(accelerator)
    for numbers in pass_size.in_turn(store.num_samples, size):
        features = {one: store.features(one) for one in numbers}
        lengths = [one.num_tokens for one in features.values()]
        for share in pass_size.deal(lengths, size)[rank]:
            samples = tuple(numbers[at] for at in share)
            ids = [store.sample_id(one) for one in samples]
            batch = flat_batch([features[one] for one in samples], ids)
            values = policy.negative_log_likelihood(on_device(batch, accelerator.device))
            yield _Asked(samples=samples, values=values.float().cpu().numpy())


def _in_order(store: Store, asked: Iterable[_Asked]) -> NDArray[np.float32]:
    """What was found of all samples, one after the other."""
    bounds = [0, *label_ends(store).tolist()]
    values = np.full(bounds[-1], np.nan, dtype=np.float32)
    # Processes that have the same data ask about the same samples.
    for samples, found in asked:
        taken = 0
        for sample in samples:
            start, stop = bounds[sample], bounds[sample + 1]
            values[start:stop] = found[taken : taken + stop - start]
            taken += stop - start
        assert taken == len(found), "one number for each label"
    return values


class RecordedPolicy:
    """What a policy said of every label of a store, found by the samples' ids."""

    def __init__(self, store: Store, file: Path) -> None:
        self._store = store
        self._values = np.memmap(file, dtype=_DTYPE, mode="r")
        assert len(self._values) == self._label_ends[-1], "one number for each label"

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """See `Policy`."""
        parts = [self._of_sample(self._store.sample_of(one)) for one in batch.sample_ids]
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        assert len(values) == batch.labels.numel(), "the batch is of another store"
        return torch.from_numpy(values.astype(np.float32)).to(batch.labels.device)

    def logits(self, batch: Batch) -> Tensor:
        """Nobody kept them."""
        raise AssertionError("only what was said of the labels is kept")

    def _of_sample(self, sample: int) -> NDArray[np.float32]:
        ends = self._label_ends
        return self._values[ends[sample - 1] if sample else 0 : ends[sample]]

    @cached_property
    def _label_ends(self) -> NDArray[np.int64]:
        return label_ends(self._store)


def label_ends(store: Store) -> NDArray[np.int64]:
    """Number of labels up to and including each sample."""
    ends = store.sample_ends()
    starts = np.concatenate([[0], ends[:-1]])
    return np.cumsum(np.add.reduceat(store.trained, starts, dtype=np.int64))
