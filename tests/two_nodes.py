"""Two nodes on one machine: network namespaces joined by a cable, each with a name of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.231.0.1", "10.231.0.2")
INTERFACE = "cable"
PORT = "29500"
STATIC = ("--rdzv_backend", "static", "--same_network")
ELASTIC = ("--rdzv_backend", "c10d", "--max_restarts", "3", "--monitor_interval", "1")
_BEGIN = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'


def missing() -> str:
    """Why this machine can't play two; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing"
    try:
        _ip("netns", "add", probe := f"probe{os.getpid()}")
        _ip("netns", "delete", probe)
    except subprocess.CalledProcessError as error:
        return f"network namespaces can't be made: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True)
class Node:
    """One of the two."""

    rank: int
    namespace: str
    hosts: Path

    @property
    def name(self) -> str:
        """What it calls itself."""
        return f"node-{'ab'[self.rank]}"

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[str]:
        """A command on this node; its output goes to a pipe."""
        return subprocess.Popen(
            [
                *("ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount"),
                *("sh", "-ec", _BEGIN, "sh", self.name, str(self.hosts), *arguments),
            ],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self, words: str = "") -> list[int]:
        """Process ids of what runs here and has the words in its command line."""
        found = [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]
        return [pid for pid in found if words in _command_line(pid)]

    def trainers(self) -> list[int]:
        """The processes that train."""
        return [
            pid
            for pid in self.processes("-m framework.train")
            if "accelerate.commands.launch" not in _command_line(pid)
        ]

    def kill(self) -> None:
        """Ends all of it at once, as a power cut does."""
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Both of them; nothing of them is left afterwards."""
    hosts = folder / "hosts"
    lines = [f"{address} node-{name}" for address, name in zip(ADDRESSES, "ab", strict=True)]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    nodes = tuple(Node(rank, f"node{os.getpid()}-{rank}", hosts) for rank in range(2))
    try:
        for node in nodes:
            _ip("netns", "add", node.namespace)
        ends = [("name", INTERFACE, "netns", node.namespace) for node in nodes]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for node, address in zip(nodes, ADDRESSES, strict=True):
            _ip("-n", node.namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", node.namespace, "link", "set", INTERFACE, "up")
            _ip("-n", node.namespace, "link", "set", "lo", "up")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            with contextlib.suppress(subprocess.CalledProcessError):
                node.kill()
                _ip("netns", "delete", node.namespace)


class Launched:
    """A command that runs on a node."""

    def __init__(self, node: Node, arguments: Sequence[str], **environment: str) -> None:
        always = {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": INTERFACE,
        }
        self.process = node.start(arguments, {**always, **environment})
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        """What it has said so far."""
        return "".join(self.lines)

    def wait(self, seconds: float = 200) -> int:
        """Its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; it said:\n{self.output}") from None
        self._reader.join(10)
        return code


def direct(node: Node, recipe: Path, *overrides: str) -> Launched:
    """`framework.train` on one of two nodes, without a launcher that hides its exit code."""
    return Launched(
        node,
        [sys.executable, "-m", "framework.train", str(recipe), *overrides],
        RANK=str(node.rank),
        WORLD_SIZE="2",
        LOCAL_RANK="0",
        GROUP_RANK=str(node.rank),
        MASTER_ADDR=ADDRESSES[0],
        MASTER_PORT=PORT,
    )


def launched(
    node: Node,
    recipe: Path,
    *overrides: str,
    rendezvous: Sequence[str] = STATIC,
    **environment: str,
) -> Launched:
    """`accelerate launch -m framework.train` on one of two nodes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(node.rank)]
    command += ["--main_process_ip", ADDRESSES[0], "--main_process_port", PORT, *rendezvous]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["-m", "framework.train", str(recipe), *overrides]
    return Launched(node, command, **environment)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
