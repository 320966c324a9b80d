"""Supervised LoRA fine-tuning on rows that all begin with the same 400 tokens of tools."""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, training_table
from tables.sft_lora import fitting_rows

PACKS = 1
MAX_LENGTH = 2048
SHORT_PACKS = {"max_length": 1024, "step_size": 2, "micro_batch_size": 1}
"""Peers compute attention over whole packs, so shorter ones are faster for them."""
PADDED = 3
"""Rows, about as many tokens as a pack."""

CONTENDERS = (
    Contender(title="this framework, packed", script="framework_train"),
    Contender(
        title="this framework, nothing shared",
        script="framework_train",
        job={"share_prefixes": False},
    ),
    Contender(
        title="TRL, bfloat16 weights, packs of 1024",
        script="trl_train",
        job={"dtype": "bfloat16", **SHORT_PACKS},
    ),
    Contender(
        title="LLaMA-Factory, neat_packing, packs of 1024",
        script="llama_factory_train",
        environment="llama_factory",
        job=SHORT_PACKS,
    ),
    Contender(
        title="LLaMA-Factory, padded",
        script="llama_factory_train",
        environment="llama_factory",
        job={"packing": False, "step_size": PADDED, "micro_batch_size": PADDED},
    ),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    file = fitting_rows(bench, model, system=rows.tool_prompt())
    job = Job(
        folder="",
        model=model,
        rows=file,
        packing=True,
        max_length=MAX_LENGTH,
        step_size=PACKS,
        micro_batch_size=PACKS,
    )
    return training_table(bench.in_turns(CONTENDERS, job))
