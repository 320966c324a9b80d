"""The global batch of an optimizer step -> its gradients and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor

from framework.core.batch import Batch
from framework.core.protocols import training as training_kinds
from framework.core.protocols.strategies import Spread
from framework.core.spans import span
from framework.data.store import Store
from framework.distributed.collectives import data_share, sum_over_data
from framework.distributed.totals import Totals
from framework.engine.batches import batch_of, places_of
from framework.engine.evaluate import evaluation_metrics, summarised
from framework.engine.feed import Feed
from framework.engine.reference import References
from framework.models.collate import on_device
from framework.models.policy import CausalPolicy
from framework.planning.passes import PassSize
from framework.recipe.cadence import is_saved


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What the passes of one step came to, over all processes."""

    means: Mapping[str, float]
    """`loss` and the trainer's metrics."""
    num_tokens: float
    num_trained_tokens: float
    num_passes: int
    """Of each process."""
    sample_losses: tuple[float, ...] | None = None
    """Of each sample of the global batch, in its order; None where they have none of their own."""


class Passes(Protocol):
    """Forward and backward passes of a run."""

    def backward(self, step: int, penalty: Tensor | None) -> Passed:
        """All passes of optimizer step `step`, from 0; gradients are those of the mean loss and of
        the adapter's penalty, the same on every process."""
        ...

    def evaluate(self, store: Store) -> Mapping[str, float]:
        """Means over held-out data; `loss` is what early stopping watches."""
        ...

    def can_save(self, num_steps: int, every: int) -> bool:
        """Whether a checkpoint of each `every` steps is due after so many, and a run that goes on
        from it does the same as this one."""
        ...

    def close(self) -> None:
        """The model is again as it was given, but for what it learned."""
        ...


def with_penalty(loss: Tensor, penalty: Tensor | None) -> Tensor:
    """What is differentiated in a pass."""
    return loss if penalty is None else loss + penalty


@dataclass(frozen=True, kw_only=True)
class DataPasses:
    """What is trained is in the data."""

    accelerator: Accelerator
    spread: Spread
    policy: CausalPolicy
    references: References
    method: training_kinds.Trainer
    pass_size: PassSize
    feed: Feed

    def backward(self, step: int, penalty: Tensor | None) -> Passed:
        """See `Passes`."""
        device = self.accelerator.device
        with span("data"):
            units = self.feed.global_batch(step)
            rank, num_processes = data_share(self.accelerator)
            lengths = [unit.num_tokens for unit in units]
            shares = self.pass_size.deal(lengths, num_processes)[rank]
            batches = [on_device(batch_of([units[at] for at in one]), device) for one in shares]
            samples = places_of(units)
            places = [list(chain.from_iterable(samples[at] for at in one)) for one in shares]
        num_items = sum(self.method.num_items(batch) for batch in batches)
        num_labels = sum(batch.labels.numel() for batch in batches)
        num_tokens = sum(batch.input_ids.numel() for batch in batches if batch.sample_ids)
        num_shared = sum(map(_num_shared, batches)) if self.policy.shares else 0
        total_items, total_labels, total_tokens, total_shared = sum_over_data(
            self.accelerator, [num_items, num_labels, num_tokens, num_shared]
        )
        totals = Totals()
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.spread.one_pass(last=last):
                with span("loss"):
                    part = self.method.loss(self.policy, self.references.train, batch)
                # Gradients of all data are averaged; times the number of parts it is the sum.
                scale = num_processes / (total_items or 1.0)
                loss = part.sum * scale
                with span("backward"):
                    # Once for each process, whose gradients are averaged.
                    self.spread.backward(with_penalty(loss, penalty if last else None), last=last)
            totals.add(part, places[index])
        num_samples = sum(unit.num_samples for unit in units)
        means, of_samples = totals.with_samples(self.accelerator, total_items, num_samples)
        shared = {"shared_tokens": total_shared / total_tokens} if total_shared else {}
        return Passed(
            means={**summarised(self.method, means), **shared},
            num_tokens=total_tokens,
            num_trained_tokens=total_labels,
            num_passes=len(batches),
            sample_losses=of_samples,
        )

    def evaluate(self, store: Store) -> Mapping[str, float]:
        """See `Passes`."""
        return evaluation_metrics(
            self.accelerator,
            self.spread.model,
            self.policy,
            self.references.eval,
            self.method,
            store,
            self.pass_size,
        )

    def can_save(self, num_steps: int, every: int) -> bool:
        """After any step."""
        return is_saved(num_steps, every)

    def close(self) -> None:
        """Nothing was changed."""


def _num_shared(batch: Batch) -> int:
    """Tokens of the batch that needn't be computed."""
    return 0 if batch.shared is None else batch.shared.rows.numel() - batch.shared.tokens.numel()
