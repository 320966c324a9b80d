"""Trained weights and optimizer state <-> a checkpoint's folder, by the parameters' names.

Nothing of it depends on how many processes there are or what each of them holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from framework.distributed.pieces import (
    ALONE,
    Piece,
    Pieces,
    Within,
    capture_pieces,
    piece_of,
    read_like,
)

WEIGHTS = "weights"
OPTIMIZER = "optimizer"


Places = Mapping[str, Within]
"""Name -> where the parameter of that name stands in a larger one, if it does."""
UNCUT: Places = MappingProxyType({})


def capture_state(
    model: Module, optimizer: Optimizer, rank: int, places: Places = UNCUT
) -> Callable[[Path], None]:
    """What writes this process's part of every parameter that the optimizer holds, and of its
    state, as they are now, into a folder.

    bitsandbytes nests its quantized states one level deeper than others; so are the tensors that
    one of torchao's is made of.
    """
    trained = held_by(optimizer, model)
    tensors: dict[str, Tensor] = {f"{WEIGHTS}/{name}": one for name, one in trained.items()}
    numbers: dict[str, Any] = {}
    wrappers: dict[str, Any] = {}
    names = _names(optimizer, trained)
    state = optimizer.state_dict()
    for (number, *path), value in _leaves(state["state"], ()):
        key = "/".join((OPTIMIZER, names[int(number)], *path))
        if is_traceable_wrapper_subclass(value) and not isinstance(value, DTensor):
            flattened: Any = value.__tensor_flatten__()
            inner, attributes = flattened
            tensors |= {f"{key}/{one}": getattr(value, one) for one in inner}
            wrappers[key] = [type(value).__name__, [_as_json(one) for one in attributes]]
        elif isinstance(value, Tensor):
            tensors[key] = value
        else:
            numbers[key] = value
    groups = [
        {**group, "params": [names[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    pieces: dict[str, Piece] = {}
    for key, value in tensors.items():
        piece = piece_of(value, rank, places.get(key.split("/")[1], ALONE))
        if piece is not None:
            pieces[key] = piece
    details = {"numbers": numbers, "wrappers": wrappers, "param_groups": groups}
    return capture_pieces(rank, pieces, details if rank == 0 else {})


def load_state(model: Module, optimizer: Optimizer, folder: Path, places: Places = UNCUT) -> None:
    """Puts back what processes wrote together; parameters and groups must be the same."""
    pieces, trained = Pieces(folder), held_by(optimizer, model)
    load_weights(trained, pieces, places)
    load_optimizer(optimizer, trained, pieces, places)


def load_weights(trained: Mapping[str, Parameter], pieces: Pieces, places: Places = UNCUT) -> None:
    """Into parameters of the same names and shapes."""
    check_names(trained, pieces)
    with torch.no_grad():
        for name, parameter in trained.items():
            key, within = f"{WEIGHTS}/{name}", places.get(name, ALONE)
            assert pieces.shapes[key] == within.whole_shape(parameter.shape), name
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            local.copy_(read_like(parameter, pieces, key, within))


def check_names(trained: Mapping[str, Parameter], pieces: Pieces) -> None:
    """
    Raises:
        AssertionError: other parameters were saved than these.
    """
    saved = {key.partition("/")[2] for key in pieces.shapes if key.startswith(f"{WEIGHTS}/")}
    assert saved == trained.keys(), sorted(saved ^ trained.keys())[:5]


def load_optimizer(
    optimizer: Optimizer,
    trained: Mapping[str, Parameter],
    pieces: Pieces,
    places: Places = UNCUT,
) -> None:
    """The state of those parameters, cut as they are where it has their shape."""
    leaves: dict[str, Any] = {
        key: _cut_like(trained[name], pieces, key, places.get(name, ALONE))
        for key in pieces.shapes
        for name in key.split("/")[1:2]
        if key.startswith(f"{OPTIMIZER}/")
    }
    leaves |= pieces.details["numbers"]
    for key, (kind, attributes) in pieces.details["wrappers"].items():
        inner = [one for one in leaves if one.startswith(f"{key}/")]
        parts = {one.rpartition("/")[2]: leaves.pop(one) for one in inner}
        leaves[key] = _wrapper(kind)(parts, [_from_json(one) for one in attributes], None, None)
    current = optimizer.state_dict()["param_groups"]
    number_of = {name: number for number, name in enumerate(_names(optimizer, trained))}
    state: dict[int, dict[str, Any]] = {}
    for key, value in leaves.items():
        _, parameter, *path, name = key.split("/")
        inner = state.setdefault(number_of[parameter], {})
        for group in path:
            inner = inner.setdefault(group, {})
        inner[name] = value
    groups = [
        {**typed(group, now), "params": [number_of[name] for name in group["params"]]}
        for group, now in zip(pieces.details["param_groups"], current, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def held_by(optimizer: Optimizer, model: Module) -> dict[str, Parameter]:
    """Name -> trained parameter.

    Not those that have a gradient now: an adapter may choose others at each step.
    """
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    return {name: one for name, one in model.named_parameters() if id(one) in held}


def trained_names(optimizer: Optimizer, trained: Mapping[str, Parameter]) -> list[list[str]]:
    """Names of the parameters of each group."""
    name_of = {id(one): name for name, one in trained.items()}
    return [[name_of[id(one)] for one in group["params"]] for group in optimizer.param_groups]


def _names(optimizer: Optimizer, trained: Mapping[str, Parameter]) -> list[str]:
    """Names in the order in which PyTorch numbers an optimizer's parameters."""
    return [name for names in trained_names(optimizer, trained) for name in names]


def _cut_like(parameter: Parameter, pieces: Pieces, key: str, within: Within) -> Tensor:
    shape = within.whole_shape(parameter.shape)
    if not isinstance(parameter, DTensor) or pieces.shapes[key] != shape:
        return pieces.whole(key)
    local = read_like(parameter, pieces, key, within).contiguous()
    return DTensor.from_local(
        local.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def typed(group: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; the optimizer's own types are kept."""
    return {
        name: tuple(value)
        if isinstance(current.get(name), tuple) and isinstance(value, list)
        else value
        for name, value in group.items()
    }


def _wrapper(kind: str) -> Callable[..., Tensor]:
    """What makes a tensor of that class from its parts; a file can name no other class."""
    from torchao.optim.subclass_4bit import OptimState4bit
    from torchao.optim.subclass_8bit import OptimState8bit

    known = {one.__name__: one for one in (OptimState4bit, OptimState8bit)}
    return known[kind].__tensor_unflatten__


def _as_json(value: Any) -> Any:
    return {"dtype": str(value).removeprefix("torch.")} if isinstance(value, torch.dtype) else value


def _from_json(value: Any) -> Any:
    return getattr(torch, value["dtype"]) if isinstance(value, dict) else value


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path, value
