"""Prompts -> the tokens with which a model goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def ready_to_generate(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients, a key-value cache, and the attention kernel that it needs."""
    was_training = model.training
    kernel = model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation(kernel)
        model.train(was_training)


def generated(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    padding: int,
    end_token_ids: Collection[int],
    max_new_tokens: int,
    **choice: Any,
) -> list[list[int]]:
    """The new tokens after each prompt; those of answers that end earlier are padded.

    Args:
        padding: the token that stands before shorter prompts and after shorter answers.
        choice: how transformers chooses each token: `do_sample`, `temperature` ...
    """
    longest = max(map(len, prompts))
    rows = [[padding] * (longest - len(one)) + list(one) for one in prompts]
    masks = [[0] * (longest - len(one)) + [1] * len(one) for one in prompts]
    output = model.generate(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(masks, device=model.device),
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_token_ids),
        pad_token_id=padding,
        **choice,
    )
    return output[:, longest:].tolist()
