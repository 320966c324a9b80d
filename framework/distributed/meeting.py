"""Processes that were started together -> a store that no other start has written in.

A launcher's store outlives the processes that it starts again, and no number that it gives them
names a start: every node counts its own restarts, and none where another node joined. So the main
process makes a name up, and tells it to whoever asks with a word that is new itself.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from framework.core.problems import RunFailed, UserError
from framework.core.world import World
from framework.distributed.watch import Watch, never_met

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TALK_HINT = (
    "name the interface that connects the nodes, such as GLOO_SOCKET_IFNAME=eth0 and "
    "NCCL_SOCKET_IFNAME=eth0; docs/troubleshooting.md: Nodes don't reach each other"
)
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.1
"""What a process waits before it asks again: longer each time."""


def watch_over(world: World, timeout_seconds: float) -> Watch:
    """The watch of this start, as soon as its main process is heard of.

    Raises:
        UserError: there is no store, or no main process in `timeout_seconds`.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        found = next(rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
        shared = PrefixStore("framework", found[0])
        name = _new_word() if world.is_main else _told_name(shared, world.rank, timeout_seconds)
    except (RuntimeError, ValueError) as error:
        raise RunFailed(
            f"rank {world.rank} can't meet the others at {address}: {first_line(error)}",
            hint=TALK_HINT,
        ) from error
    welcome = _welcome(shared, name, world.num_processes) if world.is_main else _nobody
    return Watch(PrefixStore(name, shared), world, timeout_seconds, welcome)


def first_line(error: BaseException) -> str:
    """The error in one line, with its type where nobody wrote it for users."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _told_name(store: Store, rank: int, timeout_seconds: float) -> str:
    word, seconds = _new_word(), SHORTEST_POLL_SECONDS
    store.set(f"asks/{rank}", word)
    deadline = time.monotonic() + timeout_seconds
    while not store.check([f"answer/{word}"]):
        if time.monotonic() > deadline:
            raise never_met(0, timeout_seconds).error()
        time.sleep(seconds)
        seconds = min(2 * seconds, LONGEST_POLL_SECONDS)
    return store.get(f"answer/{word}").decode()


def _welcome(store: Store, name: str, num_processes: int) -> Callable[[], bool]:
    """Tells the name to those that ask; whether all have come by it."""
    absent, answered = set(range(1, num_processes)), dict[int, str]()

    def welcome() -> bool:
        for rank in sorted(absent):
            if store.check([f"{name}/{Watch.beat(rank)}"]):
                absent.discard(rank)
            elif store.check([f"asks/{rank}"]):
                # One of the start before, until the process of this start asks too.
                word = store.get(f"asks/{rank}").decode()
                if answered.get(rank) != word:
                    store.set(f"answer/{word}", name)
                    answered[rank] = word
        return not absent

    return welcome


def _nobody() -> bool:
    return True


def _new_word() -> str:
    return secrets.token_hex(8)
