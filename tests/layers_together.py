"""Models whose layers two processes compute together, held against the whole ones in each process.

accelerate launch ... tests/layers_together.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from architectures import VOCABULARY, build
from torch import Tensor
from transformers import PreTrainedModel

from framework.models.tensor_parallel import TensorGroup, cut_layers

CLOSE = 1e-5
"""In relation to the largest number: the same sums in another order."""
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {"attention_bias": True, "mlp_bias": True},
    "Qwen3Config": {"head_dim": 16},
    "Gemma3TextConfig": {"head_dim": 16, "layer_types": ["full_attention", "full_attention"]},
    "Phi3Config": {},
    "Olmo2Config": {},
    "Starcoder2Config": {},
}
"""Plans with biases, with norms inside of heads, and with outputs that are put together again."""


def gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of a row, and what each weight would learn of it."""
    tokens = torch.arange(2, 26)[None] % VOCABULARY
    logits = model(input_ids=tokens, use_cache=False).logits
    logits.logsumexp(-1).square().sum().backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return logits.detach(), found


def difference(one: Tensor, other: Tensor) -> float:
    """The largest, in relation to the largest number."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max() / other.abs().max())


def compare(name: str, group: TensorGroup) -> int:
    """How many weights were cut."""
    whole, cut = build(name, ARCHITECTURES[name]), build(name, ARCHITECTURES[name])
    cuts = cut_layers(cut, group)
    logits, expected = gradients(whole)
    ours, found = gradients(cut)
    assert difference(ours, logits) < CLOSE, name
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        kind = cuts.get(key)
        if kind is not None and kind.dimension is not None:
            assert gradient.shape != expected[key].shape, key
            found[key] = group.gather(gradient, kind.dimension)
        elif kind is not None and kind.adds_up:
            assert difference(gradient, expected[key]) > CLOSE, key
            found[key] = group.sum(gradient)
        assert difference(found[key], expected[key]) < CLOSE, (name, key)
    return sum(one.dimension is not None for one in cuts.values())


def main() -> None:
    """Compares all of them."""
    accelerator = Accelerator()
    processes = torch.distributed.group.WORLD
    assert accelerator.num_processes == 2 and processes is not None
    group = TensorGroup(rank=accelerator.process_index, size=2, processes=processes)
    for name in ARCHITECTURES:
        number = compare(name, group)
        if accelerator.is_main_process:
            print(name, number, flush=True)


if __name__ == "__main__":
    main()
