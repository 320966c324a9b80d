"""How a contender and the harness talk: a job on the command line, messages on stdout, turns.

Contenders of one run are processes that wait for each other: each does one optimizer step when it
is told to, so that whatever else the machine does meets all of them alike. Needs Python alone,
since every contender imports it in its own environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PREFIX = "BENCHMARK "
"""Begins a line on stdout that is a message; libraries print others."""
GO = "go"
"""What the harness says to a contender that takes turns; when it goes away, the contender ends."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a contender is asked to do."""

    folder: str
    """Its own, empty."""
    model: str
    """Folder in Hugging Face layout."""
    rows: str
    """JSON Lines: `messages`, or `prompt`, `chosen` and `rejected`, each a list of messages; for a
    preparation `instruction`, `input` and `output`."""
    method: str = "sft"
    """`sft` or `dpo`."""
    adapter: str = "lora"
    """`lora` or `full`."""
    max_length: int = 512
    """Longest row, and size of a pack."""
    packing: bool = False
    step_size: int = 4
    """Rows, pairs or packs of an optimizer step."""
    micro_batch_size: int | None = 4
    """Of a forward pass; None: what the contender chooses itself."""
    dtype: str = "auto"
    """Of the weights that are loaded; `auto` is what the contender chooses itself."""
    autocast: bool = True
    """Whether matrix products are computed in bfloat16 whatever the weights are."""
    gradient_checkpointing: bool = False
    share_prefixes: bool = True
    """Whether this framework may compute once what rows have in common."""
    variant: str = ""
    """What else is to be said to one contender alone."""

    @property
    def num_accumulation_steps(self) -> int:
        """Forward passes of an optimizer step."""
        assert self.micro_batch_size is not None and self.step_size % self.micro_batch_size == 0
        return self.step_size // self.micro_batch_size


NUM_STEPS = 1000
"""Optimizer steps of a run, more than any harness asks for: it ends the contender."""
LEARNING_RATE = 2e-4
"""Constant, so that the number of steps changes nothing."""
LORA_RANK, LORA_ALPHA = 16, 32
"""On every linear layer but the head, without dropout."""
DPO_BETA = 0.1


def read_job() -> Job:
    """The job in the file that the command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def read_rows(job: Job) -> list[dict[str, Any]]:
    """The job's rows."""
    text = Path(job.rows).read_text(encoding="utf-8")
    # Not splitlines(): text may hold U+2028, which is no end of a line here.
    return [json.loads(line) for line in text.split("\n") if line]


def say(kind: str, **facts: Any) -> None:
    """A message to the harness."""
    print(f"\n{PREFIX}{json.dumps({'kind': kind, **facts})}", flush=True)


class Turns:
    """The steps of a training, each done when the harness says so.

    Args:
        packages: whose versions are reported, as PyPI names them.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._versions = {name: version(name) for name in packages}
        self._cpu = self._wall = 0.0

    def begin(self, **facts: Any) -> None:
        """All is loaded and prepared; waits for the first turn.

        Args:
            facts: what the table shows of this contender, such as dtypes.
        """
        say("ready", cpu_seconds=cpu_seconds(), versions=self._versions, **facts)
        self._wait()

    def end_step(self, *, num_tokens: int, loss: float, **facts: Any) -> None:
        """An optimizer step is done, over rows of `num_tokens` tokens; waits for the next turn."""
        spent = {
            "cpu_seconds": time.process_time() - self._cpu,
            "wall_seconds": time.monotonic() - self._wall,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        say("step", num_tokens=num_tokens, loss=loss, **spent, **facts)
        self._wait()

    def _wait(self) -> None:
        if sys.stdin.readline().strip() != GO:
            # What a run writes at its end is nobody's speed.
            os._exit(0)
        self._cpu, self._wall = time.process_time(), time.monotonic()


@dataclass
class Work:
    """What was done in one go; filled by the contender."""

    num_rows: int = 0
    num_tokens: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def measured(packages: Sequence[str]) -> Iterator[Work]:
    """Measures this process and its children while they do one piece of work, and says so."""
    work = Work()
    cpu, wall = cpu_seconds(), time.monotonic()
    yield work
    say(
        "done",
        cpu_seconds=cpu_seconds() - cpu,
        wall_seconds=time.monotonic() - wall,
        peak_rss_bytes=peak_rss_bytes(),
        num_rows=work.num_rows,
        num_tokens=work.num_tokens,
        versions={name: version(name) for name in packages},
        **work.facts,
    )


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in times)


def peak_rss_bytes() -> int:
    """Of this process so far; unlike `ru_maxrss`, not of the one that started it."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:", 1)[1].split()[0]) * 1024
