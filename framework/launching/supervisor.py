"""A launch command -> its processes, watched: signals reach them, none of them stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from framework.core.launched import FOLDER, stop_with_parent
from framework.core.problems import Interrupted
from framework.launching.job import Command

_PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}
"""Signal -> what the processes that train get of it."""
_LEFT_SECONDS = 30.0
"""What outlives its launcher gets to save its state."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class Report:
    """Why one process ended."""

    rank: int
    exit_code: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a launch ended on this node."""

    exit_code: int
    reports: tuple[Report, ...]
    """In the order in which the processes ended; one that was killed has none."""


def supervise(command: Command, num_workers: int) -> Ended:
    """Runs a launcher and everything that it starts to the end.

    Args:
        num_workers: processes that it starts on this machine.
    """
    _adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="framework-launch-") as folder:
        launch = _Launch(Path(folder), num_workers)
        with launch.signals_passed_on():
            return launch.run(command)


class _Launch:
    """A launcher's processes, found through the folder in which they announce themselves."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self.folder, self.num_workers = folder, num_workers
        self.launcher: subprocess.Popen[bytes] | None = None
        self.asked_to_stop = False

    def run(self, command: Command) -> Ended:
        environment = {**os.environ, **command.environment, FOLDER: str(self.folder)}
        # In a session of its own: a Ctrl-C in the terminal comes to this process alone, and every
        # process that trains is told once.
        self.launcher = subprocess.Popen(
            command.arguments,
            env=environment,
            start_new_session=True,
            preexec_fn=stop_with_parent,  # noqa: PLW1509  there are no threads
        )
        if self.asked_to_stop:
            self.launcher.terminate()
        try:
            code = self.launcher.wait()
        finally:
            _end_descendants()
        reports = self._reports()
        exit_code = outcome(
            code, reports, num_workers=self.num_workers, asked_to_stop=self.asked_to_stop
        )
        return Ended(exit_code=exit_code, reports=reports)

    @contextlib.contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """To the processes that train alone: a launcher that gets it kills them after a while."""
        self.asked_to_stop = True
        if self.launcher is None:
            return
        alive = _descendants()
        trained = [pid for pid in self._announced() if pid in alive]
        for pid in trained or [self.launcher.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _PASSED_ON[signal.Signals(number)])

    def _announced(self) -> list[int]:
        return [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdigit()]

    def _reports(self) -> tuple[Report, ...]:
        files = sorted(self.folder.glob("[0-9]*.json"), key=lambda file: file.stat().st_mtime_ns)
        return tuple(Report(**json.loads(file.read_text(encoding="utf-8"))) for file in files)


def outcome(
    launcher_code: int, reports: Sequence[Report], *, num_workers: int, asked_to_stop: bool
) -> int:
    """The exit code that says why a launch ended; launchers say 1 for everything.

    A process that fails takes the others with it, so the first that did is the reason. That a
    run can be gone on with is believed where it was asked to stop, or every process says so.
    """
    if launcher_code == 0:
        return 0
    stopped = Interrupted.exit_code
    for report in reports:
        if report.exit_code not in {0, stopped}:
            return report.exit_code
    if asked_to_stop or (len(reports) == num_workers > 0):
        return stopped
    return launcher_code if launcher_code > 0 else 128 - launcher_code


def _adopt_orphans() -> None:
    """Processes whose launcher dies become children of this one, so that they are found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _descendants() -> set[int]:
    import psutil

    return {one.pid for one in psutil.Process().children(recursive=True)}


def _end_descendants() -> None:
    """Ends what a launcher left behind; it may save its state first."""
    import psutil

    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=_LEFT_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_LEFT_SECONDS)
