"""SIGTERM and SIGINT -> a stop at the end of the current optimizer step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; a second SIGINT ends the process at once.

        A second SIGTERM does not: launchers and schedulers send it again while the state is saved.
        """
        if self.signal is not None:
            if number == signal.SIGTERM:
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = signal.Signals(number)


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Signals are noted instead of killing the process while the context lasts."""
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, request.receive)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
