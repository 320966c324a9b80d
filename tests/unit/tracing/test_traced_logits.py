"""Logits that are never whole are planned so."""

from collections.abc import Callable
from pathlib import Path

from conftest import write_rows

from framework.planning.devices import cluster_of
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.outlook import look_ahead

NUM_ROWS = 8
NUM_LETTERS = 450
NUM_BYTES = 256
"""Tokens of the tiny model's vocabulary at least."""


def test_logits_in_parts_are_planned_in_parts(write_recipe: Callable[..., Path], tmp_path: Path):
    recipe = write_recipe(
        adapter="lora",
        data={"max_length": 512, "packing": False},
        trainer={"global_batch_size": NUM_ROWS, "micro_batch_size": NUM_ROWS},
        model={"logits_memory_mib": 1, "dtype": "float32"},
    )
    letters = "".join(chr(97 + at * 7 % 26) for at in range(NUM_LETTERS))
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": letters}]
    write_rows(tmp_path / "train.jsonl", [{"messages": conversation}] * NUM_ROWS)

    found = look_ahead(resolve_with_origins(recipe), cluster_of(None, 1, None))
    moments = [one for each in found.trace.memory.two_blocks.values() for one in each]
    most = max(one.logits for one in moments)
    whole = NUM_ROWS * NUM_LETTERS * NUM_BYTES * 4
    # A part's logits, and its float32 numbers as they become probabilities.
    assert 2**20 * 0.9 < most < 2.1 * 2**20 < whole
