"""Supervised fine-tuning of all weights: tokens per CPU-second."""

from __future__ import annotations

from contenders.protocol import Job
from harness import Bench, Contender, training_table
from tables.sft_lora import STEP_ROWS, fitting_rows

CONTENDERS = (
    Contender(title="this framework", script="framework_train"),
    Contender(
        title="this framework, bfloat16 weights",
        script="framework_train",
        job={"dtype": "bfloat16"},
    ),
    Contender(title="TRL, its defaults", script="trl_train", job={"gradient_checkpointing": True}),
    Contender(title="TRL, no checkpointing", script="trl_train"),
    Contender(
        title="TRL, bfloat16 weights, no checkpointing",
        script="trl_train",
        job={"dtype": "bfloat16", "autocast": False},
        rival="this framework, bfloat16 weights",
    ),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    file = fitting_rows(bench, model)
    job = Job(folder="", model=model, rows=file, adapter="full", step_size=STEP_ROWS)
    return training_table(bench.in_turns(CONTENDERS, job))
