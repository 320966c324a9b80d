"""What profiling finds, in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from framework.profiling.clock import RECOMPUTED, Place


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One place of a step; numbers of an average step."""

    place: Place
    seconds: float
    operations: float
    """Floating-point, of matrix products and attention."""
    kept_bytes: int
    """What the forward pass of a micro-batch keeps for the backward pass."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on this process's device."""

    weights: int
    gradients: int
    optimizer: int
    kept: int
    """By the largest micro-batch, from its forward to its backward pass."""
    peaks: Mapping[str, int]
    """Span -> the most while it lasts: what tensors hold of a GPU, what is resident of this
    process; empty where the system doesn't tell."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What would help."""

    rule: str
    """Its name in docs/profiling.md."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of one process; numbers of an average step."""

    num_steps: int
    """That were timed."""
    num_processes: int
    device: str
    num_threads: int
    """Of PyTorch, in this process."""
    slices: tuple[Slice, ...]
    engine_seconds: float
    """What the training loop's own clock says of a step."""
    cpu_seconds: float
    """Of a step, over all threads of this process."""
    num_passes: float
    """Forward passes of a step, on average."""
    num_tokens: float
    """Of all processes."""
    num_trained_tokens: float
    """Of all processes."""
    products_dtype: str
    gemm_peak: float
    """Floating-point operations per second, measured in `products_dtype`."""
    bfloat16_gemm_peak: float | None
    """The same in bfloat16, where products are float32 on a device that multiplies it in
    hardware."""
    memory: StepMemory
    unneeded_checkpointing: tuple[int, int] | None
    """(Bytes that are planned without gradient checkpointing, bytes that the device has), where
    there is checkpointing and the former fit."""
    save_seconds: float
    steps_per_save: int
    """Optimizer steps between two checkpoints of the run."""

    @property
    def seconds(self) -> float:
        """A step."""
        return sum(one.seconds for one in self.slices)

    @property
    def operations(self) -> float:
        """Of this process; what is computed again doesn't count."""
        return sum(one.operations for one in self.slices if one.place.part != RECOMPUTED)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation (PaLM, Chowdhery et al. 2022, appendix B), of the measured peak
        of matrix products."""
        return self.operations / (self.seconds * self.gemm_peak)

    @property
    def efficiency(self) -> float:
        """The same of forward and backward passes alone."""
        ratio = self.ratio("forward", "backward")
        return self.mfu / ratio if ratio else 0.0

    @property
    def save_ratio(self) -> float:
        """Saving, over all time of steps and saves."""
        per_step = self.save_seconds / self.steps_per_save
        return per_step / (self.seconds + per_step)

    def ratio(self, *phases: str, parts: tuple[str, ...] | None = None) -> float:
        """Share of a step's time that these phases take.

        Args:
            parts: only these of them; None: all.
        """
        chosen = (
            one.seconds
            for one in self.slices
            if one.place.phase in phases and (parts is None or one.place.part in parts)
        )
        return sum(chosen) / self.seconds

    def rows(self) -> Iterator[dict[str, Any]]:
        """The slices, largest first."""
        for one in sorted(self.slices, key=lambda one: -one.seconds):
            yield {
                "phase": one.place.phase,
                "part": one.place.part,
                "seconds": one.seconds,
                "ratio": one.seconds / self.seconds,
                "flops": one.operations,
                "kept_bytes": one.kept_bytes,
            }

    def as_json(self) -> dict[str, Any]:
        """For `profile.json` and `--json`."""
        memory = asdict(self.memory)
        return {
            "num_steps": self.num_steps,
            "num_processes": self.num_processes,
            "device": self.device,
            "num_threads": self.num_threads,
            "step_seconds": self.seconds,
            "engine_step_seconds": self.engine_seconds,
            "cpu_seconds_per_step": self.cpu_seconds,
            "num_passes_per_step": self.num_passes,
            "num_tokens_per_step": self.num_tokens,
            "num_trained_tokens_per_step": self.num_trained_tokens,
            "tokens_per_second": self.num_tokens / self.seconds,
            "parts": list(self.rows()),
            "flops_per_step": self.operations,
            "products_dtype": self.products_dtype,
            "gemm_peak_flops_per_second": self.gemm_peak,
            "bfloat16_gemm_peak_flops_per_second": self.bfloat16_gemm_peak,
            "mfu": self.mfu,
            "memory_bytes": memory,
            "save_seconds": self.save_seconds,
            "steps_per_save": self.steps_per_save,
            "save_ratio": self.save_ratio,
        }
