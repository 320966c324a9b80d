"""Rows of `metrics.jsonl` -> which of their numbers are the trainer's own."""

from __future__ import annotations

from collections.abc import Mapping

LOGGED_BY_EVERY_RUN = frozenset(
    {
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "num_tokens",
        "num_trained_tokens",
        "peak_rss_bytes",
    }
)
EVALUATION = "eval_"
"""What a metric's name begins with when it was measured on held-out data."""


def trainer_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """The metrics of one row that only its trainer has, such as `reward_accuracy`."""
    return {
        name: value
        for name, value in row.items()
        if name.removeprefix(EVALUATION) not in LOGGED_BY_EVERY_RUN
    }
