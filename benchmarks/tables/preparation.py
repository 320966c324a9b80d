"""Rows to packs on disk: format, template, mask, packing, one thread.

Loading the tokenizer is counted, starting and importing are not.
"""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, markdown

NUM_ROWS = 30_000
CONTENDERS = (
    Contender(
        title="this framework, `fast-tokenizers` installed",
        script="framework_prepare",
        job={"variant": "auto"},
    ),
    Contender(
        title="this framework, without that extra",
        script="framework_prepare",
        job={"variant": "tokenizers"},
    ),
    Contender(title="`tokenizers` alone: no files, masks or packs", script="tokenizer_prepare"),
    Contender(title="TRL", script="trl_prepare"),
    Contender(title="LLaMA-Factory", script="llama_factory_prepare", environment="llama_factory"),
)


def measure(bench: Bench) -> str:
    """The table."""
    found = rows.numbered(rows.alpaca(bench.data / "alpaca_en_demo.json"), NUM_ROWS)
    file = bench.write_rows("rows", list(found))
    job = Job(folder="", model=bench.model(), rows=file, packing=True, max_length=2048)
    measured = bench.in_one_go(CONTENDERS, job)
    lines = []
    own = next(iter(measured.values()))
    for title, one in measured.items():
        seconds = one.median("cpu_seconds")
        lines.append(
            (
                title,
                f"{NUM_ROWS / seconds:,.0f}",
                "" if one is own else f"{seconds / own.median('cpu_seconds'):.2f}x",
                f"{seconds:.2f}",
                f"{one.median('wall_seconds'):.2f}",
                f"{one.peak_gib:.2f}",
            )
        )
    columns = ("", "rows per CPU-s", "ours is", "CPU-s", "s", "peak GiB")
    return f"{NUM_ROWS:,} rows.\n\n{markdown(columns, lines)}"
