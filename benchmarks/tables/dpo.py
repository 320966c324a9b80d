"""DPO with LoRA on pairs whose prompts have about 300 tokens, the reference asked beforehand."""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, training_table

PAIRS = 2
SHORTEST_PROMPT, LONGEST_PROMPT, LONGEST_ANSWER = 240, 360, 250
"""Tokens."""

CONTENDERS = (
    Contender(title="this framework", script="framework_train"),
    Contender(title="TRL, its defaults", script="trl_train", job={"gradient_checkpointing": True}),
    Contender(
        title="TRL, bfloat16 weights, no checkpointing",
        script="trl_train",
        job={"dtype": "bfloat16"},
    ),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    lengths = rows.Lengths(model)
    pairs = [
        row
        for row in rows.preferences(bench.data / "dpo_en_demo.json")
        if SHORTEST_PROMPT <= lengths.of(row["prompt"]) <= LONGEST_PROMPT
        and max(lengths.of(row["chosen"]), lengths.of(row["rejected"])) <= LONGEST_ANSWER
    ]
    file = bench.write_rows("rows", pairs[: bench.num_rows(PAIRS)])
    job = Job(
        folder="",
        model=model,
        rows=file,
        method="dpo",
        max_length=1024,
        step_size=PAIRS,
        micro_batch_size=PAIRS,
    )
    return training_table(bench.in_turns(CONTENDERS, job))
