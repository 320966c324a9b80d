"""Settings of vLLM as the program that answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framework.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class VLLM:
    """How vLLM is reached and what it may take; all of it is handed on to TRL."""

    mode: Literal["colocate", "server"] = "colocate"
    """`colocate`: in the training processes, on their GPUs. `server`: `trl vllm-serve`."""
    server_base_url: str | None = setting(None, not_empty=True)
    """Address of the server, such as `http://localhost:8000`."""
    gpu_memory_utilization: float = setting(0.3, above=0, at_most=1)
    """Share of a GPU's memory that vLLM takes; with `colocate`."""
    tensor_parallel_size: int = setting(1, at_least=1)
    """GPUs over which vLLM spreads the model; with `colocate`."""
    sleep: bool = False
    """vLLM gives its memory back during the optimizer step; with `colocate`."""
    importance_sampling_correction: bool = True
    """Correct for vLLM's probabilities being other ones than the trained model's; GRPO only."""
