"""Speed of a step and memory by the number of rows that the run has."""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, growth_table

COUNTS = (1_000, 10_000, 100_000)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    found = rows.alpaca(bench.data / "alpaca_en_demo.json")
    contenders = []
    for count in COUNTS:
        numbered = map(rows.conversation, rows.numbered(found, count))
        file = bench.write_rows(f"rows-{count}", list(numbered))
        title = f"{count:,} rows"
        contenders.append(Contender(title=title, script="framework_train", job={"rows": file}))
    job = Job(
        folder="",
        model=model,
        rows="",
        packing=True,
        max_length=1024,
        step_size=2,
        micro_batch_size=2,
    )
    return growth_table(bench.in_turns(contenders, job))
