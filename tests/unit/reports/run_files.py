"""A run directory's files, written as a run writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """As `RunDirectory.write`."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """As `RunDirectory.append`, row by row."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def metric_rows(num_steps: int) -> list[dict[str, Any]]:
    """A run that learns, evaluated at its middle and at its end."""
    rows: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        rows.append(
            {
                "step": step,
                "epoch": step / num_steps,
                "loss": 0.5 + 2 * math.exp(-4 * step / num_steps),
                "grad_norm": 1.0 + 0.1 * math.sin(step),
                "learning_rate": 2e-4 * (1 - step / num_steps),
                "tokens_per_second": 800.0 + step % 7,
                "num_tokens": step * 4000,
                "num_trained_tokens": step * 1000,
                "peak_rss_bytes": 2_000_000_000,
            }
        )
        if step in {num_steps // 2, num_steps}:
            rows.append({"step": step, "epoch": step / num_steps, "eval_loss": 0.75})
    return rows


def evaluation(marks: str, said: str = "Sure.") -> dict[str, Any]:
    """Exact match over one request for each character: `+` right, `-` wrong."""
    answers = [
        {
            "prompt": f"prompt {number}",
            "expected": f"expected {number}",
            "answer": f"expected {number}" if mark == "+" else said,
            "correct": mark == "+",
        }
        for number, mark in enumerate(marks)
    ]
    return {"metric": "exact_match", "value": marks.count("+") / len(marks), "answers": answers}


def counts(name: str, **changed: Any) -> dict[str, Any]:
    """What preparation writes about a dataset."""
    return {
        "name": name,
        "num_rows": 100,
        "num_samples": 96,
        "num_tokens": 40_000,
        "num_trained_tokens": 10_000,
        "num_skipped_rows": 1,
        "num_over_length_rows": 2,
        "num_untrained_rows": 1,
        "skipped_rows": ["train.jsonl:7: has no `messages`"],
        "over_length_rows": [11, 12],
        "untrained_rows": [13],
        **changed,
    }


def setting(key: str, value: str, origin: str = "default") -> dict[str, str]:
    """An entry of provenance.json."""
    return {"key": key, "value": value, "origin": origin, "documentation": f"What {key} does."}


def write_run(folder: Path, num_steps: int = 60) -> None:
    """Every file of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "metrics.jsonl", metric_rows(num_steps))
    write_lines(
        folder / "samples.jsonl",
        [{"step": step, "ids": [f"train0:{step}"]} for step in range(1, num_steps + 1)],
    )
    write_json(folder / "evaluations_before.json", [evaluation("+---")])
    write_json(folder / "evaluations_after.json", [evaluation("-+++", said="Hm.")])
    write_lines(
        folder / "generations.jsonl",
        [{"step": step, "row": 0, "answer": f"answer at {step}"} for step in (30, 60)],
    )
    write_json(
        folder / "preparation.json",
        {
            "train": {
                "datasets": [counts("chats")],
                "packing_efficiency": 0.9876,
                "length_histogram": {"edges": [0, 100, 200], "counts": [30, 66]},
            },
            "eval": None,
        },
    )
    write_json(
        folder / "plan.json",
        {
            "num_devices": 1,
            "parameter_groups": [
                {
                    "name": "hidden matrices",
                    "learning_rate": 0.00025,
                    "weight_decay": 0.125,
                    "num_tensors": 112,
                    "num_parameters": 40_123,
                }
            ],
        },
    )
    write_json(
        folder / "provenance.json",
        [
            setting("adapter.type", "lora", "/somewhere/recipe.yaml:4:3"),
            setting("trainer.type", "sft"),
            setting("model.source.path", "/models/tiny", "/somewhere/recipe.yaml:2:11"),
        ],
    )
    write_json(
        folder / "environment.json",
        {"python": "3.12.1", "autocast_dtype": None, "packages": {"torch": "2.9.0"}},
    )
    write_json(
        folder / "result.json",
        {
            "num_steps": num_steps,
            "training_seconds": 192.0,
            "eval_loss": 0.75,
            "final_dir": str(folder / "final"),
            "num_parameters": 1_000_000,
            "num_trained_parameters": 40_000,
        },
    )
