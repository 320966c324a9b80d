"""Planned memory is what a real process takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "plan_memory.py"
SIZE = {"hidden": 256, "layers": 4, "vocabulary": 32_000}
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
}


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"trainer.micro_batch_size": 1},
        {
            "adapter": {"type": "lora", "r": 16},
            "data.packing": False,
            "model.gradient_checkpointing": True,
        },
    ],
    ids=["all weights, packed", "lora, unpacked, checkpointing"],
)
def test_a_plan_is_within_a_tenth_of_what_a_process_grows_by(changes: dict, tmp_path: Path):
    command = [sys.executable, str(BENCHMARK), "--one", json.dumps([changes, SIZE])]
    environment = {**os.environ, **MALLOC, "PLAN_MEMORY_FOLDER": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = (one for one in done.stdout.splitlines() if one.startswith(">>> "))
    found = json.loads(line[4:])
    # A tenth, and 20 MiB of what libraries make at larger sizes than the first, tiny run's.
    assert abs(found["predicted"] - found["measured"]) < 0.1 * found["measured"] + 20 * 2**20
