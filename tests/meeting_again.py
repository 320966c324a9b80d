"""One of several processes that fail together, and meet once more."""

from __future__ import annotations

from contextlib import suppress

from framework.core.problems import RunFailed
from framework.core.world import World
from framework.distributed.peers import meet

if __name__ == "__main__":
    world = World.from_env()
    with suppress(RunFailed), meet(world, 60.0):
        raise RunFailed("the disk is full")
    with meet(world, 60.0) as peers:
        print(peers.from_main("word", "met again"))
