"""Groups of three processes that add a number step after step, until one of them misbehaves.

`python misbehaving.py FOLDER` writes into `FOLDER/HOW.json`, for every way to misbehave, the exit
code of each process and what it said.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from fault_plugin import KINDS, befall
from forks import LAST_RANK, run_groups

from framework.core.problems import RunFailed
from framework.core.world import World
from framework.distributed import watch
from framework.distributed.peers import Peers, meet
from framework.models.quiet import quiet_imports

BAD_RANK, BAD_STEP, NUM_STEPS = LAST_RANK, 4, 6
TIMEOUT_SECONDS = {"stops": 15, "hangs": 15}
HOW = ("behaves", "stops", "dies", "hangs", "fails", "has a bug", "differs", "fails with all")


def misbehave(how: str, peers: Peers) -> None:
    if how == "hangs":
        peers.from_main("what it never says", "")
    elif how in KINDS:
        befall(how)


def join() -> SimpleNamespace:
    from torch import distributed

    return SimpleNamespace(num_processes=distributed.get_world_size())


def work(how: str) -> None:
    import torch
    from torch import distributed

    world = World.from_env()
    if (how, world.rank) == ("fails", 1):
        # The main process, which holds what they meet in, gives up first.
        watch.GRACE_SECONDS += 3
    with meet(world, TIMEOUT_SECONDS.get(how, 120)) as peers:
        rate = "0.002" if how == "differs" and world.rank == BAD_RANK else "0.001"
        peers.agree("recipe", {"learning_rate": rate, "seed": "1"}, "start them alike")
        peers.join(join)  # type: ignore[arg-type]
        for step in range(1, NUM_STEPS + 1):
            peers.at(step)
            if (world.rank, step) == (BAD_RANK, BAD_STEP):
                misbehave(how, peers)
            if (how, step) == ("fails with all", BAD_STEP):
                raise RunFailed(f"step {step}: loss is nan")
            distributed.all_reduce(torch.ones(1))
        print("done", flush=True)


def main(folder: Path) -> None:
    quiet_imports()
    import torch.distributed.rendezvous
    import torch.distributed.tensor  # noqa: F401

    run_groups({how: partial(work, how) for how in HOW}, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
