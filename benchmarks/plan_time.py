"""Predicted against measured seconds of a training step on the CPU; prints a row for each model.

python benchmarks/plan_time.py [--only PART_OF_A_NAME]

Each model has random weights and trains in a process of its own, with one thread. What is measured
is the process's CPU time, which other programs don't lengthen: the median of its optimizer steps
but the first ones. The plan measures this CPU just before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_memory import ADAPTERS, write_recipe, write_rows

NUM_WARMUP_STEPS = 3
LENGTH = 256


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    num_steps: int


SHAPES = {
    "tiny": Shape(
        hidden=64,
        intermediate=128,
        layers=2,
        heads=4,
        key_heads=2,
        vocabulary=512,
        num_steps=60,
    ),
    "between": Shape(
        hidden=256,
        intermediate=704,
        layers=8,
        heads=4,
        key_heads=4,
        vocabulary=8192,
        num_steps=25,
    ),
    "SmolLM2-135M": Shape(
        hidden=576,
        intermediate=1536,
        layers=30,
        heads=9,
        key_heads=3,
        vocabulary=49152,
        num_steps=9,
    ),
}


def make_model(folder: Path, shape: Shape) -> None:
    """Random weights and a tokenizer."""
    import torch
    from plan_memory import make_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    fast = make_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def measure(shape: Shape, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Planned range and measured seconds of a step in this process."""
    with tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        make_model(folder / "model", shape)
        write_rows(folder / "train.jsonl", LENGTH // 2 - 20)
        steps = {"trainer.max_steps": shape.num_steps, "trainer.micro_batch_size": 2}
        return _steps(write_recipe(folder, {**steps, **changes}, LENGTH))


def _steps(path: Path) -> dict[str, Any]:
    from framework.core.world import World
    from framework.data.prepared import prepare_data
    from framework.distributed.peers import ALONE
    from framework.engine import fit
    from framework.models.load import load_bundle
    from framework.planning.devices import cluster_of
    from framework.planning.plan import make_plan
    from framework.recipe.resolve import resolve_with_origins
    from framework.runs.run_directory import open_run
    from framework.tracing.outlook import look_ahead

    plan = make_plan(resolve_with_origins(path), World.from_env())
    data = prepare_data(plan.recipe)
    planned = look_ahead(plan.resolved, cluster_of(None, 1, None)).cost.step_seconds
    spent: list[float] = []
    step = fit.Run.step

    def watched(self: Any, stop: Any) -> Any:
        started = time.process_time()
        stopping = step(self, stop)
        spent.append(time.process_time() - started)
        return stopping

    with open_run(plan) as directory:
        bundle = load_bundle(plan, data.model_path, data.tokenizer)
        fit.Run.step = watched
        try:
            fit.fit(plan, data, bundle, directory, ALONE)
        finally:
            fit.Run.step = step
    return {"planned": planned, "measured": statistics.median(spent[NUM_WARMUP_STEPS:])}


def settings() -> Iterator[tuple[str, str]]:
    """Models and adapters."""
    for shape in SHAPES:
        for adapter in ("full", "lora"):
            yield shape, adapter


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Compare planned with measured time.")
    parser.add_argument("--only", default="", help="Settings whose names hold this.")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        shape, adapter = arguments.one
        print(f"\n>>> {json.dumps(measure(SHAPES[shape], ADAPTERS[adapter]))}", flush=True)
        return
    print("| model | setting | planned ms | measured ms |")
    print("|---|---|---|---|")
    for shape, adapter in settings():
        if arguments.only not in f"{shape}, {adapter}":
            continue
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
            environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--one", shape, adapter]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise SystemExit(f"{shape}, {adapter}: {done.stderr[-2000:]}")
        said = next(line[4:] for line in done.stdout.splitlines() if line.startswith(">>> "))
        found = json.loads(said)
        low, high = (f"{1000 * one:,.1f}" for one in found["planned"])
        print(
            f"| {shape} | {adapter} | {low} to {high} | {1000 * found['measured']:,.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
