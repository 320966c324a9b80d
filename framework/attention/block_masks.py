"""Attention of a flat row by PyTorch's flex attention, on a GPU: one kernel for all documents of a
row, also of one whose common beginnings are computed once.

Rows of a forest stand depth first, so everything that continues a segment ends at one row, its
`last`: row q sees row k where k <= q < last(k). Documents that lie end to end are the forest in
which nothing is continued. Blocks of rows in which nobody sees anybody are left out (Dong et al.,
2024, https://arxiv.org/abs/2412.05496).

Shapes: H query heads, K key and value heads, U rows, E numbers per head, D documents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward

from framework.attention.constants import kept_constant
from framework.attention.segmented import document_lengths, refuse_unsupported, segmented_attention
from framework.core.batch import Segment, Shared


def block_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    shared: Shared | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Causal attention that never crosses a document's boundary, as `segmented_attention` computes
    it; that one itself where there are no boundaries, as in generation, or where weights are
    dropped.

    Args:
        query: [1, H, U, E]
        key: [1, K, U, E]
        value: [1, K, U, E]
        attention_mask: what `segmented_mask` made.
        cu_seq_lens_q: int32 [D + 1], the documents' boundaries.
        shared: how the documents stand in the row; None: end to end.

    Returns:
        [1, U, H, E]

    Raises:
        UserError: the architecture's attention is more than the kernel computes.
    """
    describes = attention_mask is None or attention_mask.numel() == 0
    if cu_seq_lens_q is None or dropout or not describes:
        return segmented_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            sliding_window=sliding_window,
            cu_seq_lens_q=cu_seq_lens_q,
            shared=shared,
            **settings,
        )
    refuse_unsupported(module, settings)
    described = 0 if attention_mask is None else attention_mask.shape[-1]
    segments = _end_to_end(cu_seq_lens_q) if shared is None else shared.segments
    mask = block_mask(segments, described or sliding_window or 0, query.device)
    output, _ = flex_attention_forward(
        module,
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        mask,
        scaling=settings.get("scaling"),
    )
    return output, None


def _end_to_end(boundaries: Tensor) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for length in document_lengths(boundaries):
        segments.append(Segment(start=start, stop=start + length, last=start + length))
        start += length
    return tuple(segments)


@kept_constant(4)
def block_mask(segments: tuple[Segment, ...], window: int, device: torch.device) -> BlockMask:
    """Which rows see which; made once a batch and kind of layer.

    Args:
        segments: of the row's forest, by their first row.
        window: tokens that a token sees, itself included; 0: all of its document before it.
    """
    sizes = torch.tensor([one.stop - one.start for one in segments], device=device)
    last = torch.tensor([one.last for one in segments], device=device).repeat_interleave(sizes)
    rows = torch.arange(len(last), device=device)
    # Of a row in its document: rows that stand between its segments aren't the document's.
    skipped = torch.tensor(_skipped(segments), device=device).repeat_interleave(sizes)
    positions = rows - skipped

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (q < last[k])
        return seen & (positions[q] - positions[k] < window) if window else seen

    compiles = device.type != "cpu"  # else all rows by all rows are made at once
    return create_block_mask(
        sees, None, None, len(last), len(last), device=device, _compile=compiles
    )


def _skipped(segments: tuple[Segment, ...]) -> list[int]:
    """How many rows before each segment are not of its documents."""
    found: list[int] = []
    above: list[Segment] = []
    for segment in segments:
        while above and above[-1].last <= segment.start:
            above.pop()
        found.append(segment.start - sum(one.stop - one.start for one in above))
        above.append(segment)
    return found
