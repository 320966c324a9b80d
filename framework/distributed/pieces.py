"""Named tensors of which each process holds a part <-> safetensors and JSON; never pickle.

A part is a range of the tensor's numbers in row-major order, so that any other way to cut it can
read its own ranges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a tensor that one process writes."""

    values: Tensor
    start: int
    """Place of the first of its numbers in the whole tensor."""
    shape: tuple[int, ...]
    """Of the whole tensor."""


def piece_of(tensor: Tensor, rank: int) -> Piece | None:
    """What this process writes of a tensor; None where others write all of it."""
    if not isinstance(tensor, DTensor):
        shape = tuple(tensor.shape)
        return Piece(values=tensor.detach(), start=0, shape=shape) if rank == 0 else None
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    # What several processes hold alike is written by the first of them.
    copies = zip(coordinate, tensor.placements, strict=True)
    if any(at and isinstance(placement, Replicate) for at, placement in copies):
        return None
    start, stop = local_range(tensor)
    if start == stop:
        return None
    return Piece(values=tensor.to_local().detach(), start=start, shape=tuple(tensor.shape))


def local_range(tensor: Tensor) -> tuple[int, int]:
    """[start, stop) of the numbers that this process holds of a tensor.

    Raises:
        AssertionError: it is cut along another dimension than its first.
    """
    if not isinstance(tensor, DTensor):
        return 0, tensor.numel()
    assert all(type(one) is Replicate or one == Shard(0) for one in tensor.placements)
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    row = tensor.numel() // max(1, tensor.shape[0])
    return offset[0] * row, (offset[0] + shape[0]) * row


def capture_pieces(
    rank: int, pieces: Mapping[str, Piece], details: Mapping[str, Any]
) -> Callable[[Path], None]:
    """What writes this process's pieces as they are now, whatever becomes of them meanwhile, and
    `details` as JSON beside them, into a folder."""
    # safetensors refuses tensors that share memory; a device has none to spare for copies.
    tensors = {key: one.values.to("cpu", copy=True).reshape(-1) for key, one in pieces.items()}
    places = {key: {"start": one.start, "shape": one.shape} for key, one in pieces.items()}
    text = json.dumps({"places": places, **details})

    def write(folder: Path) -> None:
        save_file(tensors, folder / f"{_name(rank)}.safetensors")
        (folder / f"{_name(rank)}.json").write_text(text, encoding="utf-8")

    return write


class Pieces:
    """What any number of processes wrote into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = {
            path.with_suffix(".safetensors"): json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("state-*.json"))
        }

    @property
    def details(self) -> Mapping[str, Any]:
        """Those of the main process."""
        return self._written[self._folder / f"{_name(0)}.safetensors"]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape of the whole tensor."""
        places = [written["places"] for written in self._written.values()]
        return {key: tuple(one["shape"]) for part in places for key, one in part.items()}

    def whole(self, key: str) -> Tensor:
        """A tensor, put together."""
        shape = self.shapes[key]
        return self.read(key, 0, _numel(shape)).reshape(shape)

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """[stop - start]: a range of a tensor's numbers.

        Raises:
            AssertionError: no process wrote some of them.
        """
        found = sorted(self._found(key, start, stop), key=lambda pair: pair[0])
        if start == stop:
            return self._empty(key)
        values = torch.cat([part for _, part in found])
        assert values.numel() == stop - start, (key, start, stop, values.numel())
        return values

    def _found(self, key: str, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        for path, written in self._written.items():
            place = written["places"].get(key)
            if place is None:
                continue
            with safe_open(path, framework="pt") as file:
                values = file.get_slice(key)
                first = place["start"]
                low, high = max(start, first), min(stop, first + values.get_shape()[0])
                if low < high:
                    yield low, values[low - first : high - first]

    def _empty(self, key: str) -> Tensor:
        path = next(path for path, written in self._written.items() if key in written["places"])
        with safe_open(path, framework="pt") as file:
            return file.get_slice(key)[0:0]


def _name(rank: int) -> str:
    return f"state-{rank:05d}"


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
