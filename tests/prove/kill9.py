"""`kill -9` at random moments: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from conftest import read_rows
from runs_in_processes import write_run

from prove.rows import Row
from prove.runs import (
    checkpoint_steps,
    differences,
    last_written,
    listed,
    newest_whole,
    num_rows,
    train,
)

STEPS, EVALUATE_EVERY, SAVE_EVERY, NUM_GENERATIONS = 48, 4, 3, 2
SECTIONS = {
    "trainer": {"global_batch_size": 4, "micro_batch_size": 2, "max_steps": STEPS},
    "evaluation": {
        "every_steps": EVALUATE_EVERY,
        "num_generations": NUM_GENERATIONS,
        "max_new_tokens": 4,
    },
    "checkpoint": {"every_steps": SAVE_EVERY, "keep_last": 2},
}
NUM_PREPARED = 2
"""Folders that the data of this recipe is prepared in."""
LONGEST_SECONDS = {
    "claiming the folder": 0.3,
    "writing what run it is": 0.0,
    "preparing data": 0.25,
    "starting": 0.7,
    "training": 0.03,
    "evaluating": 0.03,
    "saving": 0.02,
    "exporting": 0.02,
}
"""Moment -> how long after the first sign of it a process is killed at the latest."""
WAIT_SECONDS = 120


@dataclass
class Attacked:
    """A run that is killed again and again, and has its own prepared data."""

    recipe: Path
    run: Path
    chance: random.Random
    moments: Counter[str] = field(default_factory=Counter)
    """What the kills really hit, by what was left behind."""
    failures: list[str] = field(default_factory=list)
    num_resumes: int = 0
    """Starts that said from where they went on."""

    @property
    def cache(self) -> Path:
        """Where its data is prepared."""
        return self.run.with_suffix(".cache")

    def kill(self, wanted: str) -> None:
        """Starts it, and kills it about then."""
        before, known = newest_whole(self.run), _Known.now(self.run)
        sign = self._sign(wanted, before, known)
        delay = self.chance.uniform(0, LONGEST_SECONDS[wanted])
        process = train(self.recipe, f"output.dir={self.run}", XDG_CACHE_HOME=str(self.cache))
        deadline = time.monotonic() + WAIT_SECONDS
        while not sign() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        said, _ = process.communicate()
        if process.returncode != -signal.SIGKILL:
            self._fail(f"{wanted}: ended with {process.returncode}: {said[-300:]}")
            return
        self.moments[self._moment(before, known)] += 1
        self._look_at_start(said, before)
        faults = [f"step {step}: {fault}" for step, fault in checkpoint_steps(self.run).items()]
        for fault in faults:
            if not fault.endswith(": "):
                self._fail(f"{wanted}: a partial checkpoint under its name, {fault}")
        if newest_whole(self.run) < before:
            self._fail(f"{wanted}: the checkpoint of step {before} is lost")

    def finish(self, uninterrupted: Path) -> None:
        """Lets it end, and compares."""
        before = newest_whole(self.run)
        process = train(self.recipe, f"output.dir={self.run}", XDG_CACHE_HOME=str(self.cache))
        said, _ = process.communicate()
        if process.returncode != 0:
            self._fail(f"the last start ended with {process.returncode}: {said[-300:]}")
            return
        self._look_at_start(said, before)
        for name in differences(self.run, uninterrupted):
            self._fail(f"other {name}")

    def _sign(self, wanted: str, done: int, known: _Known) -> Callable[[], bool]:
        """Whether it is about to be in that."""
        run, step = self.run, done + self.chance.randint(1, 2 * SAVE_EVERY)
        due = -(-step // EVALUATE_EVERY) * EVALUATE_EVERY

        def has_done(steps: int) -> bool:
            rows = num_rows(run / "samples.jsonl")
            return rows >= min(steps, STEPS) and known.samples != last_written(
                run / "samples.jsonl"
            )

        signs: dict[str, Callable[[], bool]] = {
            "claiming the folder": (run / ".lock").exists,
            # Over in a moment: where that was missed, what comes after it.
            "writing what run it is": lambda: (
                any(run.glob(".settings.json.*")) or (run / "settings.json").exists()
            ),
            "training": lambda: has_done(step),
            "evaluating": lambda: has_done(due),
            "saving": lambda: bool(_parts(run, "checkpoints/.step-*") - known.parts),
            "exporting": lambda: (
                bool(_parts(run, ".final.*") - known.parts) or (run / "final").exists()
            ),
        }
        began = run / "environment.json"
        return signs.get(wanted, lambda: last_written(began) not in {None, known.environment})

    def _moment(self, done: int, known: _Known) -> str:
        """What the process was in when it was killed."""
        prepared = list(self.cache.glob("framework/data/*/manifest.json"))
        if not (self.run / "settings.json").exists():
            is_writing = any(self.run.glob(".settings.json.*"))
            return "writing what run it is" if is_writing else "claiming the folder"
        if len(prepared) < NUM_PREPARED:
            return "preparing data"
        if _parts(self.run, "checkpoints/.step-*") - known.parts:
            return "saving"
        if _parts(self.run, ".final.*") - known.parts or (self.run / "final").exists():
            return "exporting"
        samples = self.run / "samples.jsonl"
        if num_rows(samples) <= done or last_written(samples) == known.samples:
            return "starting"
        return "evaluating" if self._is_evaluating() else "training"

    def _is_evaluating(self) -> bool:
        lines = (self.run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        step = len([line for line in lines if '"loss"' in line])
        answers = self.run / "generations.jsonl"
        due = NUM_GENERATIONS * (step // EVALUATE_EVERY)
        return step % EVALUATE_EVERY == 0 and num_rows(answers) < due

    def _look_at_start(self, said: str, newest: int) -> None:
        found = re.search(r"going on after step (\d+)", said)
        self.num_resumes += found is not None
        if found is not None and int(found[1]) != newest:
            self._fail(f"went on from step {found[1]}, not {newest}")
        if "damaged" in said:
            self._fail(f"found a damaged checkpoint: {said[-300:]}")

    def _fail(self, what: str) -> None:
        self.failures.append(f"{self.run.name}, kill {self.moments.total()}: {what}")


@dataclass(frozen=True)
class _Known:
    """What was there before a start, by which what it does itself is told apart."""

    samples: int | None
    environment: int | None
    parts: frozenset[Path]

    @staticmethod
    def now(run: Path) -> _Known:
        parts = _parts(run, "checkpoints/.step-*") | _parts(run, ".final.*")
        samples, environment = run / "samples.jsonl", run / "environment.json"
        return _Known(last_written(samples), last_written(environment), parts)


def _parts(run: Path, pattern: str) -> frozenset[Path]:
    return frozenset(run.glob(pattern))


def run(folder: Path, model: Path, num_kills: int = 200, seed: int = 0) -> Row:
    """Kills runs of the same recipe, each several times, and lets each of them end."""
    recipe = write_run(folder, model, "uninterrupted", SECTIONS)
    process = train(recipe)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert len(read_rows(folder / "uninterrupted" / "samples.jsonl")) == STEPS
    attacked: list[Attacked] = []
    while (left := num_kills - sum(one.moments.total() for one in attacked)) > 0:
        assert len(attacked) < num_kills, attacked[-1].failures
        name = f"run-{len(attacked)}"
        one = Attacked(recipe, folder / name, random.Random(f"{seed} {name}"))
        between = ["training", "saving", "evaluating", "starting"]
        between += [one.chance.choice(between) for _ in range(3)]
        first = one.chance.choice(["claiming the folder", "writing what run it is"])
        wanted = [first, "preparing data", *between]
        for moment in [*wanted[: left - 1], "exporting"]:
            one.kill(moment)
        one.finish(folder / "uninterrupted")
        attacked.append(one)
    moments = sum((one.moments for one in attacked), Counter())
    failures = [failure for one in attacked for failure in one.failures]
    hit = ", ".join(f"{moment} {number}" for moment, number in moments.most_common())
    resumes = sum(one.num_resumes for one in attacked)
    what = "no whole checkpoint lost, no partial one used, all as uninterrupted"
    return Row(
        f"`kill -9` at random moments of {len(attacked)} runs: {what}",
        moments.total(),
        len(failures),
        f"while {hit}; {resumes} starts went on from a checkpoint. {listed(failures)}".strip(),
    )
