"""`torchrun` and `accelerate launch` with restarts: killed processes start again, and go on."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runs_in_processes import write_run
from warm_start import FRAMEWORK, run_group

from prove.rows import Row
from prove.runs import (
    checkpoint_steps,
    differences,
    last_written,
    listed,
    newest_whole,
    num_rows,
    resumed_after,
)

STEPS, SAVE_EVERY = 40, 3
SECTIONS = {
    "trainer": {"global_batch_size": 4, "micro_batch_size": 2, "max_steps": STEPS},
    "checkpoint": {"every_steps": SAVE_EVERY, "keep_last": 2},
    "evaluation": {"every_steps": 20, "num_generations": 1, "max_new_tokens": 2},
}
MOMENTS = ("starting", "before the first step", "training", "saving")
NUM_PROCESSES, WAIT_SECONDS = 2, 120
TORCHRUN = [
    *("torch.distributed.run", "--no-python", "--nnodes=1", f"--nproc-per-node={NUM_PROCESSES}"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--monitor-interval=0.1"),
]
ACCELERATE = [
    *("accelerate.commands.launch", "--no_python", "--multi_gpu", "--num_machines=1"),
    *(f"--num_processes={NUM_PROCESSES}", "--mixed_precision=no", "--dynamo_backend=no"),
    *("--main_process_port=0", "--monitor_interval=0.1"),
]
LAUNCHERS = {
    "torchrun --rdzv-backend c10d": TORCHRUN,
    "accelerate launch": ACCELERATE,
    "accelerate launch --rdzv_backend c10d": [*ACCELERATE, "--rdzv_backend=c10d"],
}
"""What a user writes -> the modules' command lines, without how often they start again."""


@dataclass
class Restarted:
    """A run under a launcher, whose processes are killed one after the other."""

    launcher: str
    recipe: Path
    run: Path
    chance: random.Random
    num_kills: int
    moments: Counter[str] = field(default_factory=Counter)
    """What the kills really hit."""
    failures: list[str] = field(default_factory=list)

    def to_the_end(self) -> None:
        """Kills as often as wanted, and lets it end."""
        command = [sys.executable, "-m", *LAUNCHERS[self.launcher]]
        command += [f"--max_restarts={self.num_kills}"]
        command += [*FRAMEWORK, "train", str(self.recipe), f"output.dir={self.run}"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        with tempfile.TemporaryFile("w+") as output:
            agent = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                before: set[int] = set()
                for number in range(self.num_kills):
                    before = self._kill(agent, number, before)
                code = agent.wait(WAIT_SECONDS)
            finally:
                agent.kill()
                agent.wait()
            output.seek(0)
            said = output.read()
        if code or self.failures:
            self.failures.append(f"ended with {code}: {said[-2500:]}")

    def _kill(self, agent: subprocess.Popen[bytes], number: int, before: set[int]) -> set[int]:
        """Kills one of the processes that came after `before`; all that there were then."""
        moment = MOMENTS[number % len(MOMENTS)]
        started: set[int] = set()

        def all_started() -> bool:
            nonlocal started
            started = _children(agent.pid) - before
            return len(started) == NUM_PROCESSES

        self._until(all_started, agent)
        if not started:
            self.failures.append(f"{moment}: there was no start {number}")
            return before
        done, samples = newest_whole(self.run), self.run / "samples.jsonl"
        known = {path.name for path in self._parts()}
        # After the next checkpoint.
        wanted = done + SAVE_EVERY + self.chance.randint(1, SAVE_EVERY)
        mark = last_written(self.run / "environment.json")
        meanwhile = time.monotonic() + self.chance.uniform(0, 0.5)
        signs: dict[str, Callable[[], bool]] = {
            "starting": lambda: time.monotonic() > meanwhile,
            # Written when the processes have found each other.
            "before the first step": lambda: last_written(self.run / "environment.json") != mark,
            "training": lambda: num_rows(samples) >= wanted,
            "saving": lambda: any(path.name not in known for path in self._parts()),
        }
        self._until(signs[moment], agent)
        # Passed on to the process that trains, which it ends where it is, as SIGKILL would.
        try:
            os.kill(self.chance.choice(sorted(started)), signal.SIGUSR2)
        except ProcessLookupError:
            self.failures.append(f"{moment}: start {number} had ended by itself")
        self.moments[self._moment(moment, done, known)] += 1
        faults = {step: fault for step, fault in checkpoint_steps(self.run).items() if fault}
        if faults:
            self.failures.append(f"{moment}: partial checkpoints {faults}")
        return before | started

    def _moment(self, wanted: str, done: int, known: set[str]) -> str:
        """What they were in, by what is left behind."""
        if any(path.name not in known for path in self._parts()):
            return "saving"
        if num_rows(self.run / "samples.jsonl") > done:
            return "training"
        return wanted if wanted in MOMENTS[:2] else MOMENTS[1]

    def _parts(self) -> list[Path]:
        """Checkpoints that are being written."""
        return list((self.run / "checkpoints").glob(".step-*"))

    def _until(self, sign: Callable[[], bool], agent: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not sign() and agent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)


def _children(pid: int) -> set[int]:
    """Processes that this one started, whichever of its threads did."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # Of a thread that ended meanwhile.
            found |= set(map(int, path.read_text().split()))
    return {one for one in found if "warm_start" in _command_line(one)}


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def run(folder: Path, model: Path, num_runs: int = 2, num_kills: int = 4) -> Row:
    """Runs of two processes under each launcher, each of which is killed so often."""
    recipe = write_run(folder, model, "uninterrupted", SECTIONS)
    group = run_group(["train", str(recipe)], NUM_PROCESSES)
    assert set(group.codes) == {0}, group.output
    failures: list[str] = []
    moments: Counter[str] = Counter()
    resumes = 0
    for launcher, number in itertools.product(LAUNCHERS, range(num_runs)):
        name = f"{launcher} {number}"
        chance = random.Random(name)
        one = Restarted(launcher, recipe, folder / name.replace(" ", "-"), chance, num_kills)
        one.to_the_end()
        found = one.failures or differences(one.run, folder / "uninterrupted")
        failures += [f"{name}: {what}" for what in found]
        moments += one.moments
        resumes += len(resumed_after(one.run))
    if not resumes:
        failures.append("no start went on from a checkpoint")
    hit = ", ".join(f"{moment} {number}" for moment, number in moments.most_common())
    launchers = ", ".join(f"`{launcher}`" for launcher in LAUNCHERS)
    return Row(
        f"{launchers}, each with `--max_restarts`, one of {NUM_PROCESSES} processes killed "
        f"{num_kills} times in each of {num_runs} runs: all start again and go on by themselves, "
        "none starts more often than it was killed; all as uninterrupted, SHA-256 of the weights "
        "too",
        moments.total(),
        len(failures),
        f"while {hit}; {resumes} starts went on from a checkpoint. {listed(failures)}".strip(),
    )
