"""Model -> hooks that tell a clock which part of it runs, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Module
from transformers import PreTrainedModel

from framework.core.heads import HEAD_NAMES
from framework.core.problems import UserError
from framework.models.layers import Layers, layers_of
from framework.models.policy import plain_model
from framework.profiling.clock import Clock, Place

EMBEDDING, ATTENTION, MLP, NORMS, HEAD = "embedding", "attention", "MLP", "norms", "head"
LAYERS = "layers"
"""Layers that are compiled, and can't be looked into."""
REST = "rest"
"""Of a forward pass: residual additions, rotary tables, masks, what stands between modules."""

_MIXING_TOKENS = ("Attention", "Mixer", "DeltaNet")
"""How transformers ends the names of modules in which tokens see each other; recurrent ones stand
under attention too."""


@contextmanager
def parts_watched(model: Module, clock: Clock, *, compiled: bool) -> Iterator[None]:
    """The clock hears of every forward and backward pass of the model, while the context lasts.

    Args:
        model: as it is called, with what is wrapped around it.
        compiled: its layers are.
    """
    parts = {model: REST, **parts_of(model, compiled=compiled)}
    handles = [hook for module, part in parts.items() for hook in _watch(module, part, clock)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def reference_watched(model: Module | None, clock: Clock) -> Iterator[None]:
    """The clock hears of every forward pass of another model; None: there is none."""
    handles = []
    if model is not None:
        handles = [
            model.register_forward_pre_hook(lambda *_: clock.enter_reference()),
            model.register_forward_hook(lambda *_: clock.leave_part(), always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def exchange_watched(model: Module, clock: Clock) -> Iterator[None]:
    """What a backward pass still does when every trained weight has its gradient is communication:
    waiting until the processes' gradients are added up.

    How many weights get one is learned from the passes themselves.
    """
    expected = seen = 0

    def note(_: Tensor) -> None:
        nonlocal seen
        seen += 1
        if seen == expected:
            clock.turn(Place("communication"))

    def begin(*_: Any) -> None:
        nonlocal expected, seen
        expected, seen = max(expected, seen), 0

    trained = [one for one in model.parameters() if one.requires_grad]
    handles = [one.register_post_accumulate_grad_hook(note) for one in trained]
    handles.append(model.register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def parts_of(model: Module, *, compiled: bool = False) -> Mapping[Module, str]:
    """Module -> the part that it is; modules inside of one are left out."""
    plain = plain_model(model)
    assert isinstance(plain, PreTrainedModel), type(plain).__name__
    try:
        layers = layers_of(plain, "model.source")
    except UserError:
        layers = Layers(path="", modules=())
    heads = [child for name, child in plain.named_children() if name in HEAD_NAMES]
    ends = {one: HEAD for one in (plain.get_output_embeddings(), *heads) if one is not None}
    ends |= {plain.get_input_embeddings(): EMBEDDING}
    found: dict[Module, str] = {}
    inside = set(layers.modules)
    for layer in layers.modules:
        found[layer] = LAYERS if compiled else REST
        if not compiled:
            found.update(_parts_of_layer(layer))

    def look_into(module: Module) -> None:
        for child in module.children():
            part = _part_outside(child, ends)
            if part:
                found[child] = part
            elif child not in inside:
                look_into(child)

    look_into(plain)
    return found


def _part_outside(module: Module, ends: Mapping[Module, str]) -> str:
    if module in ends:
        return ends[module]
    if isinstance(module, Embedding):
        return EMBEDDING
    is_leaf = next(module.children(), None) is None
    return NORMS if is_leaf and _has_vectors_alone(module) else ""


def _parts_of_layer(layer: Module) -> Iterator[tuple[Module, str]]:
    for child in layer.children():
        kind = type(child).__name__
        if any(kind.endswith(one) for one in _MIXING_TOKENS):
            yield child, ATTENTION
        elif _has_vectors_alone(child):
            yield child, NORMS
        elif next(child.parameters(), None) is not None:
            yield child, MLP


def _has_vectors_alone(module: Module) -> bool:
    """Whether it has parameters, and none of them, nor what it holds beside them, is a matrix."""
    sizes = [one.ndim for one in (*module.parameters(), *module.buffers())]
    return next(module.parameters(), None) is not None and max(sizes) <= 1


def _watch(module: Module, part: str, clock: Clock) -> Iterator[Any]:
    """The hook of an output runs when its gradient is complete, and before that of anything in
    the module is computed."""

    def before(*_: Any) -> None:
        clock.enter_part(part)

    def after(_: Module, __: Any, output: Any) -> None:
        forward = clock.place.phase == "forward"
        clock.leave_part()
        tensor = output[0] if isinstance(output, tuple) and output else output
        if (
            forward
            and part != REST
            and isinstance(tensor, Tensor)
            and tensor.requires_grad
            and torch.is_grad_enabled()
        ):
            tensor.register_hook(lambda _: clock.turn(Place("backward", part)))

    yield module.register_forward_pre_hook(before)
    # A forward pass that gradient checkpointing has run far enough ends in an exception.
    yield module.register_forward_hook(after, always_call=True)
