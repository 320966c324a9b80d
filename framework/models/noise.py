"""Model in training -> the same model whose input embeddings are disturbed (NEFTune)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module


@contextmanager
def noisy_embeddings(
    model: Module, boundaries: Tensor, alpha: float | None, own: slice = slice(None)
) -> Iterator[None]:
    """While the context lasts, noise is added to every token's embedding, unless the model is
    evaluated or `alpha` is None.

    It is uniform in +-alpha / sqrt(n d), with n tokens in the token's document and d numbers in an
    embedding (Jain et al., 2023, https://arxiv.org/abs/2310.05914, algorithm 1), and drawn from
    PyTorch's own generator.

    Args:
        model: a transformers model without wrappers.
        boundaries: int32 [D + 1] of the documents that are laid end to end.
        own: which of their tokens the model is given.
    """
    if alpha is None or not model.training:
        yield
        return
    lengths = boundaries.diff().long()
    sizes = torch.repeat_interleave(alpha * lengths.float().rsqrt(), lengths)[own]

    def disturb(module: Module, inputs: object, embeddings: Tensor) -> Tensor:
        noise = torch.empty_like(embeddings).uniform_(-1, 1)
        scale = sizes * embeddings.shape[-1] ** -0.5
        return embeddings + noise * scale[:, None].to(embeddings.dtype)

    hook = model.get_input_embeddings().register_forward_hook(disturb)  # pyright: ignore[reportCallIssue]
    try:
        yield
    finally:
        hook.remove()
