"""What an adapter carries from step to step besides its parameters <-> a checkpoint's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module

from framework.core.protocols.models import Adapter, Remembering

MEMORY = "adapter_memory.safetensors"


def capture_memory(adapter: Adapter, model: Module) -> Callable[[Path], None]:
    """What writes it as it is now, if the adapter has any."""
    state: dict[str, Tensor] = {}
    if isinstance(adapter, Remembering):
        state = {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in adapter.state(model).items()
        }

    def write(folder: Path) -> None:
        if isinstance(adapter, Remembering):
            save_file(state, folder / MEMORY)

    return write


def load_memory(adapter: Adapter, model: Module, folder: Path) -> None:
    """Puts it back, if the adapter has any, on the model's device."""
    if isinstance(adapter, Remembering):
        device = next(model.parameters()).device
        adapter.restore(model, load_file(folder / MEMORY, device=str(device)))
