"""Short runs of one process and of several, so that they can be held against each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import conversation, read_rows, samples_of_steps, write_rows
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
        "trainer": {
            "global_batch_size": 8,
            "micro_batch_size": 1,  # several passes a step
            "max_steps": STEPS,
            "learning_rate": 1e-3,
        },
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


def stopped_halfway(folder: Path, name: str, target: str) -> Path:
    """A copy of a run as its checkpoint after half of the steps left it."""
    copy = folder / target
    shutil.copytree(folder / name, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:08d}")
    shutil.rmtree(copy / "final")
    return copy


def assert_same_run(one: Path, other: Path, num_steps: int = STEPS) -> None:
    """Losses, norms, samples and the trained model, up to rounding."""
    for name in ("loss", "grad_norm", "eval_loss"):
        expected = column(other, name)
        assert len(expected) == (num_steps if name != "eval_loss" else max(1, num_steps // HALFWAY))
        assert column(one, name) == pytest.approx(expected, abs=SAME), name
    for name in ("num_tokens", "num_trained_tokens"):
        assert column(one, name) == column(other, name)
    assert samples_of_steps(one) == samples_of_steps(other)
    losses = [row.get("losses") for row in read_rows(one / "samples.jsonl")]
    others = [row.get("losses") for row in read_rows(other / "samples.jsonl")]
    for ours, theirs in zip(losses, others, strict=True):
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-3))
    assert_same_model(one / "final", other / "final")


def assert_same_model(one: Path, other: Path) -> None:
    """Files of the same names, and weights that differ by rounding at most."""
    from safetensors.torch import load_file

    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("config.json", "tokenizer.json"):
        if (one / name).exists():  # An adapter has no configuration of the model.
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    (name,) = (path.name for path in one.glob("*.safetensors"))
    weights, others = (load_file(path / name) for path in (one, other))
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        assert (weight - others[key]).abs().max() < SAME, key
