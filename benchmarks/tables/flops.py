"""Model operations per CPU-second of a LoRA step, beside what the machine's matrix products reach.

Counted is what the mathematics needs: nothing that is computed twice, no element-wise operations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contenders.protocol import LORA_RANK, Job
from harness import Bench, Contender, markdown
from tables.sft_lora import PACKS, fitting_rows

NUM_PACKS = 2 * PACKS
"""Of a step: about as many tokens as a pack of the default length has."""
OWN, PEAK = "this framework, LoRA step", "matrix products alone"
CONTENDERS = (
    Contender(title=OWN, script="framework_train"),
    Contender(title=PEAK, script="gemm"),
)


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    job = Job(
        folder="",
        model=model,
        rows=fitting_rows(bench, model),
        packing=True,
        step_size=NUM_PACKS,
        micro_batch_size=NUM_PACKS,
        share_prefixes=False,
    )
    measured = bench.in_turns(CONTENDERS, job)
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    steps = measured[OWN].rounds
    reached = [
        lora_flops(config, step["lengths"], step["num_trained_tokens"]) / step["cpu_seconds"]
        for step in steps
    ]
    own = sorted(reached)[len(reached) // 2]
    peak = measured[PEAK].median("flops_per_cpu_second")
    lines = [
        (OWN, f"{own / 1e9:,.0f}", f"{own / peak:.0%}"),
        (PEAK, f"{peak / 1e9:,.0f}", "100%"),
    ]
    return markdown(("", "GFLOP per CPU-s", "of the peak"), lines)


def lora_flops(config: Mapping[str, Any], lengths: Sequence[int], num_labels: int) -> float:
    """Operations of forward and backward pass; a multiplication and an addition are two.

    Frozen weights need two products, their output and their input's gradient; LoRA's matrices a
    third one, their own gradient. The head runs at labels only. Causal attention has two products
    of n^2/2 pairs forward and four backward.
    """
    width, inner, num_layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    num_heads, num_key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_width = config.get("head_dim") or width // num_heads
    queries, keys = num_heads * head_width, num_key_heads * head_width
    layers = [(width, queries), (width, keys), (width, keys), (queries, width)]
    layers += [(width, inner), (width, inner), (inner, width)]
    num_frozen = sum(rows * columns for rows, columns in layers)
    num_lora = sum(LORA_RANK * (rows + columns) for rows, columns in layers)
    num_tokens = sum(lengths)
    per_layer = (4 * num_frozen + 6 * num_lora) * num_tokens
    attention = 6 * queries * sum(length**2 for length in lengths)
    head = 4 * config["vocab_size"] * width * num_labels
    return num_layers * (per_layer + attention) + head
