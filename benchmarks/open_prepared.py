"""Opens prepared data in the middle of a run, and packs a million lengths; prints how long it took.

python benchmarks/open_prepared.py [PREPARED_FOLDER] [--global-batch-size 16]

PREPARED_FOLDER is what `framework prepare` prints.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np

from framework.data.pack import pack
from framework.data.store import Store
from framework.engine.batches import batch_of
from framework.engine.feed import StoreFeed
from framework.engine.order import Order


def main() -> None:
    """Prints both times."""
    parser = argparse.ArgumentParser(description="Time opening prepared data, and packing.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--global-batch-size", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        _open(arguments.folder, arguments.global_batch_size)
    _pack(1_000_000, 2048)


def _open(folder: Path, global_batch_size: int) -> None:
    started = time.monotonic()
    store = Store(folder)
    order = Order(
        stage_ends=store.stage_ends,
        global_batch_size=global_batch_size,
        seed=42,
        data_fingerprint=folder.name,
    )
    step = random.randrange(3 * order.steps_per_epoch)  # noqa: S311 - any step will do
    batches = [batch_of([unit]) for unit in StoreFeed(store, order).global_batch(step)]
    seconds = time.monotonic() - started
    num_tokens = sum(batch.input_ids.numel() for batch in batches)
    print(
        f"opened {store.num_samples:,} samples at step {step:,} and made its batches "
        f"({num_tokens:,} tokens) in {seconds:.3f} s"
    )


def _pack(count: int, capacity: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5.0, 0.7, count).astype(np.int64)
    lengths = lengths.clip(8, capacity)
    started = time.monotonic()
    packs = pack(lengths, capacity)
    seconds = time.monotonic() - started
    share = lengths.sum() / (len(packs) * capacity)
    print(f"packed {count:,} lengths into {len(packs):,} packs, {share:.2%} full, {seconds:.2f} s")


if __name__ == "__main__":
    main()
