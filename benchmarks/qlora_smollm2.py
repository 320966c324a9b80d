"""Trains the same LoRA over whole and over quantised weights; prints the losses side by side.

python benchmarks/qlora_smollm2.py [--steps 40] [--eval-rows 20] [--max-length 512]
    [--quantizers bitsandbytes_4bit] [--data alpaca.json --format alpaca]

Without --data on the quickstart's rows, which are made by rules and soon learned whole; a ratio of
losses near zero says little, so hold them against each other on text that people wrote.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from framework.train import run

RECIPE = Path(__file__).parent.parent / "recipes" / "smollm2" / "sft_lora.yaml"
LIMIT = 0.05
"""Largest difference to the loss over whole weights that counts as none."""


def main() -> None:
    """Prints a row for each kind of weights."""
    parser = argparse.ArgumentParser(description="Compare LoRA with LoRA over quantised weights.")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval-rows", type=int, default=20)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--quantizers", nargs="+", default=["bitsandbytes_4bit"])
    parser.add_argument("--data", type=Path, help="Rows in the place of the quickstart's.")
    parser.add_argument("--format", default="auto")
    arguments = parser.parse_args()
    print("| weights | train loss, last steps | eval loss | eval against whole | s |")
    print("|---|---|---|---|---|")
    whole = 0.0
    for quantizer in ("null", *arguments.quantizers):
        trained, held_out, seconds = _train(quantizer, arguments)
        whole = whole or held_out
        change = held_out / whole - 1
        print(
            f"| {'whole' if quantizer == 'null' else quantizer} | {trained:.4f} | {held_out:.4f} "
            f"| {change:+.2%}{'' if abs(change) <= LIMIT else ' (!)'} | {seconds:.0f} |",
            flush=True,
        )


def _data(arguments: argparse.Namespace) -> dict[str, str]:
    """The rows: of a file, the first are held out."""
    held_out = arguments.eval_rows
    if arguments.data is None:
        return {"data.eval.0.rows": f'":{held_out}"'}
    whole = {"source": str(arguments.data.absolute()), "format": arguments.format}
    train, evaluation = {**whole, "rows": f"{held_out}:"}, {**whole, "rows": f":{held_out}"}
    return {"data.train": json.dumps([train]), "data.eval": json.dumps([evaluation])}


def _train(quantizer: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """(mean loss of the last fifth of the steps, loss on held-out rows, seconds of training)."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "model.quantization": quantizer,
            "trainer.max_steps": arguments.steps,
            "trainer.num_train_epochs": "null",
            "trainer.global_batch_size": 1,
            "trainer.micro_batch_size": 1,
            "data.max_length": arguments.max_length,
            "trainer.learning_rate": "5e-4",
            "evaluation.every_epochs": "null",
            "evaluation.early_stopping": "null",
            "tracking.trackers": "[]",
            "output.dir": folder + "/run",
        }
        overrides |= _data(arguments)
        result = run(RECIPE, [f"{key}={value}" for key, value in overrides.items()])
        text = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    last = losses[-max(1, arguments.steps // 5) :]
    assert result.eval_loss is not None
    return sum(last) / len(last), result.eval_loss, result.training_seconds


if __name__ == "__main__":
    main()
