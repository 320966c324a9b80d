"""What was live at a model's moments, and what a device holds of it -> its peak memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from framework.core.protocols.sharding import Shares

Kind = Literal[
    "weights", "casts", "gradients", "optimizer", "activations", "logits", "other", "host"
]
"""What memory is for. `casts`: copies of weights in the dtype of products. `host`: what was moved
into the machine's memory."""
KINDS: tuple[Kind, ...] = get_args(Kind)
FORWARD_AND_LAST, FIRST, STEP = "forward", "backward", "step"
"""Phases: until the last layers' backward pass is over; from where that of the first layers begins;
the optimizer's step."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Moment(NamedTuple):
    """Live bytes of each kind, in the order of KINDS, and when that was."""

    weights: float = 0
    casts: float = 0
    gradients: float = 0
    optimizer: float = 0
    activations: float = 0
    logits: float = 0
    other: float = 0
    host: float = 0
    has_gradients: bool = False
    """The backward pass has given one."""

    @property
    def kinds(self) -> tuple[float, ...]:
        """The bytes alone."""
        return self[: len(KINDS)]

    @property
    def total(self) -> float:
        """On the device."""
        return sum(self.kinds) - self.host


Moments = Mapping[str, Sequence[Moment]]
"""Phase -> its moments."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What was seen of a model that was run with two numbers of layers; bytes, of one device that
    holds everything."""

    num_blocks: float
    """How often the repeated layers are in the model."""
    one_block: Moments
    two_blocks: Moments
    """With one and with two of those; equal, and `num_blocks` 2, where layers differ too much to
    be repeated."""
    weights_bytes: float
    trained_bytes: float
    """Of the trained weights, and so of their gradients."""
    num_parameters: int
    num_trained: int
    num_layer_parameters: int
    """Numbers in the largest layer."""
    num_layer_trained: int
    """Those of them that are trained."""
    layer_bytes: float
    """Of the largest layer's weights as they are held."""
    num_other_parameters: int
    """Numbers outside of layers: embeddings, output layer, norms."""
    num_other_trained: int
    """Those of them that are trained."""
    reference_bytes: float = 0.0
    """A second, frozen model."""
    average_bytes: float = 0.0
    """A moving average of the trained weights."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on a device at the moment when they are most, and what waits on the host."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int
    host: int
    """In the machine's memory, for each device."""
    phase: str
    """When that is: `forward` (with the backward pass of the last layers), `backward` (of the first
    ones) or `step`."""

    @property
    def peak(self) -> int:
        """All of it on the device."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.other
        )

    def kinds(self) -> dict[str, int]:
        """What the device holds, by kind."""
        return {name: vars(self)[name] for name in REPORTED}


REPORTED = ("weights", "gradients", "optimizer", "activations", "logits", "other")


def peak_memory(traced: Traced, shares: Shares, context_bytes: float = 0.0) -> Memory:
    """The moment at which a device holds most.

    Args:
        context_bytes: what the device's driver and libraries take.
    """
    found = {phase: _heaviest(traced, shares, phase) for phase in (FORWARD_AND_LAST, FIRST, STEP)}
    phase = max(found, key=lambda name: found[name].total)
    moment = found[phase]
    extra = traced.num_trained * shares.extra_optimizer_bytes_per_parameter
    host = (
        moment.host
        + shares.host_weights * traced.weights_bytes
        + shares.host_gradients * traced.trained_bytes
        + shares.host_optimizer * (_state_bytes(traced) + extra + traced.average_bytes)
    )
    return Memory(
        weights=round(moment.weights + moment.casts),
        gradients=round(moment.gradients),
        optimizer=round(moment.optimizer),
        activations=round(moment.activations),
        logits=round(moment.logits),
        other=round(moment.other + context_bytes),
        host=round(host),
        phase=phase,
    )


def _heaviest(traced: Traced, shares: Shares, phase: str) -> Moment:
    """The phase's heaviest moment in the whole model: each block adds what the second one did."""
    pair = (traced.one_block, traced.two_blocks)
    one, two = (_heaviest_of(moments, shares, phase, traced) for moments in pair)
    further = traced.num_blocks - 2
    pairs = zip(one.kinds, two.kinds, strict=True)
    return Moment._make((*(max(0.0, b + further * (b - a)) for a, b in pairs), two.has_gradients))


def _heaviest_of(moments: Moments, shares: Shares, phase: str, traced: Traced) -> Moment:
    gradients = max(one.gradients for each in moments.values() for one in each)
    held = (
        _held(one, shares, phase, traced, gradients if shares.keeps_gradients else one.gradients)
        for one in moments[phase]
    )
    return max(held, key=lambda one: one.total)


def _held(one: Moment, shares: Shares, phase: str, traced: Traced, gradients: float) -> Moment:
    """What a device with these shares holds of what one that holds everything would."""
    fixed = traced.reference_bytes * shares.weights
    weights, casts = one.weights * shares.weights + fixed, one.casts
    gradients *= shares.gradients
    if shares.gathered_dtype is not None and phase != STEP:
        size = DTYPE_BYTES[shares.gathered_dtype]
        quantized = traced.layer_bytes < traced.num_layer_parameters
        layer = traced.layer_bytes if quantized else traced.num_layer_parameters * size
        weights += shares.gathered_layers * layer
        if shares.gathers_embeddings:
            weights += traced.num_other_parameters * size
        casts = 0
    if shares.gradients < 1 and one.has_gradients and phase != STEP:
        # A layer's own, and what they are added up in over processes.
        reduced = DTYPE_BYTES[shares.reduction_dtype or "float32"]
        size = DTYPE_BYTES[shares.gathered_dtype or "float32"]
        gradients += traced.num_layer_trained * (size + reduced)
        if shares.gathers_embeddings:
            # Added up when the first layer is through.
            size += reduced if phase == FIRST else 0
            gradients += traced.num_other_trained * size
    extra = traced.num_trained * shares.extra_optimizer_bytes_per_parameter
    # Only what a second block adds may grow with the model.
    extra *= one.optimizer / (_state_bytes(traced) or 1)
    return one._replace(
        weights=weights,
        casts=casts,
        gradients=gradients,
        optimizer=(one.optimizer + extra) * shares.optimizer,
        other=one.other + traced.average_bytes * shares.optimizer,
    )


def _state_bytes(traced: Traced) -> float:
    one, two = (
        max(moment.optimizer for each in moments.values() for moment in each)
        for moments in (traced.one_block, traced.two_blocks)
    )
    return two + (traced.num_blocks - 2) * (two - one)
