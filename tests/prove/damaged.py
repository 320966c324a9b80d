"""Truncated and bit-flipped checkpoints: every one is found, and the run goes on from the one
before."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from runs_in_processes import write_run

from framework.train import run as train
from prove.rows import Row
from prove.runs import differences, listed
from prove.stopped_runs import go_back

STEPS, EVERY = 12, 4
SECTIONS = {
    "trainer": {"max_steps": STEPS},
    "checkpoint": {"every_steps": EVERY, "keep_last": 3},
    "evaluation": {"every_steps": 6},
}


def truncated(content: bytes, chance: random.Random) -> bytes:
    """Without its end."""
    return content[: chance.randrange(len(content))]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """With one bit turned over."""
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


DAMAGES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "bit-flipped": flipped,
}


def run(folder: Path, model: Path, num_seeds: int = 50) -> Row:
    """One damaged run for each seed, in every fifth of them two damaged checkpoints."""
    recipe = write_run(folder, model, "whole", SECTIONS)
    with contextlib.redirect_stdout(io.StringIO()):
        train(recipe)
    failures, kinds = [], Counter[str]()
    for seed in range(num_seeds):
        chance = random.Random(seed)
        copy = folder / f"damaged-{seed}"
        go_back(folder / "whole", copy, 2 * EVERY)
        harmed = (2 * EVERY, EVERY) if seed % 5 == 4 else (2 * EVERY,)
        done = "".join(_damage(copy, step, chance, kinds) for step in harmed)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                train(recipe, [f"output.dir={copy}"])
        except Exception as error:
            failures.append(f"seed {seed}, {done}: {type(error).__name__}: {error}")
            continue
        wrong = _wrong(copy, said.getvalue(), harmed) + differences(copy, folder / "whole")
        failures += [f"seed {seed}, {done}: {one}" for one in wrong]
        shutil.rmtree(copy)
    files = ", ".join(f"{name} {number}" for name, number in sorted(kinds.items()))
    return Row(
        "Truncated and bit-flipped checkpoint files: each one is named, kept aside and skipped; "
        "the run goes on from the checkpoint before, all as undamaged",
        num_seeds,
        len(failures),
        f"{files}. {listed(failures)}".strip(),
    )


def _damage(run: Path, step: int, chance: random.Random, kinds: Counter[str]) -> str:
    files = sorted((run / "checkpoints" / f"step-{step:08d}").iterdir())
    file, kind = chance.choice(files), chance.choice(list(DAMAGES))
    file.write_bytes(DAMAGES[kind](file.read_bytes(), chance))
    kinds[f"{kind} {file.name}"] += 1
    return f"{kind} {file.name} of step {step} "


def _wrong(run: Path, said: str, harmed: tuple[int, ...]) -> list[str]:
    """What of the damage was not said, or not put aside."""
    log = (run / "log.txt").read_text(encoding="utf-8").rpartition("\nmodel:")[2] + said
    found = []
    for step in harmed:
        if not (run / "checkpoints" / f"damaged-step-{step:08d}-1").is_dir():
            found.append(f"step {step} is not kept aside")
        if f"step-{step:08d}: damaged checkpoint" not in log:
            found.append(f"step {step} is not named")
    if (f"going on after step {EVERY}" in said) is (EVERY in harmed):
        found.append("it went on from another step")
    return found
