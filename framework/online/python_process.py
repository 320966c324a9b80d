"""A user's Python source -> a process with limits that answers with numbers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from framework.core.problems import RunFailed, UserError
from framework.core.rollouts import Answer

_START_SECONDS = 60.0
_MOST_SHOWN = 2000
"""Characters of what the process said last."""
_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""What the process sees of the environment: no keys, no tokens."""

_WORKER = """
import ctypes, json, os, resource, sys, traceback

cpu_seconds, memory_bytes, function, name = sys.argv[1:5]
resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds)))
resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
try:  # a user and a network namespace of its own, where the system grants them
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
except (AttributeError, OSError):
    pass
requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)  # what the function prints must not look like a reply
source = requests.read(int(requests.readline()))
space = {"__name__": "reward", "__file__": name}
exec(compile(source, name, "exec"), space)
score = space.get(function)
if not callable(score):
    others = [one for one in space if callable(space[one]) and not one.startswith("_")]
    sys.exit(f"it defines no function {function!r}, only: {', '.join(others) or 'none'}")


def number(asked):
    try:
        value = score(*asked)
    except Exception as error:
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
        sys.exit(1)
    try:
        return float(value)
    except (TypeError, ValueError):
        sys.exit(f"{function} returned {value!r}, which is no number")


def reply(value):
    replies.write(json.dumps(value) + "\\n")
    replies.flush()


reply("ready")
for line in requests:
    reply([number(one) for one in json.loads(line)])
"""


class PythonProcess:
    """Implements `rollouts.ScorerBeside`; ends with this process, or when nobody needs it."""

    def __init__(
        self,
        *,
        path: Path,
        source: bytes,
        function: str,
        timeout_seconds: float,
        cpu_seconds: int,
        memory_bytes: int,
    ) -> None:
        self._path, self._timeout_seconds = path, timeout_seconds
        self._limits = f"{cpu_seconds} s of processor time, {memory_bytes:,} bytes of memory"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        limits = [str(cpu_seconds), str(memory_bytes)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORKER, *limits, function, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
            start_new_session=True,
        )
        weakref.finalize(self, _kill, self._process.pid)
        try:
            self._send(b"%d\n" % len(source) + source)
            ready = self._reply(_START_SECONDS)
        except RunFailed as error:
            raise UserError(error.problems) from None
        assert ready == "ready", ready

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        """
        Raises:
            RunFailed: the function failed, ended, or took too long.
        """
        self.begin(answers)
        return self.end()

    def begin(self, answers: Sequence[Answer]) -> None:
        """See `ScorerBeside`.

        Raises:
            RunFailed: the process has ended.
        """
        asked = [
            (
                [asdict(message) for message in answer.prompt.messages],
                answer.text,
                answer.prompt.columns,
            )
            for answer in answers
        ]
        self._send(json.dumps(asked).encode() + b"\n")

    def end(self) -> Sequence[float]:
        """
        Raises:
            RunFailed: the function failed, ended, or took too long from now on.
        """
        return self._reply(self._timeout_seconds)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def _reply(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        stream, read = self._process.stdout.fileno(), b""
        end = time.monotonic() + seconds
        while not read.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                _kill(self._process.pid)
                raise self._failure(f"took longer than {seconds:g} s", "timeout_seconds")
            part = os.read(stream, 1 << 16)
            if not part:
                raise self._failure("ended")
            read += part
        return json.loads(read)

    def _failure(self, how: str, limit: str = "cpu_seconds or memory_bytes") -> RunFailed:
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()[-_MOST_SHOWN:]
        ending = f" by signal {-code}" if code < 0 and how == "ended" else ""
        return RunFailed(
            f"the reward in {self._path} {how}{ending} (limits: {self._limits})"
            + (f"; it said:\n{said}" if said else ""),
            hint=f"mend the function, or raise the reward's {limit}",
        )


def _kill(group: int) -> None:
    """The process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
