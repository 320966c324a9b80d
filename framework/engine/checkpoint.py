"""A run's state <-> complete, verified checkpoint folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framework.core import atomic
from framework.core.problems import Problem, Refused

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
    keep_last: int,
) -> Path:
    """Writes one checkpoint, then deletes the oldest beyond `keep_last`.

    Args:
        states: JSON of whatever else goes on from here, by name.

    Raises:
        OSError: it can't be written; earlier checkpoints are untouched.
    """

    def make(part: Path) -> None:
        save_state(part)
        state = {
            "progress": asdict(progress),
            "states": states,
            "data_fingerprint": data_fingerprint,
        }
        (part / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    target = folder / checkpoint_name(progress.step)
    atomic.replace_folder(target, make)
    for old in _present(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path) -> tuple[Path | None, Sequence[Problem]]:
    """The newest whole checkpoint, and a warning for each damaged one that was set aside."""
    warnings: list[Problem] = []
    for path in reversed(_present(folder)):
        fault = atomic.damage(path)
        if not fault:
            return path, warnings
        aside = _set_aside(path)
        warnings.append(
            Problem(
                file=str(path),
                what=f"damaged checkpoint: {fault}",
                hint=f"kept as {aside.name}; an older one is used",
            )
        )
    return None, warnings


def read_progress(path: Path, data_fingerprint: str) -> tuple[Progress, Mapping[str, Any]]:
    """(progress, states of scheduler and data) of a checkpoint.

    Raises:
        Refused: it was saved on other data.
    """
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if state["data_fingerprint"] != data_fingerprint:
        raise Refused(
            f"{str(path)!r} was saved on other data: rows, template or tokenizer changed",
            hint="put the data back, or write another output.dir",
        )
    return Progress(**state["progress"]), state["states"]


def _present(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"damaged-{path.name}-{number}")).exists():
        number += 1
    return path.rename(aside)
