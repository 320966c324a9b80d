"""The command line in a process of its own that doesn't wait ten seconds for its imports.

    subprocess.run([*warm_start.FRAMEWORK, "train", "recipe.yaml"])

is `python -m framework train recipe.yaml`: the same main function, arguments, environment, folder,
streams, limits, signals and exit code, in a fork of a server that has imported what commands need.
The client that is started passes its streams on, its signals too, and ends as the fork ends; when
it is killed, so is the fork. `--run FILE ...` in the place of a verb runs a Python file instead.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRAMEWORK = (sys.executable, "-I", "-S", str(Path(__file__).absolute()))
"""What stands for `python -m framework`; `address` has to be in its environment."""
ADDRESS = "FRAMEWORK_WARM_START"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
LIMITS = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]
PRELOADED = (
    "framework.train",
    "framework.engine.fit",
    "framework.engine.export",
    "framework.models.load",
    "framework.data.prepare",
    "transformers.models.llama.modeling_llama",
    "peft",
    "bitsandbytes",
    "matplotlib.figure",
    "datasets",
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """How processes ended, and what they said."""

    codes: list[int]
    output: str


def framework(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with what it says."""
    settings = {"capture_output": True, "text": True, **settings}
    return subprocess.run([*FRAMEWORK, *map(str, arguments)], check=False, **settings)


# ---- several processes


def run_group(arguments: Sequence[str], num_processes: int, seconds: float = 600.0) -> Group:
    """So many processes of one group on this machine, with what `accelerate launch` tells them, and
    the store that its agent has for them.

    All are killed when they take longer.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    with tempfile.TemporaryFile("w+") as output:
        processes = [
            subprocess.Popen(
                [*FRAMEWORK, *arguments],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output,
                stderr=output,
            )
            for rank in range(num_processes)
        ]
        deadline = time.monotonic() + seconds
        try:
            codes = [one.wait(max(0.1, deadline - time.monotonic())) for one in processes]
        finally:
            for one in processes:
                one.kill()
                one.wait()
            output.seek(0)
            said = output.read()
    return Group(codes=codes, output=said)


# ---- the client


def ask(address: str, arguments: list[str]) -> int:
    """Has the server run a command with this process's streams; the command's exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {
            "arguments": arguments,
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "limits": {number: resource.getrlimit(number) for number in LIMITS},
        }
        body = json.dumps(request).encode()
        streams = array.array("i", (0, 1, 2))
        server.sendmsg(
            [len(body).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
        )
        server.sendall(body)
        answers = server.makefile("r")
        pid = int(answers.readline())
        for number in FORWARDED:
            signal.signal(number, lambda received, _: os.kill(pid, received))
        return int(answers.readline())


def end_as(status: int) -> None:
    """Ends this process as the one with this exit code did, by the same signal if it was one."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# ---- the server


@contextlib.contextmanager
def server(**environment: str) -> Iterator[str]:
    """A server for as long as the context lasts; its address.

    Args:
        environment: what it has besides this process's variables.
    """
    import shutil
    import subprocess
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address = str(folder / "socket")
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", address],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield address
    finally:
        process.stdin.close()
        process.wait()
        shutil.rmtree(folder)


def serve(address: str) -> None:
    """Runs commands until standard input ends."""
    import importlib

    from framework.models.deferred import defer_compilation
    from framework.models.quiet import quiet_imports

    quiet_imports()
    defer_compilation()
    for name in PRELOADED:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    clients: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select(0.02):
                if key.fileobj is sys.stdin:
                    for pid in clients:
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    with contextlib.suppress(ConnectionError):  # One that was killed at once.
                        clients[_fork(client)] = client
                        selector.register(client, selectors.EVENT_READ)
                else:  # A client says nothing more: it was killed.
                    selector.unregister(key.fileobj)
                    for pid in [one for one, other in clients.items() if other is key.fileobj]:
                        os.kill(pid, signal.SIGKILL)
            for pid in list(clients):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    _answer(clients.pop(pid), os.waitstatus_to_exitcode(status), selector)


def _answer(client: socket.socket, code: int, selector: selectors.BaseSelector) -> None:
    if client in {key.fileobj for key in selector.get_map().values()}:
        selector.unregister(client)
        with contextlib.suppress(ConnectionError):
            client.sendall(f"{code}\n".encode())
    client.close()


def _fork(client: socket.socket) -> int:
    """A process that runs what the client asks for; its number."""
    streams = array.array("i")
    header, ancillary, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    if not ancillary:
        raise ConnectionError
    streams.frombytes(ancillary[0][2])
    try:
        request = _received(client, int.from_bytes(header, "big"))
        pid = os.fork()
        if pid == 0:
            _run(json.loads(request), list(streams))
    finally:
        for stream in streams:
            os.close(stream)
    with contextlib.suppress(ConnectionError):
        client.sendall(f"{pid}\n".encode())
    return pid


def _received(client: socket.socket, size: int) -> bytes:
    body = b""
    while len(body) < size:
        more = client.recv(size - len(body))
        if not more:
            raise ConnectionError
        body += more
    return body


def _run(request: dict[str, Any], streams: list[int]) -> None:
    """Never returns."""
    import atexit
    import threading
    import traceback

    import fault_plugin
    import torch

    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for limit, values in request["limits"].items():
        resource.setrlimit(int(limit), values)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    arguments = request["arguments"]
    fault_plugin.install_from(os.environ)
    code: Any = 0
    try:
        if arguments[0] == "--run":
            sys.argv = arguments[1:]
            runpy.run_path(arguments[1], run_name="__main__")
        else:
            from framework.__main__ import main

            sys.argv = ["framework", *arguments]
            main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        end_as(ask(os.environ[ADDRESS], sys.argv[1:]))
