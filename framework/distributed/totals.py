"""Losses of micro-batches -> means over the global batch, and the loss of each of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from framework.core.batch import Loss
from framework.distributed.collectives import sum_over_data


class Totals:
    """Running sums of the loss and its metrics; they stay on the device until asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._of_samples: list[Tensor] = []
        self._places: list[int] = []

    def add(self, loss: Loss, places: Sequence[int] = ()) -> None:
        """One more micro-batch.

        Args:
            places: of its samples in the global batch, for `with_samples`.
        """
        for name, value in {"loss": loss.sum, **loss.metrics}.items():
            part = value.detach().float()
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        if loss.of_samples is not None:
            self._of_samples.append(loss.of_samples)
            self._places += places

    def means(self, accelerator: Accelerator, num_items: float) -> Mapping[str, float]:
        """Name -> the sum over all processes, divided; `loss` is one of the names.

        Args:
            num_items: over all processes.
        """
        return self._means(sum_over_data(accelerator, self._sums.values()), num_items)

    def with_samples(
        self, accelerator: Accelerator, num_items: float, num_samples: int
    ) -> tuple[Mapping[str, float], tuple[float, ...] | None]:
        """(What `means` returns, the loss of each sample of the global batch in its order), of one
        exchange; None where samples have no loss of their own.

        Args:
            num_items: over all processes.
            num_samples: of the global batch.
        """
        if not self._of_samples:
            return self.means(accelerator, num_items), None
        local = torch.cat(self._of_samples)
        places = torch.tensor(self._places, dtype=torch.int64).to(local.device, non_blocking=True)
        of_samples = local.new_zeros(num_samples).index_copy(0, places, local)
        sums = sum_over_data(accelerator, [*self._sums.values(), of_samples])
        return self._means(sums[:-num_samples], num_items), tuple(sums[-num_samples:])

    def _means(self, sums: Sequence[float], num_items: float) -> Mapping[str, float]:
        return {
            name: value / (num_items or 1.0) for name, value in zip(self._sums, sums, strict=True)
        }
