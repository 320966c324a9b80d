"""Table of devices and `8xH100-80GB` -> the devices that a run is planned for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from framework.core.problems import Problem, UserError
from framework.core.world import World

TABLE = Path(__file__).with_name("devices.yaml")
GIB = 2**30
THIS_MACHINE = "cpu"


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known of one kind of device."""

    name: str
    kind: Literal["cuda", "cpu"]
    memory_gib: float
    """What programs can have."""
    context_gib: float = 0.0
    """What the driver and libraries take of it."""
    peak_tflops: Mapping[str, float]
    """By dtype of products, and `tf32`."""
    link_gbs: float = 0.0
    """GB/s to devices of the same node."""
    network_gbs: float = 0.0
    """GB/s to other nodes."""
    price: tuple[float, float] | None = None
    """US dollars an hour, from low to high; None: nobody said."""
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
class Cluster:
    """All devices of a run."""

    device: Device
    num_per_node: int
    num_nodes: int

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
    return Cluster(device=known[by_name[name.casefold()]], num_per_node=number, num_nodes=num_nodes)


def _unknown(name: str, number: int, known: tuple[str, ...]) -> Problem:
    if number < 1:
        return Problem(what="--devices: 0 devices train nothing", hint=f"write 1x{name}")
    return Problem(
        what=f"--devices: nothing is known of {name!r}",
        hint=f"known are {', '.join(known)}; others come from a file: --device-table FILE "
        f"(its form is that of {TABLE})",
    )


def _known(table: Path | None) -> dict[str, Device]:
    found = {THIS_MACHINE: _this_machine(), **_read(TABLE)}
    return found if table is None else {**found, **_read(table)}


def _this_machine() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fast = World.from_env().fast_bfloat16 if World.from_env().device == "cpu" else False
    peak: dict[str, float] = {"float32": math.nan, **({"bfloat16": math.nan} if fast else {})}
    return Device(name=THIS_MACHINE, kind="cpu", memory_gib=memory / GIB, peak_tflops=peak)


@cache
def _read(path: Path) -> dict[str, Device]:
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            Problem(
                file=str(path),
                what=f"--device-table can't be read: {error}",
                hint=f"write a file like {TABLE}",
            )
        ) from error
    entries = written.items() if isinstance(written, Mapping) else ()
    if not entries:
        raise UserError(
            Problem(file=str(path), what="names no device", hint=f"write a file like {TABLE}")
        )
    problems: list[Problem] = []
    found: dict[str, Device] = {}
    for name, values in entries:
        try:
            found[str(name)] = _device(str(name), values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            problems.append(
                Problem(
                    file=str(path),
                    key=str(name),
                    what=f"is no device: {error}",
                    hint="write {kind: cuda, memory_gib: 80, peak_tflops: {bfloat16: 300}}",
                )
            )
    if problems:
        raise UserError(problems)
    return found


def _device(name: str, values: Mapping[str, Any]) -> Device:
    given: dict[str, Any] = dict(values)
    if given.setdefault("kind", "cuda") not in ("cuda", "cpu"):
        raise ValueError(f"kind is {given['kind']!r}, not `cuda` or `cpu`")
    peaks = given.pop("peak_tflops")
    given["peak_tflops"] = {str(dtype): float(value) for dtype, value in peaks.items()}
    for key in ("price", "efficiency"):
        if key in given:
            low, high = given[key]
            given[key] = (float(low), float(high))
    for key in ("memory_gib", "context_gib", "link_gbs", "network_gbs"):
        if key in given:
            given[key] = float(given[key])
    return Device(name=name, **given)
