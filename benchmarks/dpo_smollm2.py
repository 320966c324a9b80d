"""SmolLM2-135M with DPO on real preferences: does it prefer better answers that it has not seen?

    python benchmarks/dpo_smollm2.py [PREFERENCES.json] [--rows 300] [--longest 512]
        [--steps 24]

Without a file, `dpo_en_demo.json` in the folder that FRAMEWORK_TEST_DATA names. A fifth of the
pairs is held out; they are measured after half and all of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """\
extends: EXTENDS
data:
  train: [{source: PREFERENCES, format: preference, rows: ":ROWS"}]
  eval: []
  split: {eval: 0.2}
  max_length: LONGEST
  over_length: drop
  packing: false
adapter: {type: lora, r: 16, lora_alpha: 32}
trainer:
  type: dpo
  beta: 0.1
  precompute_reference: true
  global_batch_size: 8
  micro_batch_size: 2
  max_steps: STEPS
  num_train_epochs: null
  learning_rate: 2e-4
checkpoint: {every_steps: STEPS, every_epochs: null}
evaluation: {every_steps: EVERY, every_epochs: null, early_stopping: null}
tracking: {trackers: []}
output: {dir: OUTPUT}
"""


def main() -> None:
    """Trains, and prints what was measured."""
    arguments = _arguments()
    from framework.train import run

    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "run"
        values = {
            "EXTENDS": str(Path(__file__).parents[1] / "recipes" / "smollm2" / "sft_lora.yaml"),
            "PREFERENCES": str(arguments.preferences.absolute()),
            "ROWS": str(arguments.rows),
            "LONGEST": str(arguments.longest),
            "STEPS": str(arguments.steps),
            "EVERY": str(max(1, arguments.steps // 2)),
            "OUTPUT": str(output),
        }
        text = RECIPE
        for key, value in values.items():
            text = text.replace(key, value)
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(text, encoding="utf-8")
        started = time.monotonic()
        run(recipe)
        seconds = time.monotonic() - started
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        report = json.loads((output / "preparation.json").read_text(encoding="utf-8"))
    held_out = report["eval"]["datasets"][0]["num_samples"]
    print(f"\n{held_out} pairs held out; {seconds:.0f} s in all; before training 0 by definition")
    print("| step | loss | reward accuracy | reward margin |\n|---|---|---|---|")
    for row in map(json.loads, lines):
        if "eval_loss" in row:
            print(
                f"| {row['step']} | {row['eval_loss']:.4f} | {row['eval_reward_accuracy']:.3f} "
                f"| {row['eval_reward_margin']:.3f} |"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    folder = os.environ.get("FRAMEWORK_TEST_DATA")
    default = None if folder is None else Path(folder) / "dpo_en_demo.json"
    parser.add_argument("preferences", nargs="?", type=Path, default=default)
    parser.add_argument("--rows", type=int, default=300, help="of the file")
    parser.add_argument(
        "--longest", type=int, default=512, help="pairs with more tokens are dropped"
    )
    parser.add_argument("--steps", type=int, default=24, help="of eight pairs each")
    arguments = parser.parse_args()
    if arguments.preferences is None:
        sys.exit("name a file of preferences, or its folder in FRAMEWORK_TEST_DATA")
    return arguments


if __name__ == "__main__":
    main()
