"""What losses are multiplied by in float16, so that small gradients don't vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from framework.core.problems import RunFailed

SMALLEST = 1e-4
"""Below it nothing that float16 holds is lost at the lower end any more, so what overflows grows
itself; as in fairseq."""


class LossScale:
    """The scale of a run in float16, which halves it and takes no step where scaled gradients
    overflow, and doubles it after 2,000 steps that don't; of every other run, nothing."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._scaler = accelerator.scaler
        self.num_overflows = 0
        """Steps that weren't taken, over all restarts."""

    @property
    def is_on(self) -> bool:
        """Whether losses are scaled, and steps that overflow left out."""
        return self._scaler is not None

    def after_step(self, step: int, grad_norm: float) -> str:
        """What there is to say of step `step`, from 1, that was just to be taken; empty: it was.

        Args:
            grad_norm: of all gradients. Accelerate's word for a step that wasn't taken is wrong for
                fused optimizers, and to ask for the scale would wait for the step.

        Raises:
            RunFailed: no smaller scale would help.
        """
        if self._scaler is None or math.isfinite(grad_norm):
            return ""
        self.num_overflows += 1
        scale = self._scaler.get_scale()
        said = f"step {step}: float16 gradients overflowed, nothing was learned from it"
        if scale < SMALLEST:
            raise RunFailed(
                f"{said}; losses are already scaled by {scale:g}",
                hint="lower trainer.learning_rate, or write model.dtype: float32",
            )
        return f"{said}; losses are scaled by {scale:g} now"

    def metrics(self) -> Mapping[str, float]:
        """What a row of metrics has of it, from the first overflow on."""
        return {"num_overflows": self.num_overflows} if self.num_overflows else {}

    def state(self) -> Mapping[str, Any] | None:
        """What a checkpoint keeps; None of a run that isn't scaled."""
        if self._scaler is None:
            return None
        return {"scaler": self._scaler.state_dict(), "num_overflows": self.num_overflows}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Puts back what `state` said, if both runs are scaled."""
        if self._scaler is not None and state is not None:
            self._scaler.load_state_dict(state["scaler"])
            self.num_overflows = state["num_overflows"]
