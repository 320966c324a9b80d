"""Causal language model -> the policy that trainers ask for losses.

Shapes: T tokens in the row, L labels, V tokens in the vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from framework.core.batch import Batch
from framework.models.precision import autocast

LOGITS_CHUNK_ELEMENTS = 1 << 22
"""Logits that are held in float32 at a time: 16 MiB, which fits a CPU's cache and costs a GPU
nothing that could be measured against the head's matrix product."""


class CausalPolicy:
    """The model as trainers see it; the head runs at label positions only.

    Args:
        model: a causal language model, plain or wrapped by peft, DDP or FSDP.
        autocast_dtype: `bfloat16` or `float16` to compute matrix products in it; None where the
            weights' own dtype is what the recipe asks for.
    """

    def __init__(self, model: Module, autocast_dtype: str | None = None) -> None:
        self.model = model
        self.autocast_dtype = autocast_dtype
        accepted = inspect.signature(plain_model(model).forward).parameters
        self._heads_at_labels = "logits_to_keep" in accepted

    def logits(self, batch: Batch) -> Tensor:
        """[L, V]: logits at the label positions, in the dtype that the model computes in."""
        settings: dict[str, Any] = {}
        if self._heads_at_labels:
            settings["logits_to_keep"] = batch.label_positions
        with autocast(batch.input_ids.device, self.autocast_dtype):
            output = self.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=None,
                use_cache=False,
                cu_seq_lens_q=batch.boundaries,
                cu_seq_lens_k=batch.boundaries,
                max_length_q=batch.max_document_length,
                max_length_k=batch.max_document_length,
                **settings,
            )
        if self._heads_at_labels:
            return output.logits[0]
        return output.logits[0].index_select(0, batch.label_positions)

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """float32 [L]: -log p(label | the tokens before it in its document).

        Without labels it is empty, and its sum is still connected to every parameter.
        """
        return token_losses(self.logits(batch), batch.labels)


def plain_model(model: Module) -> Module:
    """The transformers model inside any wrappers."""
    from accelerate.utils import extract_model_from_parallel
    from peft import PeftModel

    inner = extract_model_from_parallel(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [L]: cross-entropy of each label, from logits [L, V] of any float dtype.

    Exponentials and sums are float32, in chunks of rows. The gradient is computed in the same
    sweep, while the chunk is in the cache, and kept in the logits' dtype.
    """
    return _TokenLosses.apply(logits, labels)


class _TokenLosses(torch.autograd.Function):
    """d loss_i / d logits_i = softmax(logits_i) - one_hot(label_i)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needs_gradient else None
        rows = max(1, LOGITS_CHUNK_ELEMENTS // logits.shape[-1])
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            # A copy even of float32 logits, which are not ours to change.
            scores = logits[part].to(torch.float32, copy=True)
            wanted = labels[part, None]
            scores -= scores.amax(-1, keepdim=True)
            chosen = scores.gather(-1, wanted)
            sums = scores.exp_().sum(-1, keepdim=True)
            losses[part] = (sums.log() - chosen).squeeze(-1)
            if gradient is not None:
                scores /= sums
                scores.scatter_add_(-1, wanted, torch.full_like(chosen, -1.0))
                gradient[part] = scores
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        scaled = torch.empty_like(gradient)
        rows = max(1, LOGITS_CHUNK_ELEMENTS // gradient.shape[-1])
        for start in range(0, len(gradient), rows):
            part = slice(start, start + rows)
            # In float32: a 16-bit factor would put the same relative error on every gradient.
            scaled[part] = gradient[part].float() * gradients[0][part, None]
        return scaled, None
