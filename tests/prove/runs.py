"""Runs of a tiny model that proofs interrupt, and what each of them came to."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import read_rows
from warm_start import FRAMEWORK

from framework.core import atomic

TAKES_TIME = frozenset({"tokens_per_second", "peak_rss_bytes"})
"""Metrics of the machine, not of what was trained; and names that end with `seconds`."""


def train(
    recipe: Path, *arguments: str, file_bytes: int | None = None, **environment: str
) -> subprocess.Popen[str]:
    """`framework train`, started; what it says goes to a pipe.

    Args:
        file_bytes: that a file can have, as on a full disk; None: any number.
    """

    def limit() -> None:
        if file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.Popen(
        [*FRAMEWORK, "train", str(recipe), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        preexec_fn=limit,  # noqa: PLW1509  no thread of this process holds a lock
    )


def curve(run: Path) -> list[dict[str, Any]]:
    """The rows of the metrics without what depends on the machine."""
    return [
        {
            name: value
            for name, value in row.items()
            if name not in TAKES_TIME and not name.endswith("seconds")
        }
        for row in read_rows(run / "metrics.jsonl")
    ]


def resumed_after(run: Path) -> list[int]:
    """The steps from which its starts went on, that is, what they didn't train again."""
    log = (run / "log.txt").read_text(encoding="utf-8")
    return [int(step) for step in re.findall(r"going on after step (\d+)", log)]


def weights_sha256(run: Path) -> str:
    """Of all weights that the run ended with."""
    files = sorted((run / "final").glob("*.safetensors"))
    assert files, f"{run} ended with no weights"
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def differences(run: Path, uninterrupted: Path) -> list[str]:
    """What a run that was interrupted did otherwise; nothing, as it should be."""
    found = []
    if not (run / "final").is_dir():
        return ["no final weights"]
    if curve(run) != curve(uninterrupted):
        found.append("curve")
    for name in ("samples.jsonl", "generations.jsonl"):
        rows = [
            read_rows(one / name) if (one / name).exists() else [] for one in (run, uninterrupted)
        ]
        if rows[0] != rows[1]:
            found.append(name)
    if weights_sha256(run) != weights_sha256(uninterrupted):
        found.append("SHA-256 of the final weights")
    return found


def checkpoint_steps(run: Path) -> dict[int, str]:
    """Step of each checkpoint under its name -> what is wrong with it, empty where it is whole."""
    faults = {one: atomic.damage(one) for one in (run / "checkpoints").glob("step-*")}
    return {
        int(folder.name.removeprefix("step-")): fault
        for folder, fault in faults.items()
        # It may have been taken away while it was read.
        if folder.is_dir()
    }


def newest_whole(run: Path) -> int:
    """Step of the newest whole checkpoint; 0 where there is none."""
    return max((step for step, fault in checkpoint_steps(run).items() if not fault), default=0)


def num_rows(path: Path) -> int:
    """Lines of a file that may not be there yet."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def listed(failures: Sequence[str]) -> str:
    """The first failures, for a row's notes."""
    shown = "; ".join(failures[:5])
    return f"{shown}; and {len(failures) - 5} more" if len(failures) > 5 else shown


def last_written(path: Path) -> int | None:
    """When somebody last added to the file or cut it, in nanoseconds; None where it isn't there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
