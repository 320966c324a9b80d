"""Runs the long versions of the proofs and writes what they found into docs/proofs.md.

make prove [ONLY="kill9 faults"] [RESUME=1]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import warm_start
from conftest import make_tiny_model

from prove import damaged, elastic, faults, fuzz, kill9, preloaded, restarts, resume
from prove.page import Measured, today, write_page, written_lines
from prove.rows import Row

Proof = Callable[[Path, Path], Row]
PROOFS: Mapping[str, Proof] = {
    "kill9": kill9.run,
    "resume": resume.run,
    **{f"resume-two-{way}": partial(resume.run_together, ways=[way]) for way in resume.WAYS},
    "elastic": elastic.run,
    "restarts": restarts.run,
    "damaged": damaged.run,
    "faults-sigterm": faults.sigterm,
    "faults-sigint": faults.sigint,
    "faults-disk": faults.disk_full,
    "faults-saving": faults.killed_while_saving,
    "faults-dead": faults.dead_rank,
    "faults-hung": faults.hung_rank,
    "faults-two": faults.two_runs,
    "faults-clock": preloaded.clock,
    "faults-slow": preloaded.slow_disk,
    "fuzz": fuzz.run,
}
"""Name -> its long version, in the order of the table: given an empty folder and a tiny model."""


def chosen(only: Sequence[str]) -> list[str]:
    """The names that begin with one of these; all of them, where nothing is asked for.

    Raises:
        SystemExit: there is no such proof.
    """
    for one in only:
        if not any(name.startswith(one) for name in PROOFS):
            sys.exit(f"no proof begins with {one!r}; there are: {', '.join(PROOFS)}")
    return [name for name in PROOFS if not only or name.startswith(tuple(only))]


def measure(name: str, model: Path) -> Measured:
    """Runs one proof."""
    started, cpu_started = time.monotonic(), _cpu_seconds()
    with tempfile.TemporaryDirectory(prefix=f"prove-{name}-") as folder:
        row = PROOFS[name](Path(folder), model)
    return Measured(
        name=name,
        row=row,
        seconds=time.monotonic() - started,
        cpu_seconds=_cpu_seconds() - cpu_started,
        date=today(),
    )


@contextmanager
def _prepared() -> Iterator[Path]:
    """A tiny model, a cache of its own, and commands that begin at once."""
    with tempfile.TemporaryDirectory(prefix="prove-") as folder, warm_start.server() as address:
        os.environ |= {warm_start.ADDRESS: address, "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        yield make_tiny_model(Path(folder) / "model")


def main() -> None:
    """Every chosen proof, the page written after each."""
    parser = argparse.ArgumentParser(prog="make prove")
    parser.add_argument("only", nargs="*", help="what the names of proofs begin with")
    parser.add_argument("--resume", action="store_true", help="leave out what the page has")
    arguments = parser.parse_args()
    num_failures = 0
    with _prepared() as model:
        for name in chosen(arguments.only):
            if arguments.resume and name in written_lines():
                continue
            print(f"{name} ...", flush=True)
            measured = measure(name, model)
            print(measured.line(), flush=True)
            lines = {**written_lines(), name: measured.line()}
            write_page(lines[one] for one in PROOFS if one in lines)
            num_failures += measured.row.failures
    sys.exit(int(num_failures > 0))


def _cpu_seconds() -> float:
    """Of this process, of those that it started, and of those that these started and saw end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2] for child in children]
    ticks = sum(int(field) for stat in stats for field in stat.split()[11:15])
    return sum(one.ru_utime + one.ru_stime for one in used) + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
