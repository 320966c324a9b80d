"""Named tensors of which each process holds a part <-> safetensors and JSON; never pickle.

A part is a range of the tensor's numbers in row-major order, so that any other way to cut it can
read its own ranges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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

from framework.core.problems import reading

STATE = "state"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a tensor that one process writes."""

    values: Tensor
    start: int
    """Place of the first of its numbers in the whole tensor."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    columns: tuple[int, int] | None = None
    """[first, last) of each row that it has; None: all numbers from the first to the last."""


@dataclass(frozen=True, kw_only=True)
class Within:
    """Where a tensor stands in a larger one, of which each of several processes has a part that
    others share out."""

    dimension: int | None = None
    """Along which that is cut; None: each of them has all of it."""
    rank: int = 0
    """This process's number among them."""
    size: int = 1

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the larger tensor."""
        return tuple(
            length * self.size if at == self.dimension else length
            for at, length in enumerate(shape)
        )


ALONE = Within()


def piece_of(tensor: Tensor, rank: int, within: Within = ALONE) -> Piece | None:
    """What this process writes of a tensor; None where others write all of it."""
    if not isinstance(tensor, DTensor):
        shape = tuple(tensor.shape)
        return Piece(values=tensor.detach(), start=0, shape=shape) if rank == 0 else None
    if within.dimension is None and within.rank:
        return None
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    # What several processes hold alike is written by the first of them.
    copies = zip(coordinate, tensor.placements, strict=True)
    if any(at and isinstance(placement, Replicate) for at, placement in copies):
        return None
    start, stop = local_range(tensor)
    if start == stop:
        return None
    columns = None
    if within.dimension == 0:
        start += within.rank * tensor.numel()
    elif within.dimension == 1:
        start *= within.size
        columns = _columns(tensor, within)
    return Piece(
        values=tensor.to_local().detach(),
        start=start,
        shape=within.whole_shape(tensor.shape),
        columns=columns,
    )


def read_like(tensor: Tensor, pieces: Pieces, key: str, within: Within = ALONE) -> Tensor:
    """What `piece_of` would write of such a tensor, in the shape of what this process holds."""
    start, stop = local_range(tensor)
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if within.dimension == 0:
        first = within.rank * tensor.numel()
        start, stop = first + start, first + stop
    elif within.dimension == 1:
        first, last = _columns(tensor, within)
        rows = pieces.read(key, start * within.size, stop * within.size)
        return rows.view(len(local), -1)[:, first:last]
    return pieces.read(key, start, stop).reshape(local.shape)


def _columns(tensor: Tensor, within: Within) -> tuple[int, int]:
    assert tensor.ndim == 2, tensor.shape
    width = tensor.shape[1]
    return within.rank * width, (within.rank + 1) * width


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
    rank: int,
    pieces: Mapping[str, Piece],
    details: Mapping[str, Any],
    kind: str = STATE,
) -> Callable[[Path], None]:
    """What writes this process's pieces as they are now, whatever becomes of them meanwhile, and
    `details` as JSON beside them, into a folder.

    Args:
        kind: how their files' names begin.
    """
    name = _name(kind, rank)
    # safetensors refuses tensors that share memory; a device has none to spare for copies.
    tensors = {key: one.values.to("cpu", copy=True).reshape(-1) for key, one in pieces.items()}
    places = {
        key: {"start": one.start, "shape": one.shape, "columns": one.columns}
        for key, one in pieces.items()
    }
    text = json.dumps({"places": places, **details})

    def write(folder: Path) -> None:
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(text, encoding="utf-8")

    return write


class Pieces:
    """What any number of processes wrote into a folder."""

    def __init__(self, folder: Path, kind: str = STATE) -> None:
        self._folder, self._kind = folder, kind
        self._written: dict[Path, Any] = {}
        for path in sorted(folder.glob(f"{kind}-*.json")):
            with reading(path, "what was learned"):
                written = json.loads(path.read_text(encoding="utf-8"))
                self._written[path.with_suffix(".safetensors")] = dict(written)

    @property
    def details(self) -> Mapping[str, Any]:
        """Those of the main process."""
        return self._written[self._folder / f"{_name(self._kind, 0)}.safetensors"]

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
        if start == stop:
            return self._empty(key)
        width = _numel(self.shapes[key][1:])
        # Whole rows, of which processes may have written columns.
        first, last = start // width * width, -(-stop // width) * width
        values, num_found = self._empty(key).new_empty(last - first), 0
        for path, written in self._written.items():
            place = written["places"].get(key)
            if place is not None:
                with reading(path, key), safe_open(path, framework="pt") as file:
                    num_found += _fill(values, first, width, place, file.get_slice(key))
        assert num_found == last - first, (key, start, stop, num_found)
        return values[start - first : stop - first]

    def _empty(self, key: str) -> Tensor:
        path = next(path for path, written in self._written.items() if key in written["places"])
        with reading(path, key), safe_open(path, framework="pt") as file:
            return file.get_slice(key)[0:0]


def _fill(values: Tensor, first: int, width: int, place: Mapping[str, Any], stored: Any) -> int:
    """Copies what one process wrote into `values`; how many numbers.

    Args:
        values: whole rows.
        first: place of the first of their numbers in the whole tensor.
        width: numbers of a row.
        stored: what it wrote, as safetensors opens it.
    """
    start, number, last = place["start"], stored.get_shape()[0], first + values.numel()
    if place.get("columns") is None:
        low, high = max(first, start), min(last, start + number)
        if low < high:
            values[low - first : high - first] = stored[low - start : high - start]
        return max(0, high - low)
    left, right = place["columns"]
    top, rows = start // width, values.view(-1, width)
    low = max(first // width, top)
    high = min(last // width, top + number // (right - left))
    if low < high:
        part = stored[(low - top) * (right - left) : (high - top) * (right - left)]
        rows[low - first // width : high - first // width, left:right] = part.view(high - low, -1)
    return max(0, high - low) * (right - left)


def _name(kind: str, rank: int) -> str:
    return f"{kind}-{rank:05d}"


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
