"""Rows that two processes compute together, held against the whole ones in each process.

accelerate launch ... tests/rows_together.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from architectures import PACKABLE, batch_of, build, document, tiny_model
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from framework.attention.attention import SEGMENTED_FLEX, SEGMENTED_SDPA, register
from framework.attention.document_attention import document_attention
from framework.attention.segmented import segmented_attention, segmented_mask
from framework.attention.sequence_parallel import SequenceGroup, SlicedRow, sequence_attention
from framework.core.batch import Batch, Encoded
from framework.core.problems import UserError
from framework.models.collate import flat_batch
from framework.models.isolation import prove_slices
from framework.models.policy import CausalPolicy

CLOSE = 1e-5
"""In relation to the largest number: the same sums in another order."""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Lfm2Config": ({"full_attn_idxs": [1]}, SEGMENTED_SDPA),
    "MambaConfig": ({"state_size": 8}, "eager"),
    "BloomConfig": ({"n_layer": 2, "n_head": 4}, "eager"),
    "GPTBigCodeConfig": (
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128},
        SEGMENTED_SDPA,
    ),
    "Llama4TextConfig": ({"num_local_experts": 2, "attention_chunk_size": 16}, SEGMENTED_SDPA),
}
"""Convolutions, a state space, attention of a model's own, keys that all heads share, and a mask of
a model's own."""
BEGINNING = document(20, seed=7).tokens
ROWS = {
    "documents end to end": batch_of(
        document(9, 1), document(31, 2, num_prompt_tokens=24), document(5, 3), document(14, 4)
    ),
    "beginnings in common": batch_of(
        *(
            Encoded(
                tokens=BEGINNING + document(size, seed=size).tokens,
                trained=(False,) * 15 + (True,) * (size + 5),
            )
            for size in (12, 7, 1)
        ),
        document(30, 5),
    ),
    "labels in one slice alone": batch_of(document(40, 6, num_prompt_tokens=35)),
    "less than a token for each": flat_batch([], []),
}
WHOLE = "documents_whole"


def trained(model: PreTrainedModel, batch: Batch, group: SequenceGroup | None) -> tuple[Any, ...]:
    """Losses of labels, and what each weight learns of them, which is the mean over processes."""
    model.zero_grad()
    policy = CausalPolicy(model, shares=True, sequence=group)
    losses = policy.negative_log_likelihood(batch)
    # Labels weigh unlike each other, and both processes derive the same from them.
    (losses.square() * torch.linspace(0.5, 1.5, len(losses))).sum().backward()
    found = {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }
    for gradient in found.values() if group is not None else ():
        torch.distributed.all_reduce(gradient)
        gradient.div_(2)
    return losses.detach(), found


def assert_close(one: Tensor, other: Tensor, what: str) -> None:
    assert one.shape == other.shape, (what, one.shape, other.shape)
    if one.numel():
        gap = float((one - other).abs().max())
        assert gap <= CLOSE * float(other.abs().max()) + 1e-9, (what, gap)


def compare(name: str, model: PreTrainedModel, group: SequenceGroup) -> None:
    for row, batch in ROWS.items():
        losses, expected = trained(model, batch, None)
        ours, found = trained(model, batch, group)
        assert_close(ours, losses, f"{name}: {row}")
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            assert_close(gradient, expected[key], f"{name}: {row}: {key}")


def as_for_flash_attention() -> PreTrainedModel:
    """A model whose attention gets documents whole, as FlashAttention's kernels do."""
    attend = partial(document_attention, segmented_attention)
    AttentionInterface.register(WHOLE, partial(sequence_attention, attend))
    AttentionMaskInterface.register(WHOLE, segmented_mask)
    return tiny_model("llama", WHOLE)


def with_block_masks() -> PreTrainedModel:
    """A model whose attention is flex attention, as on GPUs."""
    register(SEGMENTED_FLEX)
    model = tiny_model("llama")
    model.set_attn_implementation(SEGMENTED_FLEX)
    return model


def compare_exchange(group: SequenceGroup) -> None:
    """There and back is nothing, forward and in gradients; and each gets its own heads of all."""
    row = SlicedRow(group=group, num_tokens=7)
    whole = torch.arange(7.0 * 4 * 3).view(7, 4, 3)
    (heads,) = row.to_heads(whole[row.own])
    assert torch.equal(heads, whole[:, 2 * group.rank : 2 * group.rank + 2])
    keys, values = row.to_heads(whole[row.own, :2], whole[row.own, :, :1])
    assert torch.equal(keys, whole[:, group.rank : group.rank + 1])
    assert torch.equal(values, whole[:, 2 * group.rank : 2 * group.rank + 2, :1])
    for one, other in zip(row.to_tokens(keys, values), (whole[:, :2], whole[..., :1]), strict=True):
        assert torch.equal(one, other[row.own])


def refused(model: PreTrainedModel, group: SequenceGroup) -> str:
    try:
        prove_slices(model, group, several=False, shares=False)
    except UserError as error:
        return str(error)
    return ""


def with_neighbours() -> PreTrainedModel:
    """A Llama in one of whose layers the token before is seen outside of attention."""
    model = tiny_model("llama")
    gate = model.get_submodule("model.layers.0.mlp")
    gate.register_forward_hook(lambda module, inputs, output: output + output.roll(1, 1))
    return model


def main() -> None:
    """Compares all of them."""
    accelerator = Accelerator()
    processes = torch.distributed.group.WORLD
    assert accelerator.num_processes == 2 and processes is not None
    group = SequenceGroup(rank=accelerator.process_index, size=2, processes=processes)
    compare_exchange(group)
    for name in (*PACKABLE, WHOLE):
        if name == "llama with one key head":
            continue
        model = as_for_flash_attention() if name == WHOLE else tiny_model(name)
        compare(name, model, group)
        prove_slices(model, group, several=True, shares=True)
        if accelerator.is_main_process:
            print("the same:", name, flush=True)
    # Forward alone: it has no backward pass on a CPU. Compiled, the kernel takes a minute.
    with torch.compiler.set_stance("force_eager"):
        prove_slices(with_block_masks(), group, several=True, shares=True)
    models = {name: build(name, *settings) for name, settings in REFUSED.items()}
    for name, model in {**models, "Neighbours": with_neighbours()}.items():
        said = refused(model, group)
        if accelerator.is_main_process:
            print("refused:", name, said, flush=True)


if __name__ == "__main__":
    main()
