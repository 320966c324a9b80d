"""A save that goes on while training does: one at a time, and its error is the run's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class BackgroundSave:
    """At most one thread that writes a checkpoint."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._seconds: float | None = None

    def begin(self, save: Callable[[], object]) -> None:
        """Starts one, once the one before it is complete.

        Raises:
            OSError: that one could not be written.
        """
        self.join()
        self._thread = threading.Thread(target=self._run, args=(save,), name="checkpoint")
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether `join` would raise already."""
        return self._error is not None

    @property
    def is_running(self) -> bool:
        """Whether what was begun has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Returns when what was begun is complete.

        Raises:
            OSError: it could not be written.
        """
        self.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, seconds: float | None = None) -> None:
        """Returns when what was begun has ended, well or not, or after so long."""
        if self._thread is not None:
            self._thread.join(seconds)
        if not self.is_running:
            self._thread = None

    def take_seconds(self) -> float | None:
        """What the last one that ended took; None where that was asked before."""
        seconds, self._seconds = self._seconds, None
        return seconds

    def _run(self, save: Callable[[], object]) -> None:
        started = time.monotonic()
        try:
            save()
        except BaseException as error:  # noqa: BLE001  raised again where the run can end
            self._error = error
        self._seconds = time.monotonic() - started
