"""A trainer's other model -> the policy to compare with, asked at every step or beforehand."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import Module

from framework.core.batch import Batch, Policy, TopTokens
from framework.core.cache import cached_folder, find_folder
from framework.core.problems import Problem, UserError
from framework.core.protocols.training import Comparison
from framework.data.prepared import PreparedData
from framework.data.reference import fetch_reference, under_key
from framework.data.store import Store
from framework.engine.kept_teacher import KeptTeacher, keep
from framework.losses.divergence import top_tokens
from framework.models.collate import flat_batch, on_device
from framework.models.isolation import prove_isolation
from framework.models.load import Bundle, load_weights
from framework.models.policy import CausalPolicy, plain_model
from framework.planning.plan import Plan
from framework.recipe.comparisons import rows_hold_several_documents
from framework.recipe.sharing import shares_prefixes

UNITS_OF_A_SHARD = 256
"""Packs or samples whose tokens are kept in one folder, all of it or nothing."""


def open_teacher(
    plan: Plan,
    data: PreparedData,
    bundle: Bundle,
    accelerator: Accelerator,
    comparison: Comparison,
    say: Callable[[str], None],
) -> Policy:
    """The model that the comparison names, or what is kept of it.

    Args:
        say: told of work that takes long.

    Raises:
        UserError: it can't be loaded, or has other tokens than the model that is trained.
    """
    teaching = _Teaching(
        plan=plan, data=data, bundle=bundle, comparison=comparison, device=accelerator.device
    )
    if comparison.top_k is None:
        policy = teaching.policy()
        say(_described(policy.model, bundle.model))
        return policy
    rank, size = accelerator.process_index, accelerator.num_processes
    stores = [store for store in (data.train, data.eval) if store is not None]
    asking = [_Asking(teaching, store) for store in stores]
    kept = KeptTeacher([folder for one in asking for folder in one.folders(rank, size, say)])
    say(
        f"teacher: not in memory; its {comparison.top_k:,} most likely tokens at each of "
        f"{kept.num_labels:,} labels, {kept.num_bytes / 1e6:,.1f} MB on disk"
    )
    return kept


def _described(teacher: Module, student: Module) -> str:
    """Size of a teacher that stays in memory, and what of its predictions is left out."""
    num_parameters = sum(parameter.numel() for parameter in teacher.parameters())
    dtype = str(next(teacher.parameters()).dtype).removeprefix("torch.")
    text = f"teacher: {num_parameters:,} parameters, weights {dtype}, asked at every step"
    smaller, larger = sorted(map(_num_vocabulary, (teacher, student)))
    if smaller == larger:
        return text
    return f"{text}; ids from {smaller:,} on, which only one of the models has, are left out"


@dataclass(frozen=True, kw_only=True)
class _Teaching:
    """What the teacher's probabilities depend on, and what computes them."""

    plan: Plan
    data: PreparedData
    bundle: Bundle
    comparison: Comparison
    device: torch.device

    def policy(self) -> CausalPolicy:
        """The teacher itself, on the device; loaded every time."""
        folder = fetch_reference(self.plan.recipe, self.data)
        assert folder is not None, "the comparison has a source"
        return under_key(self.comparison.source_key, lambda: self._loaded(folder))

    def _loaded(self, folder: Path) -> CausalPolicy:
        plan, recipe = self.plan, self.plan.recipe
        # It is never trained, so its weights needn't be more exact than its products.
        dtype = plan.autocast_dtype or plan.weights_dtype
        model = load_weights(folder, dtype=dtype, attention=self.bundle.attention.name)
        model.requires_grad_(False).eval().to(self.device)  # pyright: ignore[reportArgumentType]
        if rows_hold_several_documents(recipe):
            prove_isolation(model, shares=shares_prefixes(recipe))
        return CausalPolicy(model, plan.autocast_dtype, shares=shares_prefixes(recipe))


class _Asking:
    """One store's documents, of which the teacher's most likely tokens are kept in shards."""

    def __init__(self, teaching: _Teaching, store: Store) -> None:
        self._teaching, self._store = teaching, store
        self._num_shards = -(-store.num_units // UNITS_OF_A_SHARD)
        self._policy: CausalPolicy | None = None

    def folders(self, rank: int, size: int, say: Callable[[str], None]) -> list[Path]:
        """All shards' folders; each is made by whoever comes first.

        Processes begin with different ones, and wait for each other's files, not in a collective,
        which would have a time limit.
        """
        key = self._key()
        found: dict[int, Path] = {}
        own = range(rank, self._num_shards, size)
        others = (number for number in range(self._num_shards) if number not in own)
        for number in (*own, *others):
            name = f"{key}-{number:05d}"
            if find_folder("teacher", name) is None:
                say(f"asking the teacher: part {number + 1} of {self._num_shards}")
            found[number] = cached_folder("teacher", name, functools.partial(self._make, number))
        self._policy = None  # its memory is the student's from here on
        return list(found.values())

    def _key(self) -> str:
        """Hash of everything that the teacher's probabilities depend on."""
        teaching, comparison = self._teaching, self._teaching.comparison
        assert comparison.source is not None
        digest = hashlib.sha256()
        for name in ("tokens", "trained", "document_ends", "feature_ends", "units", "unit_ends"):
            digest.update(np.ascontiguousarray(self._store.arrays[name]).data)
        parts = [
            comparison.source.fingerprint(),
            comparison.top_k,
            comparison.temperature,
            teaching.plan.weights_dtype,
            teaching.plan.autocast_dtype,
            teaching.bundle.attention.name,
            _num_vocabulary(teaching.bundle.model),
            UNITS_OF_A_SHARD,
        ]
        digest.update(json.dumps(parts).encode())
        return digest.hexdigest()[:32]

    def _make(self, number: int, folder: Path) -> None:
        if self._policy is None:
            self._policy = self._teaching.policy()
        policy = self._policy
        top_k, temperature = self._teaching.comparison.top_k, self._teaching.comparison.temperature
        models = (self._teaching.bundle.model, policy.model)
        num_vocabulary = min(map(_num_vocabulary, models))
        assert top_k is not None
        if top_k > num_vocabulary:
            raise UserError(
                Problem(
                    key="trainer.top_k",
                    what=f"{top_k:,} is more than the {num_vocabulary:,} tokens there are",
                    hint=f"write top_k: {min(64, num_vocabulary)}",
                )
            )

        def ask(batch: Batch) -> TopTokens:
            return top_tokens(policy.logits(batch), top_k, temperature, num_vocabulary)

        with torch.no_grad():
            keep(folder, self._batches(number), ask)

    def _batches(self, number: int) -> Iterator[Batch]:
        """The shard's samples, each once, in passes as training has them."""
        store = self._store
        first = number * UNITS_OF_A_SHARD
        units = range(store.num_units)[first : first + UNITS_OF_A_SHARD]
        lengths = [store.computed_length(unit) for unit in units]
        seen: set[int] = set()
        for share in self._teaching.plan.pass_size.deal(lengths, 1)[0]:
            samples = [
                sample
                for at in share
                for sample in map(int, store.unit(units[at]))
                if sample not in seen
            ]
            seen.update(samples)
            if samples:
                features = [store.features(one) for one in samples]
                batch = flat_batch(features, [store.sample_id(one) for one in samples])
                yield on_device(batch, self._teaching.device)


def _num_vocabulary(model: Module) -> int:
    """Rows of the output layer: tokens, and in some models rows that belong to none."""
    return plain_model(model).config.get_text_config().vocab_size  # pyright: ignore
