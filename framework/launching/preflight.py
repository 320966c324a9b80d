"""What a launcher says and what this machine has -> why its processes could never work together.

Asked before any process waits for another, so that a mistake is one line instead of a hang.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from framework.core.problems import Problem, RunFailed, UserError
from framework.core.world import Device
from framework.launching.machine import interfaces, num_devices

Found = TypeVar("Found")
_Place = tuple[int, tuple[str, int]]
"""(address family, what a socket of it takes)."""

RESOLVE_SECONDS = 20.0
CONNECT_SECONDS = 50.0
_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.5


def refuse_hopeless_start(environment: Mapping[str, str], device: Device) -> None:
    """Passes in a process that a launcher started as it should be, and in one without a launcher.

    Raises:
        UserError: all that is wrong with the launcher's environment.
    """
    problems = list(_split_worlds(environment))
    if int(environment.get("WORLD_SIZE") or 1) > 1:
        local = int(environment.get("LOCAL_WORLD_SIZE") or 1)
        problems += device_problems(local, device, environment)
        problems += interface_problems(environment)
    if problems:
        raise UserError(problems)


def refuse_unreachable_store(environment: Mapping[str, str]) -> None:
    """Passes where the processes of a launcher can meet.

    The launcher of the main node listens before any process is started.

    Raises:
        RunFailed: the main node can't be reached.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        wait_for_main_node(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    elif "MASTER_ADDR" in environment and int(environment.get("WORLD_SIZE") or 1) > 1:
        port = int(environment.get("MASTER_PORT") or 0)
        if int(environment.get("RANK") or 0) == 0:
            refuse_port_in_use(environment["MASTER_ADDR"], port)
        else:
            _resolved(environment["MASTER_ADDR"], port)


def device_problems(
    num_processes: int, device: Device, environment: Mapping[str, str]
) -> Iterator[Problem]:
    """More processes on this machine than it has devices."""
    number = num_devices(device, environment)
    if number is not None and num_processes > number:
        yield Problem(
            what=f"{num_processes} processes on {socket.gethostname()}, which has "
            f"{number} {device} device{'s' * (number != 1)}",
            hint=f"start {number} processes there" if number else "write --device cpu",
        )


def interface_problems(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Variables that choose a network interface, and choose none that is there."""
    existing = interfaces()
    gloo = environment.get("GLOO_SOCKET_IFNAME", "")
    for name in filter(None, gloo.split(",")):
        if name not in existing:
            yield _no_interface("GLOO_SOCKET_IFNAME", name, existing)
    nccl = environment.get("NCCL_SOCKET_IFNAME", "")
    if nccl and not nccl.startswith("^") and not _nccl_matches(nccl, existing):
        yield _no_interface("NCCL_SOCKET_IFNAME", nccl, existing)


def refuse_port_in_use(address: str | None, port: int, seconds: float = 0) -> None:
    """Passes where this machine can listen at the port, and is the one at the address.

    Args:
        seconds: how long a name server may take to learn of the address.

    Raises:
        RunFailed: it can't.
    """
    places: Sequence[_Place] = [(socket.AF_INET, ("", port))]
    if address is not None:
        places = _insist(lambda: _resolved(address, port), seconds)
    failures = [failure for failure in map(_cannot_bind, places) if failure is not None]
    # A name may have an address of a kind that this machine doesn't have, such as IPv6.
    taken = [one for one in failures if one.errno == errno.EADDRINUSE]
    if taken or len(failures) == len(places):
        failure = (taken or failures)[0]
        raise RunFailed(_cannot_listen(address, port, failure)) from failure


def _cannot_bind(place: _Place) -> OSError | None:
    family, address = place
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error
    return None


def wait_for_main_node(address: str, port: int, seconds: float = CONNECT_SECONDS) -> None:
    """Returns as soon as the main node listens.

    Raises:
        RunFailed: it doesn't within so many seconds.
    """
    _insist(lambda: _connect(address, port), seconds)


def _insist(attempt: Callable[[], Found], seconds: float) -> Found:
    """What the first attempt without a failure returns; the last failure when time is over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except RunFailed:
            if time.monotonic() + _PAUSE_SECONDS >= deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def _connect(address: str, port: int) -> None:
    _resolved(address, port)
    try:
        socket.create_connection((address, port), timeout=_ATTEMPT_SECONDS).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror
        raise RunFailed(
            f"{socket.gethostname()} can't reach the main node at {address}:{port}: {reason}",
            hint="start the node of rank 0 first, and see that no firewall stands between",
        ) from error


def _split_worlds(environment: Mapping[str, str]) -> Iterator[Problem]:
    """`accelerate launch --cpu --num_processes 2` starts one process, and says nothing."""
    started_alone = "WORLD_SIZE" not in environment
    if started_alone and "ACCELERATE_MIXED_PRECISION" in environment:
        asked_for_several = "MASTER_ADDR" in environment and "MASTER_PORT" in environment
        if asked_for_several:
            yield Problem(
                what="accelerate was asked for several processes and has started one",
                hint="write `framework launch RECIPE --processes N`, or on a CPU "
                "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ...",
            )


def _resolved(address: str, port: int) -> Sequence[_Place]:
    """Every place of a host name or an IP address.

    Raises:
        RunFailed: nobody knows the name, or within `RESOLVE_SECONDS` nobody says.
    """
    found: list[_Place] = []
    reason = [f"no answer from the name server in {RESOLVE_SECONDS:g} s"]

    def resolve() -> None:
        try:
            known = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            found.extend((family, (str(place[0]), port)) for family, _, _, _, place in known)
        except OSError as error:
            reason[0] = str(error.strerror)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not found:
        raise RunFailed(
            f"{socket.gethostname()} can't find the main address {address!r}: {reason[0]}",
            hint="write the IP address of the node of rank 0 as --main-address",
        )
    return found


def _cannot_listen(address: str | None, port: int, error: OSError) -> Problem:
    host = socket.gethostname()
    if error.errno == errno.EADDRINUSE:
        return Problem(
            what=f"port {port} of {host} is in use",
            hint="write another --port, the same on every node",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return Problem(
            what=f"{host} is started as the main node, but {address!r} is another machine",
            hint="write this machine's own address as --main-address, or another --node-rank",
        )
    return Problem(what=f"{host} can't listen at port {port}: {error.strerror}")


def _nccl_matches(written: str, existing: list[str]) -> bool:
    """NCCL reads a list of prefixes, or after `=` one of whole names."""
    names = [name for name in written.removeprefix("=").split(",") if name]
    if written.startswith("="):
        return any(name in existing for name in names)
    return any(one.startswith(name) for name in names for one in existing)


def _no_interface(variable: str, name: str, existing: list[str]) -> Problem:
    return Problem(
        what=f"{variable}={name} names no network interface of {socket.gethostname()}",
        hint=f"it has: {', '.join(existing)}",
    )
