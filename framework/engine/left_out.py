"""Batches that no optimizer step is taken on: found by their loss, written down, left out."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from framework.core import atomic
from framework.core.problems import Refused, RunFailed
from framework.recipe.schema import LossSpike, Remedy, Trainer
from framework.runs.run_directory import RunDirectory

LEFT_OUT = "left_out.jsonl"
MOST_IN_A_ROW = 10
"""Faults without anything learned in between, after which it isn't the data."""


class Unusable(Exception):
    """A step whose gradients must not reach the weights; the same on every process."""

    def __init__(self, reason: str, remedy: Remedy) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class LossWatch:
    """What a step's loss and gradient have to be; keeps the losses that the next is compared to."""

    def __init__(self, trainer: Trainer, *, scaled: bool) -> None:
        """
        Args:
            scaled: gradients are scaled, by what leaves out steps that overflow itself.
        """
        self._on_nan: Remedy = trainer.on_nan
        self._spike: LossSpike | None = trainer.loss_spike
        self._scaled = scaled
        self._losses = deque[float](maxlen=0 if self._spike is None else self._spike.window)

    def check(self, loss: float, grad_norm: float) -> None:
        """
        Raises:
            Unusable: they are no numbers, or the loss is far above those before it.
        """
        if not (math.isfinite(loss) and (self._scaled or math.isfinite(grad_norm))):
            raise Unusable(f"loss is {loss}, gradient norm is {grad_norm}", self._on_nan)
        spike = self._spike
        if spike is None or len(self._losses) < spike.window:
            return
        median = statistics.median(self._losses)
        if loss > spike.factor * median > 0:
            reason = f"loss is {loss:.4g}, the median of the {spike.window} before is {median:.4g}"
            raise Unusable(reason, spike.then)

    def note(self, loss: float) -> None:
        """A step was taken."""
        self._losses.append(loss)

    def state(self) -> list[float]:
        """What a checkpoint keeps."""
        return list(self._losses)

    def restore(self, losses: Iterable[float]) -> None:
        """Puts back what `state` said."""
        self._losses = deque(losses, maxlen=self._losses.maxlen)


@dataclass(frozen=True, kw_only=True)
class LeftOutStep:
    """A row of `left_out.jsonl`."""

    step: int
    """Optimizer step that wasn't taken, or was taken back, counted from 1."""
    ids: Sequence[str]
    """Its samples."""
    losses: Sequence[float | None] | None = None
    """Of each sample, None where it is no number; None where nobody knows."""
    reason: str
    fault_step: int
    """Step in which the fault was seen."""
    back_to: int | None = None
    """Step of the checkpoint that was gone back to."""


class LeftOut:
    """The steps of a run that are not taken; `left_out.jsonl` outlives restarts."""

    def __init__(self, directory: RunDirectory, rows: Sequence[Mapping]) -> None:
        """
        Args:
            rows: of the file, the same on every process.
        """
        self._directory = directory
        self._steps = {row["step"]: LeftOutStep(**row) for row in rows}

    def __contains__(self, step: int) -> bool:
        return step in self._steps

    def __getitem__(self, step: int) -> LeftOutStep:
        return self._steps[step]

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, steps: Iterable[LeftOutStep]) -> None:
        """Writes down steps, durably, before anything goes on without them."""
        self._steps |= {one.step: one for one in steps}
        if self._directory.is_main:
            ordered = (self._steps[step] for step in sorted(self._steps))
            lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in ordered]
            atomic.write_file(self._directory.path / LEFT_OUT, "".join(lines))

    def take_back(self, seen: Sequence[Mapping], step: int, back_to: int, reason: str) -> None:
        """Adds all steps after a checkpoint.

        Args:
            seen: their rows of `samples.jsonl`, the current one's included.
            step: the current one, that has the fault.
            back_to: step of the checkpoint.

        Raises:
            RunFailed: the row of one of them is missing.
        """
        known = {row["step"] for row in seen} | self._steps.keys()
        missing = [one for one in range(back_to + 1, step + 1) if one not in known]
        if missing:
            raise RunFailed(
                f"step {step}: {reason}; samples.jsonl doesn't say which samples step "
                f"{missing[0]} saw, which is to be taken back",
                hint="start the same command again: it goes on from the last checkpoint",
            )
        self.add(
            LeftOutStep(
                step=row["step"],
                ids=row["ids"],
                losses=row.get("losses"),
                reason=reason if row["step"] == step else f"taken back by step {step}",
                fault_step=step,
                back_to=back_to,
            )
            for row in seen
            if row["step"] not in self
        )

    def refuse_other_data(self, step: int, ids: Sequence[str]) -> None:
        """
        Raises:
            Refused: the file is about other samples than the step has.
        """
        if list(self._steps[step].ids) != list(ids):
            raise Refused(
                f"step {step} has other samples than {LEFT_OUT} says",
                hint="put the data back, or write another output.dir",
            )

    def refuse_endless(self, step: int, first: int) -> None:
        """
        Args:
            first: step from which on nothing is learned, up to `step`.

        Raises:
            RunFailed: so many faults since the last step that was learned from that leaving data
                out doesn't help.
        """
        while first - 1 in self._steps:
            first -= 1
        before = [self._steps[one] for one in range(first, step) if one in self._steps]
        num_faults = len({one.fault_step for one in before})
        if num_faults >= MOST_IN_A_ROW:
            raise RunFailed(
                f"step {step}: the fault after {num_faults} others, each of which left out all "
                f"that was learned since step {first - 1}: it isn't the data",
                hint="lower trainer.learning_rate, add warmup, or write model.dtype: float32",
            )


def num_not_finite(optimizer: Optimizer) -> int:
    """Tensors of this process, trained or of the optimizer's state, with a number that is none."""
    found = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held = [parameter, *optimizer.state.get(parameter, {}).values()]
            found += sum(not _is_finite(one) for one in held if isinstance(one, Tensor))
    return found


def _is_finite(tensor: Tensor) -> bool:
    local = tensor.detach()
    if isinstance(local, DTensor):
        local = local.to_local()
    # What is held in few bits is made of others, or knows no NaN.
    if type(local) not in (Tensor, torch.nn.Parameter) or not local.is_floating_point():
        return True
    return bool(local.isfinite().all())
