"""A wall clock that jumps and a slow disk, through a library that is loaded before others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import warm_start

from prove.faults import STOP_SECONDS, parts, trial
from prove.rows import Row
from prove.runs import newest_whole

SOURCE = Path(__file__).with_name("jumping_clock.c")
JUMP_SECONDS = 100_000_000
"""Three years."""
SLOW_MILLISECONDS = 150


@contextmanager
def _preloaded(folder: Path) -> Iterator[None]:
    """Commands begin with the library."""
    library = folder / "preloaded.so"
    compile_it = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(compile_it, check=True)
    usual = os.environ[warm_start.ADDRESS]
    with warm_start.server(LD_PRELOAD=str(library)) as address:
        os.environ[warm_start.ADDRESS] = address
        try:
            yield
        finally:
            os.environ[warm_start.ADDRESS] = usual


def clock(folder: Path, model: Path, num_tries: int = 6) -> Row:
    """Two processes whose wall clocks jump at each reading, stopped now and then."""
    what = (
        "Wall clocks of two processes that jump by up to three years at each reading: no false "
        "alarm, a stop is saved in time; all as with a good clock"
    )
    if shutil.which("cc") is None:
        return Row(what, 0, 0, "left out: there is no C compiler")
    tried, whole = trial(folder, model, 2)
    with _preloaded(folder):
        tried.environment = {"JUMPING_CLOCK": str(JUMP_SECONDS)}
        for number in range(num_tries):
            tried.stop_one_of_two(number)
        tried.finish(whole)
    years = {line[:4] for line in (tried.run / "log.txt").read_text(encoding="utf-8").splitlines()}
    tried.expect(len(years) > 1, "the clock did not jump")
    return tried.row(what, f"log.txt has lines of {len(years)} years.")


def slow_disk(folder: Path, model: Path, num_tries: int = 8) -> Row:
    """Saving takes seconds, and is hit by SIGTERM and `kill -9` meanwhile."""
    what = (
        f"A disk on which each fsync, rename and unlink takes {SLOW_MILLISECONDS} ms longer, "
        "SIGTERM or `kill -9` while saving: nothing partial, nothing lost; all as on a fast one"
    )
    if shutil.which("cc") is None:
        return Row(what, 0, 0, "left out: there is no C compiler")
    tried, whole = trial(folder, model)
    num_hit = 0
    with _preloaded(folder):
        tried.environment = {"SLOW_DISK": str(SLOW_MILLISECONDS)}
        for number in range(num_tries):
            before = newest_whole(tried.run)
            known = parts(tried.run)
            (process,) = tried.start()
            tried.until(lambda known=known: bool(parts(tried.run) - known), [process])
            time.sleep(tried.chance.uniform(0, 8 * SLOW_MILLISECONDS / 1000))
            is_killed = number % 4 != 0
            process.send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
            tried.ends([process], STOP_SECONDS)
            num_hit += bool(parts(tried.run) - known)
            code = -signal.SIGKILL if is_killed else 75
            tried.expect(process.returncode == code, f"ended with {process.returncode}")
            tried.expect(newest_whole(tried.run) >= before, f"step {before} is lost")
        tried.finish(whole)
    return tried.row(what, f"{num_hit} half-written checkpoints were left behind.")
