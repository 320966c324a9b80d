"""Short runs of one process and of several, so that they can be held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from conftest import conversation, read_rows, write_rows
from warm_start import run_group

STEPS, HALFWAY = 20, 10
SAME = 1e-5
"""Differences in float32: processes add the same numbers in another order."""


def write_run(folder: Path, model: Path, name: str, sections: Mapping[str, Any]) -> Path:
    """A recipe of 20 steps with an evaluation, answers and a checkpoint after each 10."""
    rows = [conversation(number) for number in range(20)]
    write_rows(folder / "train.jsonl", rows[:16])
    # One more than two processes can share.
    write_rows(folder / "eval.jsonl", rows[16:19])
    values: dict[str, Any] = {
        "model": {"source": str(model), "dtype": "float32"},
        "data": {
            "train": [{"source": "./train.jsonl"}],
            "eval": [{"source": "./eval.jsonl"}],
            "test": [{"source": "./eval.jsonl"}],
            "max_length": 128,
            "packing": False,
        },
        "trainer": {"global_batch_size": 8, "max_steps": STEPS, "learning_rate": 1e-3},
        "evaluation": {"every_steps": HALFWAY, "num_generations": 3, "max_new_tokens": 8},
        "checkpoint": {"every_steps": HALFWAY},
        "output": {"dir": str(folder / name)},
    }
    for section, settings in sections.items():
        values[section] = (
            {**values.get(section, {}), **settings} if isinstance(settings, Mapping) else settings
        )
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def launch_together(folder: Path, runs: Sequence[Sequence[str]], num_processes: int = 2) -> str:
    """Runs of as many processes, one after the other; what they said."""
    listed = folder / f"runs-{len(list(folder.glob('runs-*')))}.json"
    listed.write_text(json.dumps(runs), encoding="utf-8")
    script = str(Path(__file__).with_name("runs_together.py"))
    group = run_group(["--run", script, str(listed)], num_processes, seconds=900)
    assert set(group.codes) == {0}, group.output
    return group.output


def column(run_dir: Path, name: str) -> list[float]:
    """A number of each row of the metrics that has it."""
    return [row[name] for row in read_rows(run_dir / "metrics.jsonl") if name in row]
