"""A run and its replay -> the first step, and number, in which they differ."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.core.atomic import MANIFEST
from framework.core.json_lines import left_out_lines, read_rows, rows_after
from framework.runs.lock_differences import NUMERICS, Difference, Kind

_CAUSES: Mapping[str, tuple[Kind, ...]] = {
    "sample ids": ("row", "setting", "file", "template", "model"),
    "learning rate": ("setting",),
}
"""What can change a number, the likeliest first; every other can be changed by anything."""
_ANY: tuple[Kind, ...] = (
    "setting",
    "row",
    "model",
    "template",
    "file",
    "package",
    "hardware",
)
_NUMBERS: Mapping[str, tuple[str, str]] = {
    "ids": ("sample ids", "sample ids"),
    "learning_rate": ("learning rate", "learning rates"),
    "loss": ("loss", "losses"),
    "grad_norm": ("gradient norm", "gradient norms"),
    "losses": ("loss of", "losses of samples"),
}
"""What is compared of a step, by its key: one of it, and several."""


_FILES = ("samples.jsonl", "metrics.jsonl")
"""Of a run, that have what is compared."""


@dataclass(frozen=True, kw_only=True)
class StepDifference:
    """The first number that is not as it was."""

    step: int
    """0: the weights at the end."""
    name: str
    was: Any
    now: Any
    sample: str = ""
    """The first sample of the step whose loss differs."""

    def __str__(self) -> str:
        place = f"step {self.step}: {self.name}" if self.step else self.name
        sample = f"; the first sample that differs is {self.sample}" if self.sample else ""
        return f"{place} was {self.was}, is {self.now}{sample}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a replay found."""

    num_steps: int
    """Compared, and the same."""
    compared: Mapping[str, int]
    """In how many of these steps both had what of `_NUMBERS`, as several."""
    first: StepDifference | None
    tolerance: float | None
    """Relative, of losses and gradient norms; None: compared bit for bit."""
    largest: float
    """The largest relative difference of a loss or a gradient norm."""
    sees_updates: bool
    """Whether weights, or losses of a step after the first, were compared, and so what an
    optimizer step does."""
    same_weights: bool | None
    """None where one of the two has no final weights."""
    known: tuple[Difference, ...]
    """What was found before training."""
    unread: tuple[str, ...] = ()
    """Lines of the two that can't be read, and so weren't compared."""

    @property
    def same(self) -> bool:
        """Whether the run was repeated."""
        return self.first is None

    @property
    def cause(self) -> Difference | None:
        """What most likely made the first difference; None where nothing is known."""
        if self.first is None:
            return None
        order = [*_CAUSES.get(self.first.name, ()), *_ANY]
        return min(self.known, key=lambda one: order.index(one.kind), default=None)

    def lines(self) -> Iterator[str]:
        """What a user reads."""
        yield from self.unread
        if self.first is not None:
            yield f"different: {self.first}"
            if self.cause is not None:
                yield f"likely cause: {self.cause}"
            else:
                yield "no cause is known: recipe, data, model, packages and hardware are the same"
            return
        steps = f"{self.num_steps:,} step{'s' * (self.num_steps != 1)}"
        how = "bit for bit"
        if self.largest:
            how = f"within {self.tolerance:g} (largest difference {self.largest:.2g})"
        yield f"the same {how} in {steps}: {self._compared_in(self.num_steps)}"
        for number in sorted({*self.compared.values()} - {self.num_steps}, reverse=True):
            which = f"{number:,} of them" if number else "none of them, and so not compared"
            yield f"  in {which}: {self._compared_in(number)}"
        if self.same_weights is None:
            yield "final weights: not compared, one of the runs has none"
        elif self.same_weights:
            yield "final weights: the same bit for bit"
        else:
            yield "final weights: not bit for bit the same"
        effect = "made no difference"
        if not self.sees_updates:
            effect = "may make a difference that was not compared"
        for one in self.known:
            yield f"{effect}: {one}"

    def _compared_in(self, num_steps: int) -> str:
        return ", ".join(name for name, number in self.compared.items() if number == num_steps)

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        first = None if self.first is None else vars(self.first)
        return {
            "same": self.same,
            "num_steps": self.num_steps,
            "compared": dict(self.compared),
            "sees_updates": self.sees_updates,
            "first": first,
            "likely_cause": None if self.cause is None else vars(self.cause),
            "tolerance": self.tolerance,
            "largest_difference": self.largest,
            "same_weights": self.same_weights,
            "known": [vars(one) for one in self.known],
            "unread": list(self.unread),
        }


def compare_runs(
    run: Path,
    replay: Path,
    known: Sequence[Difference],
    tolerance: float,
    num_steps: int | None = None,
) -> Comparison:
    """Holds the steps of a replay against those of its run, bit for bit unless other packages or
    hardware are known.

    Args:
        tolerance: for what then differs in its last digits.
        num_steps: only so many were asked for.
    """
    within = _within(known, tolerance)
    (was, unread), (now, unread_now) = (_steps(folder) for folder in (run, replay))
    steps = [step for step in was if num_steps is None or step <= num_steps]
    compared = dict.fromkeys((several for _, several in _NUMBERS.values()), 0)
    first, largest, num_same, sees_updates = None, 0.0, 0, False
    for step in steps:
        if step not in now:
            first = StepDifference(step=step, name="step", was="done", now="not done")
            break
        found, size = _first_difference(step, was[step], now[step], within)
        largest = max(largest, size)
        left_out = [bool(one.get("left_out")) for one in (was[step], now[step])]
        if found is None and left_out[0] != left_out[1]:
            found = StepDifference(step=step, name="left out", was=left_out[0], now=left_out[1])
        if found is not None:
            first = found
            break
        num_same += 1
        for key in _in_both(was[step], now[step]):
            compared[_NUMBERS[key][1]] += 1
            sees_updates |= key in ("loss", "losses") and step > steps[0]
    same_weights = None
    if first is None and (num_steps is None or num_steps >= max(was, default=0)):
        first, same_weights = _weights(run, replay, exact=within is None)
    return Comparison(
        num_steps=num_same,
        compared=compared,
        first=first,
        tolerance=within,
        largest=largest,
        sees_updates=sees_updates or same_weights is not None,
        same_weights=same_weights,
        known=tuple(known),
        unread=(*unread, *unread_now),
    )


class RunningComparison:
    """Holds the steps of a replay against those of its run while they are written."""

    def __init__(
        self, run: Path, replay: Path, known: Sequence[Difference], tolerance: float
    ) -> None:
        """
        Args:
            tolerance: see `compare_runs`.
        """
        self._within = _within(known, tolerance)
        self._was, _ = _steps(run)
        self._replay = replay
        self._last_step = 0
        self._has_differed = False

    def has_differed(self) -> bool:
        """Whether a step was not as it was, of those that were written up to now."""
        samples, metrics = (rows_after(self._replay / name, self._last_step) for name in _FILES)
        for step, now in _joined(samples, metrics).items():
            self._last_step = max(self._last_step, step)
            if step in self._was:
                found, _ = _first_difference(step, self._was[step], now, self._within)
                self._has_differed |= found is not None
        return self._has_differed


def last_step(run: Path) -> int:
    """The last optimizer step that the run did; 0 for none."""
    steps, _ = _steps(run)
    return max(steps, default=0)


def _within(known: Sequence[Difference], tolerance: float) -> float | None:
    """What numbers may differ by; None: by nothing."""
    return tolerance if any(one.kind in NUMERICS for one in known) else None


def _steps(run: Path) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """(What `_joined` says of a run's files, which of their lines can't be read)."""
    rows: list[Sequence[Mapping[str, Any]]] = []
    unread: list[str] = []
    for name in _FILES:
        found, broken = read_rows(run / name)
        rows.append(found)
        unread += [f"{run}/{line}" for line in left_out_lines(run / name, broken)]
    samples, metrics = rows
    return _joined(samples, metrics), unread


def _joined(
    samples: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Step -> what it saw, and its numbers if they were logged."""
    found = {row["step"]: dict(row) for row in samples}
    for row in metrics:
        if "loss" in row and row["step"] in found:
            found[row["step"]] |= row
    return found


def _in_both(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys of what can be compared of a step."""
    return [key for key in _NUMBERS if key in was and key in now]


def _first_difference(
    step: int, was: Mapping[str, Any], now: Mapping[str, Any], within: float | None
) -> tuple[StepDifference | None, float]:
    """(The first number of a step that differs, the largest relative difference)."""
    largest = 0.0
    for key in _in_both(was, now):
        for name, one, other, size in _pairs(key, was, now):
            if math.isfinite(size):
                largest = max(largest, size)
            if size > (within or 0.0):
                sample = _first_sample(was, now) if key in ("loss", "grad_norm") else ""
                found = StepDifference(step=step, name=name, was=one, now=other, sample=sample)
                return found, largest
    return None, largest


def _pairs(
    key: str, was: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any, float]]:
    """(Name, what it was, what it is, relative difference) of what a key has; ids and learning
    rates are the same or not, whatever the tolerance."""
    name, one, other = _NUMBERS[key][0], was[key], now[key]
    if key == "losses":
        # One that is small beside the others may be anything within their last digits.
        mean = statistics.fmean([abs(loss) for loss in one if loss is not None] or [0.0])
        for sample, before, after in zip(was["ids"], one, other, strict=False):
            yield f"{name} {sample}", before, after, _relative(before, after, mean)
    elif key in ("loss", "grad_norm"):
        yield name, one, other, _relative(one, other)
    elif one != other:
        before, after = _first_ids(one, other) if key == "ids" else (one, other)
        yield name, before, after, math.inf


def _relative(was: float | None, now: float | None, scale: float = 0.0) -> float:
    """The difference of two numbers, relative to the larger or to `scale`, if that is larger
    still; infinite where only one of them is a number."""
    numbers = [one for one in (was, now) if one is not None and math.isfinite(one)]
    if len(numbers) < 2:
        return 0.0 if str(was) == str(now) else math.inf
    one, other = numbers
    return abs(one - other) / max(abs(one), abs(other), scale) if one != other else 0.0


def _first_ids(was: Sequence[str], now: Sequence[str]) -> tuple[str, str]:
    pairs = enumerate(zip(was, now, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(was), len(now)))
    return _around(was, at), _around(now, at)


def _around(ids: Sequence[str], at: int) -> str:
    shown = ", ".join(ids[at : at + 3])
    return f"[{'..., ' * (at > 0)}{shown}{', ...' * (at + 3 < len(ids))}]"


def _first_sample(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    both = zip(was["ids"], was.get("losses") or (), now.get("losses") or (), strict=False)
    return next((f"{name} with loss {now}, was {was}" for name, was, now in both if was != now), "")


def _weights(run: Path, replay: Path, *, exact: bool) -> tuple[StepDifference | None, bool | None]:
    """(The difference in the final weights, whether they are the same)."""
    was, now = (_weight_hashes(folder) for folder in (run, replay))
    if was is None or now is None:
        return None, None
    for name in sorted(was.keys() | now.keys()):
        one, other = was.get(name), now.get(name)
        if one != other:
            named = f"SHA-256 of final/{name}"
            first = StepDifference(step=0, name=named, was=_short(one), now=_short(other))
            return (first if exact else None), False
    return None, True


def _weight_hashes(run: Path) -> dict[str, str] | None:
    path = run / "final" / MANIFEST
    if not path.is_file():
        return None
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return {name: one["sha256"] for name, one in files.items() if name.endswith(".safetensors")}


def _short(sha256: str | None) -> str:
    return "absent" if sha256 is None else sha256[:16]
