"""Language model -> its output layer, where logits are what that layer gives and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Linear, Module, Parameter
from transformers import PreTrainedModel

from framework.models.precision import autocast


def bare_head(
    model: Module, inputs: Mapping[str, Any], autocast_dtype: str | None
) -> Linear | None:
    """The output layer, for computing with its weight instead of running it.

    None where that could give something else: an adapter stands in the layer or around it, its
    weight is quantised or shared out, or the model scales or caps logits, as Granite, Cohere and
    Gemma 2 do. The last is found by running one token.

    Args:
        inputs: the model's, of that token.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if type(head) is not Linear or "forward" in vars(head):
        return None
    if head._forward_hooks or head._forward_pre_hooks:
        return None
    weight = head.weight
    is_whole = weight.shape == (head.out_features, head.in_features)
    is_plain = type(weight) in (Parameter, FakeTensor) and weight.is_floating_point()
    if not (is_whole and is_plain and _gives_logits(model, head, inputs, autocast_dtype)):
        return None
    return head


def _gives_logits(
    model: Module, head: Linear, inputs: Mapping[str, Any], autocast_dtype: str | None
) -> bool:
    said: list[tuple[Tensor, int]] = []

    def listen(module: Module, inputs: Any, output: Tensor) -> None:
        said.append((output, output._version))

    # Without dropout, whose numbers are those of the step to come.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    hook = head.register_forward_hook(listen)
    try:
        with torch.no_grad(), autocast(head.weight.device, autocast_dtype):
            logits = model(**inputs).logits
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
    return len(said) == 1 and logits is said[0][0] and logits._version == said[0][1]


@contextmanager
def in_place_of(head: Linear, computed: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Meanwhile the model's logits are what `computed` makes of the hidden states that the layer is
    given, so that whatever is around the model sees a forward pass."""
    head.forward = computed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del head.forward
