"""What a recipe asks and what the device can -> the attention that runs; no torch until asked."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from framework.core.problems import Problem, UserError

_SEGMENTED = "segmented_"
SEGMENTED_SDPA, SEGMENTED_FLEX = f"{_SEGMENTED}sdpa", f"{_SEGMENTED}flex"
"""Names under which transformers knows our attention."""

FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_SHIFTED = "_shifted_"
MIN_FLASH_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """The attention that will run."""

    name: str
    """What transformers is given as `attn_implementation`."""
    reason: str
    """Why this one: a sentence for the log."""


def choose_attention(
    requested: str, device: str, dtype: str, group_size: int | None = None
) -> AttentionChoice:
    """What `model.attention` means on this device, where attention is computed in `dtype`.

    Args:
        group_size: of shifted attention; None: there is none.

    Raises:
        UserError: what is asked for can't run here.
    """
    if group_size is not None:
        return AttentionChoice(
            name=f"{SEGMENTED_SDPA}{_SHIFTED}{group_size}",
            reason=f"while training, shifted groups of {group_size} tokens",
        )
    if requested == "flex_attention":
        return _flex(device)
    if requested == "eager":
        return AttentionChoice(name="eager", reason="the recipe asks for it")
    if requested == "sdpa":
        return AttentionChoice(name=SEGMENTED_SDPA, reason="the recipe asks for it")
    if requested in FLASH_PACKAGES:
        obstacle = _flash_obstacle(requested, device, dtype)
        if obstacle:
            raise UserError(
                Problem(
                    key="model.attention",
                    what=f"{requested!r} can't run: {obstacle}",
                    hint="write `attention: auto`, or pip install 'framework[flash-attn]' "
                    "on a machine with such a GPU",
                )
            )
        return AttentionChoice(name=requested, reason="the recipe asks for it")
    assert requested == "auto", requested
    obstacle = _flash_obstacle("flash_attention_2", device, dtype)
    if obstacle:
        return AttentionChoice(name=SEGMENTED_SDPA, reason=f"not FlashAttention: {obstacle}")
    return AttentionChoice(
        name="flash_attention_2", reason="flash-attn is installed and the GPU can run it"
    )


def _flex(device: str) -> AttentionChoice:
    if not device.startswith("cuda"):
        raise UserError(
            Problem(
                key="model.attention",
                what=f"'flex_attention' can't run: it has no backward pass on {device}",
                hint="write `attention: auto`",
            )
        )
    return AttentionChoice(name=SEGMENTED_FLEX, reason="the recipe asks for it")


def _flash_obstacle(name: str, device: str, dtype: str) -> str:
    """Why FlashAttention can't run here, empty when it can."""
    if not device.startswith("cuda"):
        return f"the device is {device}"
    if dtype == "float32":
        return "it computes in 16 bits only, and the recipe says float32"
    package = FLASH_PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        return f"the package {package!r} is not installed"
    import torch

    capability = torch.cuda.get_device_capability()
    if capability < MIN_FLASH_CAPABILITY:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, it needs 8.0"
    return ""


def reads_boundaries(attention: str | None) -> bool:
    """Whether it is one of ours, which is told boundaries of documents and no mask."""
    return attention is not None and attention.startswith(_SEGMENTED)


def register(attention: str = SEGMENTED_SDPA) -> None:
    """Makes our kinds of attention known to transformers, and FlashAttention take rows whose
    beginnings are shared; all but the shifted kind take rows of which a process has a slice. Again
    is harmless."""
    import functools

    from transformers import AttentionInterface, AttentionMaskInterface

    from framework.attention.segmented import segmented_attention, segmented_mask
    from framework.attention.sequence_parallel import sequence_attention

    AttentionInterface.register(
        SEGMENTED_SDPA, functools.partial(sequence_attention, segmented_attention)
    )
    AttentionMaskInterface.register(SEGMENTED_SDPA, segmented_mask)
    if attention in FLASH_PACKAGES:
        from transformers.integrations.flash_attention import flash_attention_forward

        from framework.attention.document_attention import document_attention

        whole = functools.partial(document_attention, flash_attention_forward)
        AttentionInterface.register(attention, functools.partial(sequence_attention, whole))
    if attention == SEGMENTED_FLEX:
        from framework.attention.block_masks import block_attention

        AttentionInterface.register(
            attention, functools.partial(sequence_attention, block_attention)
        )
        AttentionMaskInterface.register(attention, segmented_mask)
    if _SHIFTED in attention:
        from framework.attention.shifted import shifted_attention

        size = int(attention.rpartition(_SHIFTED)[2])
        AttentionInterface.register(
            attention, functools.partial(shifted_attention, group_size=size)
        )
        AttentionMaskInterface.register(attention, segmented_mask)
