"""Table of devices and `8xH100-80GB` -> the devices that a run is planned for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from framework.core.problems import Problem, UserError, nearest
from framework.core.settings import setting
from framework.core.world import World
from framework.recipe.typed_file import read_named

TABLE = Path(__file__).with_name("devices.yaml")
GIB = 2**30
THIS_MACHINE = "cpu"
_SIZE = re.compile(r"\d+gb")
EXAMPLE = "H100-80GB: {memory_gib: 79.1, peak_tflops: {bfloat16: 989}}"
"""A line of a device table."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known of one kind of device."""

    kind: Literal["cuda", "cpu"] = "cuda"
    """`cuda` (AMD's included) or `cpu`."""
    memory_gib: float = setting(above=0)
    """GiB that programs can have, a little less than what is printed on the box."""
    context_gib: float = setting(0.0, at_least=0)
    """GiB that the driver, the libraries and their buffers take of it before any tensor."""
    peak_tflops: dict[str, float] = setting(not_empty=True)
    """TFLOP/s of dense matrix products by their dtype (`bfloat16`, `float16`, `float32`), and
    `tf32`, from the maker's data sheet."""
    link_gbs: float = setting(0.0, at_least=0)
    """GB/s that it sends to other devices of its node."""
    network_gbs: float = setting(0.0, at_least=0)
    """GB/s that it sends to other nodes; 0 where it isn't sold so."""
    price: tuple[float, float] | None = None
    """US dollars an hour, from low to high. Default: nobody said, and no cost is planned."""
    efficiency: tuple[float, float] = (0.25, 0.5)
    """Share of the peak that training reaches, from poor to good."""

    @property
    def memory_bytes(self) -> int:
        """What programs can have."""
        return round(self.memory_gib * GIB)

    @property
    def context_bytes(self) -> int:
        """What is gone before any tensor."""
        return round(self.context_gib * GIB)


@dataclass(frozen=True, kw_only=True)
class CallSeconds:
    """What an operation takes besides computing, at best and at worst."""

    product: tuple[float, float]
    """Of matrix products and attention."""
    other: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All devices of a run."""

    device_name: str
    device: Device
    num_per_node: int
    num_nodes: int
    call_seconds: CallSeconds | None = None
    """None where operations are started while others are computed."""

    @property
    def num_devices(self) -> int:
        """Over all nodes; each has a process."""
        return self.num_per_node * self.num_nodes

    @property
    def world(self) -> World:
        """What the first of the processes would find."""
        return World(
            num_processes=self.num_devices,
            num_local_processes=self.num_per_node,
            device=self.device.kind,
            fast_bfloat16="bfloat16" in self.device.peak_tflops,
        )

    @property
    def slowest_gbs(self) -> float:
        """GB/s of what every device sends to all others at once."""
        return self.device.network_gbs if self.num_nodes > 1 else self.device.link_gbs


def cluster_of(written: str | None, num_nodes: int, table: Path | None) -> Cluster:
    """The devices of `--devices` on each of `--nodes`.

    Args:
        written: `H100-80GB` or `8xH100-80GB`; None for this machine's CPU.
        table: a file like devices.yaml, with more devices or other numbers for some.

    Raises:
        UserError: no such device, or the table can't be read.
    """
    known = _known(table)
    if written is None:
        number, name = 1, THIS_MACHINE
    else:
        match = re.fullmatch(r"(?:(\d+)\s*[xX*]\s*)?(.+)", written.strip())
        assert match is not None
        number, name = int(match.group(1) or 1), match.group(2)
    by_name = {one.casefold(): one for one in known}
    if name.casefold() not in by_name or number < 1:
        raise UserError(_unknown(name, number, tuple(known)))
    found = by_name[name.casefold()]
    return Cluster(device_name=found, device=known[found], num_per_node=number, num_nodes=num_nodes)


def device_called(name: str) -> str | None:
    """The device of the table that a driver calls so, such as `NVIDIA A100-SXM4-80GB`."""
    said = set(re.split(r"[\s-]+", name.casefold()))
    sizes = set(filter(_SIZE.fullmatch, said))
    found: list[tuple[int, str]] = []
    for known in _read(TABLE):
        parts = known.casefold().split("-")
        words = [part for part in parts if not _SIZE.fullmatch(part)]
        if said.issuperset(words) and (not sizes or sizes & set(parts)):
            found.append((len(words), known))
    return max(found, default=(0, None))[1]


def _unknown(name: str, number: int, known: tuple[str, ...]) -> Problem:
    if number < 1:
        return Problem(what="--devices: 0 devices train nothing", hint=f"write 1x{name}")
    what = f"--devices: nothing is known of {name!r}"
    near = [one for one in known if one.casefold().startswith(f"{name}-".casefold())]
    near = near or [one for one in (nearest(name, known),) if one is not None]
    meant = " or ".join(f"{number}x{one}" for one in near)
    answer = f"did you mean {meant}?" if near else f"known are {', '.join(known)};"
    return Problem(
        what=what,
        hint=f"{answer} others come from a file: --device-table FILE (its form is that of {TABLE})",
    )


def _known(table: Path | None) -> dict[str, Device]:
    found = {THIS_MACHINE: _this_machine(), **_read(TABLE)}
    return found if table is None else {**found, **_read(table)}


def _this_machine() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fast = World.from_env().fast_bfloat16 if World.from_env().device == "cpu" else False
    peak: dict[str, float] = {"float32": math.nan, **({"bfloat16": math.nan} if fast else {})}
    return Device(kind="cpu", memory_gib=memory / GIB, peak_tflops=peak)


@cache
def _read(path: Path) -> Mapping[str, Device]:
    return read_named(path, Device, _conflicts, EXAMPLE)


def _conflicts(device: Device) -> Iterator[Problem]:
    for key, pair in (("price", device.price), ("efficiency", device.efficiency)):
        if pair is not None and not 0 < pair[0] <= pair[1]:
            low, high = pair
            what = f"[{low:g}, {high:g}] does not go from a low number above 0 to a high one"
            yield Problem(key=key, what=what, hint=f"write {key}: [{min(pair):g}, {max(pair):g}]")
