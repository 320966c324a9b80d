"""The processes that were started together: they meet before anything is read, and part as one.

What one of them runs into, all of them end with, and each node tells it once.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from framework.core.problems import Problem, RunFailed, UserError, tell
from framework.core.world import World
from framework.distributed.meeting import (
    LONGEST_POLL_SECONDS,
    SHORTEST_POLL_SECONDS,
    TALK_HINT,
    first_line,
    watch_over,
)
from framework.distributed.watch import Gone, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

DEFAULT_TIMEOUT_SECONDS = 600.0
JOIN_SECONDS = 50.0
"""What processes that are all there have to connect to each other."""
WAITING_HINT = (
    "docs/troubleshooting.md: A process keeps the others waiting; --peer-timeout gives it longer"
)
_PART_SECONDS = 15.0
"""What a process that failed waits for the others to hear of it."""


class Peers:
    """All processes of a run, as one of them sees them; alone, there is nothing to see."""

    def __init__(self, world: World, watch: Watch | None) -> None:
        self._world, self._watch = world, watch

    def at(self, step: int) -> None:
        """This process begins an optimizer step, counted from 1."""
        if self._watch is not None:
            self._watch.step = step

    def from_main(self, topic: str, value: str) -> str:
        """The main process's value; those of others don't count. Needs no process group."""
        if self._watch is None:
            return value
        if self._world.is_main:
            self._watch.store.set(f"main/{topic}", value)
        return self._read([f"main/{topic}"])[0]

    def from_all(self, topic: str, value: str) -> list[str]:
        """Every process's value, in the order of their ranks. Needs no process group."""
        if self._watch is None:
            return [value]
        self._watch.store.set(f"all/{topic}/{self._world.rank}", value)
        return self._read([f"all/{topic}/{rank}" for rank in range(self._world.num_processes)])

    def suspect(self) -> None:
        """The run ends for this process, perhaps because another is gone; whoever waits for that
        one hears of it soon."""
        if self._watch is not None:
            self._watch.grow_suspicious()

    @property
    def are_several(self) -> bool:
        """Whether there is anybody to agree with."""
        return self._watch is not None

    def agree(self, topic: str, facts: Mapping[str, str], hint: str) -> None:
        """Waits for every process, and returns where all have the same facts.

        Raises:
            UserError: on all of them: which facts differ, and where.
        """
        if self._watch is None:
            return
        own = json.dumps({"host": self._watch.host, "facts": facts})
        self._watch.store.set(f"facts/{topic}/{self._world.rank}", own)
        if self._world.is_main:
            ranks = range(self._world.num_processes)
            found = self._read([f"facts/{topic}/{rank}" for rank in ranks])
            problems = differences([json.loads(text) for text in found], hint)
            self._watch.store.set(f"differences/{topic}", json.dumps(list(map(asdict, problems))))
        (text,) = self._read([f"differences/{topic}"])
        problems = [Problem(**one) for one in json.loads(text)]
        if problems:
            raise UserError(problems)

    def join(self, build: Callable[[], Accelerator]) -> Accelerator:
        """What `build` makes of the processes, all of them and no others.

        Raises:
            UserError: they don't work together; each would train the whole recipe.
        """
        if self._watch is None:
            accelerator = build()
        else:
            self.agree("joining", {}, "")
            late = Gone(
                what=f"{self._watch.own_sign}: the processes could not connect to each other "
                f"in {JOIN_SECONDS:.0f} s",
                hint=TALK_HINT,
            )
            with self._watch.within(JOIN_SECONDS, late):
                self._connect(self._watch)
                accelerator = build()
        _compare(self._world, accelerator)
        return accelerator

    def _connect(self, watch: Watch) -> None:
        """Makes the process group: libraries would, in a store where a start that was killed may
        have left where it was to be reached."""
        from torch import distributed

        if distributed.is_initialized():
            return
        distributed.init_process_group(
            "nccl" if self._world.device == "cuda" else "gloo",
            # Another connection: one waits for an answer at a time.
            store=watch.store.clone(),  # pyright: ignore[reportAttributeAccessIssue]
            rank=self._world.rank,
            world_size=self._world.num_processes,
            timeout=timedelta(seconds=watch.timeout_seconds),
        )

    def _read(self, keys: Sequence[str]) -> list[str]:
        assert self._watch is not None
        seconds = SHORTEST_POLL_SECONDS
        while not self._watch.store.check(list(keys)):
            if self._watch.gone is not None:
                raise self._watch.gone.error()
            time.sleep(seconds)
            seconds = min(2 * seconds, LONGEST_POLL_SECONDS)
        return [text.decode() for text in self._watch.store.multi_get(list(keys))]


ALONE = Peers(World(), None)


@contextmanager
def meet(world: World, timeout_seconds: float) -> Iterator[Peers]:
    """The processes of this world; whatever ends one of them within, ends all.

    Args:
        timeout_seconds: how long one may be silent, or keep the others waiting.
    """
    if world.num_processes == 1:
        yield Peers(world, None)
        return
    # Registered before others are, so called after them.
    atexit.register(_skip_teardown)
    _skip_teardown.code = None
    watch = watch_over(world, timeout_seconds)
    try:
        yield Peers(world, watch)
    except BaseException as error:
        # A launcher that saw another process end would not let this one say why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        failure = _failure(watch, error)
        _part(watch, failure)
        if failure is error:
            raise
        raise failure from error
    _part(watch, None)


def differences(said: Sequence[Mapping], hint: str) -> list[Problem]:
    """One problem for each fact and node where it isn't the main process's.

    Args:
        said: `host` and `facts` of each process, in the order of their ranks.
    """
    main, found = said[0], dict[tuple[str, str], Problem]()
    for rank, other in enumerate(said):
        for key in {**main["facts"], **other["facts"]}:
            here, there = (one["facts"].get(key, "missing") for one in (main, other))
            if here != there:
                what = (
                    f"is {there} on {other['host']} (rank {rank}), "
                    f"but {here} on {main['host']} (rank 0)"
                )
                found.setdefault((key, other["host"]), Problem(key=key, what=what, hint=hint))
    return list(found.values())


def _failure(watch: Watch, error: BaseException) -> BaseException:
    """The error that tells what happened: where a peer is gone, that is why a connection broke."""
    if isinstance(error, UserError) or not isinstance(error, RuntimeError):
        return error
    watch.suspect()
    if watch.gone is not None:
        return watch.gone.error()
    if not _is_communication(error):
        return error
    own = watch.own_sign
    elsewhere = {sign.place: sign for sign in watch.signs() if sign.place != own.place}
    others = "".join(f"; {sign} is at {place}" for place, sign in elsewhere.items())
    at = f" at {own.place}" if own.place else ""
    what = f"{own}, waited{at} for the others: {first_line(error)}{others}"
    return watch.condemn(Gone(what=what, hint=WAITING_HINT)).error()


def _is_communication(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error).lower()


def _part(watch: Watch, error: BaseException | None) -> None:
    """Leaves when the others know why; a process may hold what they meet in."""
    watch.begin_parting()
    if error is not None:
        _tell_all(watch, error)
    watch.note_left()
    if error is not None:
        watch.wait_for_others(_PART_SECONDS)
    elif watch.world.is_main:
        watch.wait_for_others(math.inf)
    watch.stop()
    if error is not None:
        _skip_teardown.code = _exit_code(error)


class _SkipTeardown:
    """After a failure in what this process did last, the interpreter's teardown is left out:
    communication libraries hang in it.

    What other modules have to do at exit, files to be written included, comes before.
    """

    code: int | None = None

    def __call__(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)


_skip_teardown = _SkipTeardown()


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, UserError) else RunFailed.exit_code


def _tell_all(watch: Watch, error: BaseException) -> None:
    own = isinstance(error, UserError)
    if watch.gone is not None and str(error) == str(watch.gone.error()):
        subject = "gone"
    else:
        subject = hashlib.sha256(str(error).encode()).hexdigest()
        what = f"{watch.own_sign}, ended: {first_line(error)}"
        gone = Gone(what=what, exit_code=_exit_code(error))
        if watch.condemn(gone) == gone:
            watch.note_told("gone")
    if own:
        if watch.is_first_to_tell(subject):
            tell(error)
            watch.note_told(subject)
        error.told = True


def _compare(world: World, accelerator: Accelerator) -> None:
    if accelerator.num_processes == world.num_processes:
        return
    raise UserError(
        Problem(
            what=f"{world.num_processes} processes were started, "
            f"{accelerator.num_processes} of them work together",
            hint="on a CPU: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            "--num_processes N ...",
        )
    )
