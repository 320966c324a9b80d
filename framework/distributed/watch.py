"""Each process of a run knows whether the others live, also while it waits for them.

Through PyTorch's key-value store, which is there before any process group and answers while a
collective operation hangs: every process says again and again that it lives, the main process
reads all, every other reads what the main one finds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from framework.core.launched import report_end
from framework.core.problems import RunFailed, UserError
from framework.core.world import World

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_SECONDS = 1.0
SUSPICION_SECONDS = 10.0
"""Silence that says enough where a connection has broken."""
GRACE_SECONDS = 10.0
"""What a process has to find out itself that another one is gone, before it is ended."""
LOST_HINT = (
    "look at that machine's own messages, then start the same command on every node; "
    "docs/troubleshooting.md: A process is lost"
)
_ANSWER_SECONDS = 5.0
_WELCOME_SECONDS = 0.02
"""How often somebody new is looked for."""
_PACKAGE = Path(__file__).parents[1]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What a process says of itself."""

    rank: int
    host: str
    step: int | None
    """Optimizer step that it is in; None: before the first."""
    place: str
    """File and line of this package that its main thread is in."""

    def __str__(self) -> str:
        moment = "before the first step" if self.step is None else f"in step {self.step}"
        return f"rank {self.rank} on {self.host}, {moment}"


@dataclass(frozen=True, kw_only=True)
class Gone:
    """Why the processes can't go on together."""

    what: str
    hint: str = ""
    exit_code: int = RunFailed.exit_code
    silent_rank: int | None = None
    """Of whom nobody will hear any more."""

    def error(self) -> UserError:
        """What a process ends with that had to give up."""
        error = RunFailed(self.what, self.hint)
        error.exit_code = self.exit_code
        return error


@dataclass(frozen=True, kw_only=True)
class _Heard:
    sign: Sign | None = None
    text: bytes = b""
    at: float = field(default_factory=time.monotonic)


class Watch:
    """Two threads: one talks to the store; the other ends this process should it come to that."""

    def __init__(
        self, store: Store, world: World, timeout_seconds: float, welcome: Callable[[], bool]
    ) -> None:
        """
        Args:
            store: of these processes alone.
            timeout_seconds: how long one of them may be silent.
            welcome: lets those in that wait for it; whether all have come.
        """
        self.store, self.world, self.timeout_seconds = store, world, timeout_seconds
        self._welcome = welcome
        self.host = socket.gethostname()
        self.step: int | None = None
        self.gone: Gone | None = None
        self._main_thread = threading.get_ident()
        self._place = ""
        self._num_beats = 0
        self._answered = time.monotonic()
        self._is_broken = self._is_suspicious = False
        self._deadline: tuple[float, Gone] | None = None
        self._is_parting, self._has_left = threading.Event(), threading.Event()
        watched = range(world.num_processes) if world.is_main else (0,)
        self._heard = {rank: _Heard() for rank in watched if rank != world.rank}
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._talk, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def beat(rank: int) -> str:
        """Under which key a process says that it lives."""
        return f"beat/{rank}"

    @property
    def own_sign(self) -> Sign:
        """What this process says of itself now."""
        return Sign(rank=self.world.rank, host=self.host, step=self.step, place=self._place)

    def grow_suspicious(self) -> None:
        """Somebody may be gone: shorter silence than else says so."""
        self._is_suspicious = True
        self.ask(lambda: self.store.set("suspicion", "1"))

    def suspect(self) -> None:
        """A connection broke: returns once it is known who is gone, or that nobody is."""
        self.grow_suspicious()
        deadline = time.monotonic() + SUSPICION_SECONDS + 4 * BEAT_SECONDS
        while self.gone is None and time.monotonic() < deadline:
            time.sleep(0.1)

    def condemn(self, gone: Gone) -> Gone:
        """Ends the run for all; why it ends: this, or what somebody else said before."""
        text = json.dumps(asdict(gone))
        answer = self.ask(lambda: self.store.compare_set("gone", "", text))
        self.gone = gone if answer is None else Gone(**json.loads(answer))
        return self.gone

    @contextmanager
    def within(self, seconds: float, gone: Gone) -> Iterator[None]:
        """This process ends where what is done meanwhile takes longer."""
        self._deadline = (time.monotonic() + seconds, gone)
        try:
            yield
        finally:
            self._deadline = None

    def begin_parting(self) -> None:
        """From here on the main thread does what is to be done where somebody is gone."""
        self._is_parting.set()

    def note_left(self) -> None:
        """Lets the others know that this process waits for nobody and nobody should for it."""
        self.ask(lambda: self.store.set(f"left/{self.world.rank}", "1"))

    def have_all_left(self) -> bool:
        """Whether nobody is left to hear of; True also where nobody can be asked."""
        silent = None if self.gone is None else self.gone.silent_rank
        keys = [f"left/{rank}" for rank in range(self.world.num_processes) if rank != silent]
        return self.ask(lambda: self.store.check(keys)) is not False

    def wait_for_others(self, seconds: float) -> None:
        """Returns when nobody is left to hear of, and after so long all the same."""
        deadline = time.monotonic() + seconds
        while not self.have_all_left() and time.monotonic() < deadline:
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends both threads; one that is still in the store's code when the interpreter ends would
        take the process with it, by SIGABRT."""
        self._has_left.set()
        for thread in self._threads:
            thread.join(_ANSWER_SECONDS)

    def is_first_to_tell(self, subject: str) -> bool:
        """Whether no other process of this node has told that."""
        key = self._told(subject)
        if self.ask(lambda: self.store.add(key, 1)) in {None, 1}:
            return True
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            if self.ask(lambda: self.store.check([f"{key}/done"])):
                return False
            time.sleep(0.1)
        return True

    def note_told(self, subject: str) -> None:
        """Lets the others of this node be silent about it."""
        key = self._told(subject)
        self.ask(lambda: self.store.add(key, 1))
        self.ask(lambda: self.store.set(f"{key}/done", "1"))

    def signs(self) -> list[Sign]:
        """The last sign of every process that gave one."""
        keys = [self.beat(rank) for rank in range(self.world.num_processes)]
        found = self.ask(lambda: [self.store.get(key) for key in keys if self.store.check([key])])
        return [_sign(text) for text in found or ()]

    def ask(self, question: Callable[[], _Answer]) -> _Answer | None:
        """The store's answer; None where there is none soon."""
        if self._is_broken:
            return None
        answers: list[_Answer] = []

        def wait() -> None:
            try:
                answers.append(question())
            except RuntimeError:
                self._is_broken = True

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(_ANSWER_SECONDS)
        return answers[0] if answers else None

    # ---- the two threads

    def _talk(self) -> None:
        try:
            while not self._has_left.is_set():
                self._say()
                self._listen()
                self._answered = time.monotonic()
                self._rest(time.monotonic() + BEAT_SECONDS)
        except RuntimeError:
            self._is_broken = True

    def _rest(self, until: float) -> None:
        """Who comes meanwhile is let in at once."""
        while not self._welcome() and time.monotonic() < until:
            if self._has_left.wait(_WELCOME_SECONDS):
                return
        self._has_left.wait(until - time.monotonic())

    def _guard(self) -> None:
        since: float | None = None
        while not self._is_parting.wait(BEAT_SECONDS / 2):
            if self.gone is None:
                self.gone = self._overdue()
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > GRACE_SECONDS:
                self._end(self.gone)

    def _say(self) -> None:
        self._num_beats += 1
        if not self._is_suspicious:
            self._place = _place_of(self._main_thread)
        text = json.dumps({"number": self._num_beats, **asdict(self.own_sign)})
        self.store.set(self.beat(self.world.rank), text)

    def _listen(self) -> None:
        if self.store.check(["gone"]):
            self.gone = Gone(**json.loads(self.store.get("gone")))
        if self.store.check(["suspicion"]):
            self._is_suspicious = True
        now = time.monotonic()
        present = [rank for rank in self._heard if self.store.check([self.beat(rank)])]
        texts = self.store.multi_get(list(map(self.beat, present))) if present else []
        for rank, text in zip(present, texts, strict=True):
            if text != self._heard[rank].text:
                self._heard[rank] = _Heard(sign=_sign(text), text=text, at=now)
        for rank, heard in self._heard.items():
            seconds = now - heard.at
            if seconds > self._patience and not self.store.check([f"left/{rank}"]):
                self.condemn(self._silent(rank, heard.sign, seconds))

    @property
    def _patience(self) -> float:
        if self._is_suspicious:
            return min(SUSPICION_SECONDS, self.timeout_seconds)
        return self.timeout_seconds

    def _overdue(self) -> Gone | None:
        """What this process finds out without the store."""
        seconds = time.monotonic() - self._answered
        patience = min(SUSPICION_SECONDS, self.timeout_seconds)
        if seconds > (patience if self._is_broken else self._patience + 2 * BEAT_SECONDS):
            heard = self._heard.get(0)
            sign = heard.sign if heard else self.own_sign
            return self._silent(0, sign, seconds, " or its launcher")
        if self._deadline is not None and time.monotonic() > self._deadline[0]:
            return self._deadline[1]
        return None

    def _end(self, gone: Gone) -> None:
        """For a main thread that waits for somebody who will never come."""
        if self.is_first_to_tell("gone"):
            print(gone.error(), file=sys.stderr, flush=True)
            self.note_told("gone")
        self.note_left()
        if self.world.is_main:
            # The others may ask it whether they have been told, each when its own grace is over.
            self.wait_for_others(GRACE_SECONDS)
        report_end(gone.exit_code, str(gone.error()))
        os._exit(gone.exit_code)

    def _silent(self, rank: int, sign: Sign | None, seconds: float, besides: str = "") -> Gone:
        """A step is one for all: this process knows better than the last sign which it is."""
        if sign is None:
            return never_met(rank, seconds, besides)
        return _lost(rank, str(replace(sign, step=self.step)), seconds, besides)

    def _told(self, subject: str) -> str:
        return f"told/{self.host}/{self.world.node_rank}/{subject}"


def never_met(rank: int, seconds: float, besides: str = "") -> Gone:
    """A process of which nothing was heard from the start."""
    return _lost(rank, f"rank {rank}, which never met the others", seconds, besides)


def _lost(rank: int, who: str, seconds: float, besides: str) -> Gone:
    return Gone(
        what=f"lost: {who}; nothing was heard of it{besides} for {seconds:.0f} s",
        hint=LOST_HINT,
        silent_rank=rank,
    )


def _sign(text: bytes) -> Sign:
    written = json.loads(text)
    return Sign(**{name: value for name, value in written.items() if name != "number"})


def _place_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
