"""Runs of one group of processes, one after the other: processes cost more than what they train.

    torchrun ... tests/runs_together.py RUNS.json

Each run is the list of arguments of `framework train`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from framework.train import run

if __name__ == "__main__":
    for recipe, *overrides in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(recipe, overrides)
