"""Speed of a step by the length of packs, whose documents are of about the same length."""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, growth_table

STEP_TOKENS = 8192
LENGTHS = (512, 1024, 2048, 4096, 8192)
SHORTEST, LONGEST = 120, 150
"""Tokens of a document without what the template adds."""


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    lengths = rows.Lengths(model)
    alike = [
        row
        for row in rows.alpaca(bench.data / "alpaca_en_demo.json")
        if SHORTEST <= lengths.of(rows.conversation(row)["messages"]) <= LONGEST
    ]
    count = STEP_TOKENS // SHORTEST * (2 + bench.rounds)
    numbered = list(map(rows.conversation, rows.numbered(alike, count)))
    contenders = [
        Contender(
            title=f"packs of {length:,} tokens",
            script="framework_train",
            job={"max_length": length, "step_size": STEP_TOKENS // length},
        )
        for length in LENGTHS
    ]
    job = Job(
        folder="",
        model=model,
        rows=bench.write_rows("rows", numbered),
        packing=True,
        micro_batch_size=None,
    )
    return growth_table(bench.in_turns(contenders, job))
