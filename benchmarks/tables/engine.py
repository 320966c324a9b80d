"""What the engine costs beside a loop of a few lines over the same model, kernels and batches."""

from __future__ import annotations

from contenders.protocol import Job
from harness import Bench, Contender, training_table
from tables.sft_lora import PACKS, fitting_rows

CONTENDERS = (
    Contender(title="this framework", script="framework_train"),
    Contender(title="bare loop", script="bare_loop"),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    job = Job(
        folder="",
        model=model,
        rows=fitting_rows(bench, model),
        packing=True,
        step_size=PACKS,
        micro_batch_size=PACKS,
        share_prefixes=False,
    )
    return training_table(bench.in_turns(CONTENDERS, job))
