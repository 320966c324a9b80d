"""A process that `framework launch` started: what it tells its launcher."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from framework.core import atomic

FOLDER = "FRAMEWORK_LAUNCH_FOLDER"
"""Environment variable: the folder through which launched processes are known."""

_PR_SET_PDEATHSIG = 1


def announce() -> None:
    """Says that this process is the one which trains, so that signals reach it; not launched: no.

    From here on it is asked to stop should what started it die.
    """
    if FOLDER in os.environ:
        stop_with_parent()
        _announcement().touch()


def report_end(exit_code: int, message: str) -> None:
    """Tells why this process ends; launchers in between make 1 of every exit code."""
    if FOLDER in os.environ and _announcement().exists():
        report = {"rank": _rank(), "exit_code": exit_code, "message": message}
        atomic.write_file(_announcement().with_suffix(".json"), json.dumps(report))


def stop_with_parent() -> None:
    """SIGTERM for this process when its parent is gone; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _announcement() -> Path:
    return Path(os.environ[FOLDER]) / str(os.getpid())


def _rank() -> int:
    return int(os.environ.get("RANK") or 0)
