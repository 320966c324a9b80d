"""Named stretches of a step -> whoever measures them; nobody listening, they do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

Name = Literal[
    "data",
    "answers",
    "reference",
    "loss",
    "backward",
    "optimizer",
    "communication",
    "save",
]
"""`loss` is the whole forward pass with what follows it, `answers` the making and judging of what
an online trainer learns from. Spans nest; time belongs to the innermost."""


class Listener(Protocol):
    """Told of every span that this process's training thread enters and leaves."""

    def enter(self, name: Name) -> None:
        """A span begins, within those that have begun and not ended."""
        ...

    def leave(self) -> None:
        """The innermost one ends."""
        ...


_listeners: list[Listener] = []


@contextmanager
def span(name: Name) -> Iterator[None]:
    """What runs within is of this name; also a decorator."""
    if not _listeners:
        yield
        return
    listener = _listeners[-1]
    listener.enter(name)
    try:
        yield
    finally:
        listener.leave()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells this listener alone, while the context lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()
