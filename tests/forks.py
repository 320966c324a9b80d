"""Groups of three processes on two nodes, all of them forks of one that has imported everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from framework.core.problems import UserError, tell

NUM_PROCESSES, LAST_RANK = 3, 2
NODE_OF_RANK = (0, 1, 1)
Work = Callable[[], None]


def run_groups(works: Mapping[str, Work], folder: Path) -> None:
    """Writes into `folder/NAME.json` the exit code of each process of a group, and what it said.

    All groups run at once. The last process of one may sleep: it is woken when the others have
    ended.
    """
    started = {name: _start(name, work, folder) for name, work in works.items()}
    for name, pids in started.items():
        _end(name, pids, folder)


def read_groups(folder: Path) -> dict[str, dict[str, list]]:
    """What `run_groups` wrote."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def nodes_that_said(said: list[list[str]], words: str) -> list[int]:
    """The node of each line that has the words in it."""
    return [
        node
        for node, lines in zip(NODE_OF_RANK, said, strict=True)
        for line in lines
        if words in line
    ]


def _start(name: str, work: Work, folder: Path) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(NUM_PROCESSES):
        pid = os.fork()
        if pid == 0:
            _work(work, rank, port, folder / f"{name}.{rank}")
        pids.append(pid)
    return pids


def _end(name: str, pids: list[int], folder: Path) -> None:
    codes = []
    for rank, pid in enumerate(pids):
        if rank == LAST_RANK:
            os.kill(pid, signal.SIGCONT)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    said = [(folder / f"{name}.{rank}").read_text().splitlines() for rank in range(len(pids))]
    (folder / f"{name}.json").write_text(json.dumps({"codes": codes, "said": said}))


def _work(work: Work, rank: int, port: int, output: Path) -> None:
    """Never returns."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - NODE_OF_RANK.index(NODE_OF_RANK[rank])),
        "GROUP_RANK": str(NODE_OF_RANK[rank]),
        "WORLD_SIZE": str(NUM_PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    code = 0
    try:
        work()
    except UserError as error:
        tell(error)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)
