"""Saved on n processes, gone on with on m: the same samples, the same curve."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from conftest import read_rows
from runs_in_processes import column, write_run
from warm_start import run_group

from prove.rows import Row
from prove.runs import listed, resumed_after
from prove.stopped_runs import StoppedRun, train

PROGRAM = Path(__file__).with_name("stopped_runs.py")
STEPS, SAVED = 12, 6
CLOSE = 1e-6
"""Losses of float32 weights; processes add the same numbers in another order."""
NUMBERS = (1, 2, 4)
CHAIN = ((4, 3), (2, 6), (1, 9), (4, STEPS))
"""(processes, step up to which they train), one after the other."""
STRATEGIES = ("ddp", "fsdp", "deepspeed")
SECTIONS = {
    "trainer": {"max_steps": STEPS, "micro_batch_size": 2},
    "checkpoint": {"every_steps": 3, "keep_last": 4},
    "evaluation": {"every_steps": 6},
}


def run(folder: Path, model: Path, strategies: Sequence[str] = STRATEGIES) -> Row:
    """Every pair of numbers of processes, and a chain of them, with every strategy."""
    recipe = write_run(folder, model, "recipe", SECTIONS)
    for num_processes, runs in _groups(folder, recipe, strategies):
        if num_processes == 1:
            with contextlib.redirect_stdout(io.StringIO()):
                for one in runs:
                    train(one)
        else:
            _launch(folder, runs, num_processes)
    failures, worst = [], dict.fromkeys(strategies, 0.0)
    for name, (strategy, whole) in _compared(strategies).items():
        wrong, difference = _wrong(folder / name, folder / whole)
        saved = [step for _, step in CHAIN[:-1]] if "chain" in name else [SAVED]
        if resumed_after(folder / name) != saved:
            wrong.append(f"went on after {resumed_after(folder / name)}, not {saved}")
        failures += [f"{name}: {one}" for one in wrong]
        worst[strategy] = max(worst[strategy], difference)
    largest = ", ".join(f"{name} {difference:.1e}" for name, difference in worst.items())
    chain = " -> ".join(str(number) for number, _ in CHAIN)
    return Row(
        f"Saved on n processes, gone on with on m, n and m in {NUMBERS}, and {chain}, with "
        f"{', '.join(strategies)}: same samples in each step, losses within {CLOSE:.0e}",
        len(_compared(strategies)),
        len(failures),
        f"largest difference of a loss: {largest}. {listed(failures)}".strip(),
    )


def _launch(folder: Path, runs: Sequence[StoppedRun], num_processes: int) -> None:
    listed = folder / "runs.json"
    listed.write_text(json.dumps(list(map(asdict, runs))), encoding="utf-8")
    group = run_group(["--run", str(PROGRAM), str(listed)], num_processes)
    assert set(group.codes) == {0}, group.output


def _groups(
    folder: Path, recipe: Path, strategies: Sequence[str]
) -> Iterator[tuple[int, list[StoppedRun]]]:
    """Runs of as many processes, in an order in which each finds what it goes on from."""

    def whole(strategy: str, number: int) -> StoppedRun:
        return start(f"{strategy}-{number}", strategy, number)

    def goes_on(strategy: str, saved: int, number: int) -> StoppedRun:
        name, copied = f"{strategy}-{saved}-to-{number}", f"{strategy}-{saved}"
        return start(name, strategy, number, copied, SAVED)

    def link(strategy: str, place: int) -> StoppedRun:
        before = f"{strategy}-chain-{place - 1}" if place > 1 else f"{strategy}-{CHAIN[0][0]}"
        number, step = CHAIN[place][0], CHAIN[place - 1][1]
        return start(f"{strategy}-chain-{place}", strategy, number, before, step)

    def start(
        name: str, strategy: str, number: int, copied: str = "", copied_step: int = 0
    ) -> StoppedRun:
        # One process shares nothing out.
        chosen = strategy if number > 1 else "ddp"
        return StoppedRun(
            recipe=str(recipe),
            overrides=[f"strategy={chosen}"],
            output_dir=str(folder / name),
            copy_of=str(folder / copied) if copied else "",
            copied_step=copied_step,
        )

    def each(number: int, saved: Sequence[int], place: int) -> list[StoppedRun]:
        found = [goes_on(one, before, number) for one in strategies for before in saved]
        return found + [link(one, place) for one in strategies if place]

    yield 4, [whole(one, 4) for one in strategies]
    yield 2, [*(whole(one, 2) for one in strategies), *each(2, (2, 4), 1)]
    yield 1, [*(whole(one, 1) for one in strategies), *each(1, NUMBERS, 2)]
    yield 4, each(4, NUMBERS, 3)
    yield 2, each(2, (1,), 0)


def _compared(strategies: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Run that went on -> its strategy, and the uninterrupted run that it began as."""
    found = {
        f"{strategy}-{saved}-to-{number}": (strategy, f"{strategy}-{saved}")
        for strategy in strategies
        for saved in NUMBERS
        for number in NUMBERS
    }
    last = len(CHAIN) - 1
    return found | {f"{one}-chain-{last}": (one, f"{one}-{CHAIN[0][0]}") for one in strategies}


def _wrong(run: Path, whole: Path) -> tuple[list[str], float]:
    """What is otherwise, and the largest difference of a loss."""
    found, largest = [], 0.0
    if _samples(run) != _samples(whole):
        found.append("other samples")
    for name, number in (("loss", STEPS), ("eval_loss", 2)):
        ours, theirs = column(run, name), column(whole, name)
        if not len(ours) == len(theirs) == number:
            found.append(f"{len(ours)} and {len(theirs)} numbers of {name}")
            continue
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        largest = max(largest, apart)
        if apart > CLOSE:
            found.append(f"{name} {apart:.1e} apart")
    return found, largest


def _samples(run: Path) -> list[tuple[int, list[str]]]:
    return [(row["step"], row["ids"]) for row in read_rows(run / "samples.jsonl")]
