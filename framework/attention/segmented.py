"""Attention within each document of a flat row, in the form that transformers calls.

Boundaries arrive as the arguments that transformers passes to FlashAttention's variable-length
kernels, so one call serves both. Without boundaries, as in generation with a cache, it is
PyTorch's ordinary attention.

Shapes: H query heads, K key and value heads, T tokens in the row, E numbers per head, D documents.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from framework.attention.constants import kept_constant
from framework.attention.document_attention import document_attention
from framework.attention.flat_attention import flat_attention, forest_attention
from framework.core.batch import Shared
from framework.core.problems import Problem, UserError

UNSUPPORTED = {
    "softcap": "caps its attention scores",
    "s_aux": "has attention sinks",
    "position_bias": "adds a bias to its attention scores",
}
"""What PyTorch's attention can't compute."""


def segmented_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    config: PretrainedConfig,
    **settings: Any,
) -> Tensor | None:
    """Mask of one kind of layer; transformers' own except for whole rows of causal documents.

    Those get an empty mask that only describes: its second dimension is 1 when the row holds
    several documents, its last is the sliding window, 0 for none. None is one plain document.
    """
    is_bidirectional = "allow_is_bidirectional_skip" in settings
    chunked = local_size is not None and local_size != config.sliding_window
    is_whole_row = isinstance(q_offset, int) and q_offset == 0 and q_length == kv_length
    if attention_mask is None and is_whole_row and not (use_vmap or chunked or is_bidirectional):
        # Even where it is no shorter than these tokens, which may be a slice of the row's.
        window = local_size or 0
        if allow_is_causal_skip and not window:
            return None
        return torch.empty(0, 0 if allow_is_causal_skip else 1, 1, window, dtype=torch.bool)
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        attention_mask=attention_mask,
        use_vmap=use_vmap,
        allow_is_causal_skip=allow_is_causal_skip,
        local_size=local_size,
        config=config,
        **settings,
    )


def segmented_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    shared: Shared | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Causal attention that never crosses a document's boundary.

    Args:
        module: the layer, which knows its number of query heads per key head.
        query: [1, H, T, E]
        key: [1, K, T, E]
        value: [1, K, T, E]
        attention_mask: what `segmented_mask` made.
        cu_seq_lens_q: int32 [D + 1], the documents' boundaries; None for one document.
        shared: how the documents stand in the row; None: end to end.

    Returns:
        [1, T, H, E]

    Raises:
        UserError: the architecture's attention is more than PyTorch's kernels compute.
        TypeError: it holds back from its attention where documents end.
    """
    refuse_unsupported(module, settings)
    # Where products are rounded by autocast, rotary embeddings leave what they turn in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if shared is not None:
        return _shared(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            cu_seq_lens_q=cu_seq_lens_q,
            shared=shared,
            **settings,
        )
    describes = attention_mask is not None and attention_mask.numel() == 0
    window = sliding_window or 0
    if describes and attention_mask is not None:
        holds_several, window = attention_mask.shape[1] == 1, attention_mask.shape[-1] or window
        if holds_several and cu_seq_lens_q is None:
            raise TypeError(f"{type(module).__name__} isn't told the documents' boundaries")
        attention_mask = None
    if cu_seq_lens_q is not None:
        lengths = document_lengths(cu_seq_lens_q)
    elif attention_mask is None and 0 < window < query.shape[2] == key.shape[2]:
        lengths = (query.shape[2],)
    else:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is None and not dropout and _is_flat(query, value, lengths, window):
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return flat_attention(q, k, v, lengths, scale)[None], None
    output = _document_by_document(
        query,
        key,
        value,
        lengths,
        mask=attention_mask,
        dropout=dropout,
        scale=scale,
        window=window,
    )
    return output, None


def _shared(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    shared: Shared,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Common beginnings are computed once where a CPU sees all of them, else for each document."""
    described = 0 if attention_mask is None else attention_mask.shape[-1]
    window = described or sliding_window or 0
    sizes_differ = query.shape[-1] != value.shape[-1]
    if query.device.type != "cpu" or dropout or sizes_differ or 0 < window < query.shape[2]:
        attend = partial(
            segmented_attention, dropout=dropout, scaling=scaling, sliding_window=sliding_window
        )
        return document_attention(
            attend, module, query, key, value, attention_mask, shared=shared, **settings
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return forest_attention(q, k, v, shared.segments, scale)[None], None


def _document_by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    *,
    mask: Tensor | None,
    dropout: float,
    scale: float,
    window: int,
) -> Tensor:
    """PyTorch's kernel for each document; split and concatenated once, so gradients are too."""
    outputs: list[Tensor] = []
    start = 0
    parts = (query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2))
    for length, q, k, v in zip(lengths, *parts, strict=True):
        within = _band(length, window, query.device) if 0 < window < length else None
        if mask is not None:
            within = mask[..., start : start + length, start : start + length]
        output = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=within,
            dropout_p=dropout,
            is_causal=within is None,
            scale=scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        outputs.append(output.transpose(1, 2))
        start += length
    return outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs, 1)


def _is_flat(query: Tensor, value: Tensor, lengths: tuple[int, ...], window: int) -> bool:
    """Whether batched matrix products compute short documents faster than PyTorch's kernel."""
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1]
        and not 0 < window < max(lengths)
    )


def refuse_unsupported(module: Module, settings: dict[str, Any]) -> None:
    """What a layer asks for that the kernels here don't compute.

    Raises:
        UserError: there is something.
    """
    for name, what in UNSUPPORTED.items():
        if settings.get(name) is not None:
            raise UserError(
                Problem(
                    key="model.attention",
                    what=f"{type(module).__name__} {what}, which `sdpa` can't compute",
                    hint="write `attention: eager`, or flash_attention_2 on a GPU",
                )
            )


@kept_constant(4)
def document_lengths(boundaries: Tensor) -> tuple[int, ...]:
    """Tokens of each document; read from the device once per batch, not once per layer."""
    return tuple(boundaries.diff().tolist())


@kept_constant(4)
def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Bool [L, L]: a token sees itself and the `window - 1` before it."""
    tokens = torch.arange(length, device=device)
    distance = tokens[:, None] - tokens[None, :]
    return (distance >= 0) & (distance < window)
