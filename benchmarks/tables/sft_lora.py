"""Supervised LoRA fine-tuning in bfloat16: tokens per CPU-second, and peak memory."""

from __future__ import annotations

import rows
from contenders.protocol import Job
from harness import Bench, Contender, training_table

STEP_ROWS, PACKS = 4, 2
"""Of an optimizer step; two packs hold about as many tokens as five rows."""
LIMIT = 470
"""Longest row in tokens without what a template adds, so that nobody has to cut one."""

CONTENDERS = (
    Contender(title="this framework", script="framework_train"),
    Contender(
        title="this framework, packed",
        script="framework_train",
        job={"packing": True, "step_size": PACKS, "micro_batch_size": PACKS},
    ),
    Contender(
        title="TRL, its defaults",
        script="trl_train",
        job={"gradient_checkpointing": True},
    ),
    Contender(
        title="TRL, bfloat16 weights, no checkpointing",
        script="trl_train",
        job={"dtype": "bfloat16"},
    ),
    Contender(
        title="TRL, the same, packed",
        script="trl_train",
        job={"dtype": "bfloat16", "packing": True, "step_size": PACKS, "micro_batch_size": 1},
        rival="this framework, packed",
    ),
    Contender(
        title="LLaMA-Factory, padded",
        script="llama_factory_train",
        environment="llama_factory",
    ),
    Contender(
        title="LLaMA-Factory, neat_packing",
        script="llama_factory_train",
        environment="llama_factory",
        job={"packing": True, "step_size": PACKS, "micro_batch_size": PACKS},
        rival="this framework, packed",
    ),
    Contender(
        title="Axolotl, float32, packed",
        script="axolotl_train",
        environment="axolotl",
        job={"packing": True, "step_size": PACKS, "micro_batch_size": 1},
        rival="this framework, packed",
    ),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    job = Job(folder="", model=model, rows=fitting_rows(bench, model), step_size=STEP_ROWS)
    return training_table(bench.in_turns(CONTENDERS, job))


def fitting_rows(bench: Bench, model: str, system: str = "") -> str:
    """File of rows that every contender trains whole; enough that packs need none twice."""
    lengths = rows.Lengths(model)
    found = rows.conversations(bench.data / "alpaca_en_demo.json", system=system)
    fitting = [row for row in found if lengths.of(row["messages"][-2:]) <= LIMIT]
    num_rows = bench.num_rows(STEP_ROWS if bench.same else 2 * STEP_ROWS)
    return bench.write_rows("rows", fitting[:num_rows])
