"""A run's state <-> complete, verified checkpoint folders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framework.core import atomic
from framework.core.problems import Problem, Refused, reading
from framework.recipe.schema import BestCheckpoint, Checkpoint
from framework.runs.versions import OPTIONAL, PACKAGES, package_versions

STATE = "state.json"


@dataclass(kw_only=True)
class Progress:
    """How far a run is; everything that its future depends on besides weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    num_tokens: int = 0
    num_trained_tokens: int = 0
    training_seconds: float = 0.0
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    evaluations_without_improvement: int = 0


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after `step` optimizer steps; sorts by step."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path,
    progress: Progress,
    states: Mapping[str, Any],
    data_fingerprint: str,
    save_state: Callable[[Path], None],
    settings: Checkpoint,
    evaluation: Mapping[str, float] | None = None,
    num_processes: int = 1,
) -> Path:
    """Writes one checkpoint, then deletes those that `settings` don't keep.

    Args:
        states: JSON of whatever else goes on from here, by name.
        evaluation: what was measured after the same step.
        num_processes: of the run; kept for the next start, as is what is installed.

    Raises:
        OSError: it can't be written; earlier checkpoints are untouched.
    """

    def make(part: Path) -> None:
        save_state(part)
        state = {
            "progress": asdict(progress),
            "states": states,
            "data_fingerprint": data_fingerprint,
            "evaluation": dict(evaluation or {}),
            "num_processes": num_processes,
            "versions": _versions(),
        }
        (part / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    # Of a process that was killed: nobody else writes here.
    for part in folder.glob(".step-*.part-*"):
        shutil.rmtree(part, ignore_errors=True)
    target = folder / checkpoint_name(progress.step)
    atomic.replace_folder(target, make)
    present = _present(folder)
    kept = _kept(present, settings)
    for path in present:
        if path not in kept:
            _delete(path)
    return target


def newest_checkpoint(folder: Path) -> tuple[Path | None, Sequence[Problem]]:
    """The newest whole checkpoint, and a warning for each damaged one that was set aside."""
    return _first_whole(reversed(_present(folder)), "an older one is used")


def best_checkpoint(folder: Path, best: BestCheckpoint) -> tuple[Path | None, Sequence[Problem]]:
    """The best whole checkpoint of those whose step was evaluated, and a warning for each damaged
    one that was set aside."""
    return _first_whole(_best_first(_present(folder), best), "the next best one is used")


def measured(path: Path, metric: str) -> float:
    """What evaluation found after the step of a checkpoint; NaN where it wasn't evaluated."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return float(state.get("evaluation", {}).get(metric, math.nan))
    except (OSError, ValueError):
        return math.nan


def _first_whole(candidates: Iterable[Path], instead: str) -> tuple[Path | None, Sequence[Problem]]:
    warnings: list[Problem] = []
    for path in candidates:
        fault = atomic.damage(path)
        if not fault:
            return path, warnings
        aside = _set_aside(path)
        warnings.append(
            Problem(
                file=str(path),
                what=f"damaged checkpoint: {fault}",
                hint=f"kept as {aside.name}; {instead}",
            )
        )
    return None, warnings


def read_progress(path: Path, data_fingerprint: str) -> tuple[Progress, Mapping[str, Any]]:
    """(progress, states of scheduler and data) of a checkpoint.

    Raises:
        Refused: it was saved on other data.
    """
    with reading(path / STATE, "how far the run was"):
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        saved_on = state["data_fingerprint"]
        progress, states = Progress(**state["progress"]), state["states"]
    if saved_on != data_fingerprint:
        raise Refused(
            f"{str(path)!r} was saved on other data: rows, template, tokenizer or a version of "
            "what prepares them changed",
            hint="put it back (`state.json` in it names the versions), or write another output.dir",
        )
    return progress, states


def origin_of(path: Path, num_processes: int) -> str:
    """What a run that goes on from a checkpoint has to know of it, as a sentence.

    Args:
        num_processes: of the run that goes on.
    """
    with reading(path / STATE, "what saved it"):
        written = json.loads((path / STATE).read_text(encoding="utf-8"))
        before, now = written.get("versions", {}), _versions()
    changed = [
        f"{name} {before[name]} (now {now.get(name, 'none')})"
        for name in sorted(before)
        if before[name] != now.get(name)
    ]
    line = f"goes on after step {step_of(path)}"
    if written.get("num_processes", num_processes) != num_processes:
        changed.append(f"num_processes {written['num_processes']} (now {num_processes})")
    if changed:
        line += f"; saved with {', '.join(changed)}: numbers may differ in their last bits"
    return line


def _versions() -> dict[str, str]:
    return package_versions((*PACKAGES, *OPTIONAL))


def step_of(path: Path) -> int:
    """Optimizer steps before a checkpoint."""
    return int(path.name.rsplit("-", 1)[1])


def _present(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []


def _kept(present: Sequence[Path], settings: Checkpoint) -> set[Path]:
    kept = set(present[-settings.keep_last :])
    if settings.keep_every is not None:
        kept |= {one for one in present if step_of(one) and step_of(one) % settings.keep_every == 0}
    if settings.keep_best is not None:
        kept |= set(_best_first(present, settings.keep_best)[:1])
    return kept


def _best_first(present: Sequence[Path], best: BestCheckpoint) -> list[Path]:
    """Those whose step was evaluated; of equal ones the oldest first."""
    sign = 1 if best.mode == "min" else -1
    values = {path: sign * measured(path, best.metric) for path in present}
    return sorted(filter(lambda path: math.isfinite(values[path]), present), key=values.__getitem__)


def _delete(path: Path) -> None:
    """Under another name first: what is half deleted is no checkpoint."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.part-old")))


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"damaged-{path.name}-{number}")).exists():
        number += 1
    return path.rename(aside)
