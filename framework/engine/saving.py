"""What each process holds of a run's state -> one checkpoint, now or beside the next steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from framework.core.problems import Problem
from framework.distributed.collectives import broadcast_object, sum_over_processes
from framework.distributed.peers import Peers
from framework.engine.background import BackgroundSave
from framework.engine.checkpoint import best_checkpoint, measured, newest_checkpoint, step_of
from framework.recipe.schema import Checkpoint as Settings
from framework.recipe.schema import Output
from framework.runs.result import Origin

_JOIN_SECONDS = 0.2
"""How often processes that wait for a save see that all of them live."""
Write = Callable[[Path], None]
"""Puts into a folder what a process has captured."""
Checkpoint = Callable[[Write], object]
"""Makes a whole checkpoint, for the main process, of a folder that its argument fills."""


class Saving:
    """A run's checkpoints, written one at a time; every process calls every method."""

    def __init__(
        self,
        accelerator: Accelerator,
        peers: Peers,
        folder: Path,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            folder: of the checkpoints.
            say: told of damaged ones.
        """
        self._settings, self._asynchronous = settings, settings.asynchronous
        assert not self._asynchronous or peers.are_several == (accelerator.num_processes > 1)
        self._accelerator, self._peers = accelerator, peers
        self._is_main = accelerator.is_main_process
        self.folder, self._say = folder, say
        self._background = BackgroundSave()
        self._seconds: float | None = None
        self._num_begun = 0

    def save(self, write: Write, checkpoint: Checkpoint, *, ends: bool) -> None:
        """
        Args:
            ends: returns when the checkpoint is whole.

        Raises:
            OSError: this one, or the one before it, could not be written.
        """
        if not self._asynchronous:
            started = time.monotonic()
            self._save_now(write, checkpoint)
            self._seconds = time.monotonic() - started
            return
        self._num_begun += 1
        topic = f"save/{self._num_begun}"
        self._background.begin(partial(self._save_beside, topic, write, checkpoint))
        if ends:
            self.join()

    @property
    def has_failed(self) -> bool:
        """Whether `join` would raise already, on this process."""
        return self._background.has_failed

    def join(self) -> None:
        """Returns when what was begun is whole.

        Raises:
            OSError: it could not be written.
        """
        if self._asynchronous:
            # A process that dies meanwhile ends this; a thread would wait for its part.
            while any(sum_over_processes(self._accelerator, [self._background.is_running])):
                self._background.wait(_JOIN_SECONDS)
        self._background.join()

    def wait(self) -> None:
        """Returns when what was begun has ended, well or not; for a run that ends, perhaps because
        a process died, on this process alone."""
        if self._background.is_running:
            self._peers.suspect()
        self._background.wait()

    def take_seconds(self) -> float | None:
        """What the last save took; None where it was asked for before."""
        seconds = self._background.take_seconds() if self._asynchronous else self._seconds
        self._seconds = None
        return seconds

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        return self._found(lambda: newest_checkpoint(self.folder))

    def final(self, num_steps: int, output: Output) -> tuple[Origin, Path | None]:
        """(Where the weights of the final model are from, the checkpoint to read them from); None:
        the model has them.

        Args:
            num_steps: that are done.
        """
        best = self._settings.keep_best
        last = Origin(step=num_steps, num_steps=num_steps)
        if output.final == "last" or best is None:
            return last, None
        path = self._found(lambda: best_checkpoint(self.folder, best))
        if path is None:
            self._say(f"no whole checkpoint has a {best.metric}: final/ is {last}")
            return last, None
        step, value = step_of(path), measured(path, best.metric)
        origin = Origin(step=step, num_steps=num_steps, metric=best.metric, value=value)
        self._say(f"final/ is {origin}")
        return origin, None if step == num_steps else path

    def _found(self, find: Callable[[], tuple[Path | None, Sequence[Problem]]]) -> Path | None:
        self.join()
        path: Path | None = None
        if self._is_main:
            path, warnings = find()
            for warning in warnings:
                self._say(f"warning: {warning}")
        return broadcast_object(path)

    # ---- now

    def _save_now(self, write: Write, checkpoint: Checkpoint) -> None:
        self._accelerator.wait_for_everyone()
        if self._is_main:
            checkpoint(partial(self._fill_now, write))
        else:
            self._fill_now(write, None)
        self._accelerator.wait_for_everyone()

    def _fill_now(self, write: Write, folder: Path | None) -> None:
        """Every process's part, into the main process's folder."""
        folder = broadcast_object(folder)
        assert folder is not None
        write(folder)
        self._accelerator.wait_for_everyone()

    # ---- beside the next steps, whose collective operations must not meet others

    def _save_beside(self, topic: str, write: Write, checkpoint: Checkpoint) -> None:
        if self._is_main:
            self._make_beside(topic, write, checkpoint)
            return
        folder = self._peers.from_main(f"{topic}/folder", "")
        if folder:
            self._fill_beside(topic, write, Path(folder))
        fault = self._peers.from_main(f"{topic}/whole", "")
        if fault:
            raise OSError(fault)

    def _make_beside(self, topic: str, write: Write, checkpoint: Checkpoint) -> None:
        """The main process's way, which the others hear of however it ends."""
        folders: list[str] = []

        def fill(folder: Path) -> None:
            folders.append(self._peers.from_main(f"{topic}/folder", str(folder)))
            self._fill_beside(topic, write, folder)

        fault = "nobody knows why"
        try:
            checkpoint(fill)
            fault = ""
        except (OSError, SafetensorError) as error:
            fault = str(error)
            raise
        finally:
            if not folders:
                self._peers.from_main(f"{topic}/folder", "")
            self._peers.from_main(f"{topic}/whole", fault)

    def _fill_beside(self, topic: str, write: Write, folder: Path) -> None:
        """This process's part; returns when every process has written its own.

        Raises:
            OSError: one of them could not, on all of them.
        """
        fault = ""
        try:
            write(folder)
        except (OSError, SafetensorError) as error:
            fault = str(error)
        for one in self._peers.from_all(f"{topic}/part", fault):
            if one:
                raise OSError(one)
