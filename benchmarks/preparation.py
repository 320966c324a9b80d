"""Preparing alpaca-like rows, side by side: this framework, TRL, LLaMA-Factory, a tokenizer alone.

    python benchmarks/preparation.py MODEL_FOLDER [--rows 100000] [--source alpaca.json]
        [--llama-factory PYTHON]

Every contender runs in a fresh process with one thread. Its libraries' import and start are not
counted; reading, formatting, templates, masks, packs of 2048 tokens and writing are. Ratios are of
rows per CPU-second within this one run.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECIPE = """\
model: {source: MODEL}
data:
  train: [{source: rows.jsonl, format: alpaca}]
  max_length: 2048
  over_length: drop
output: {dir: run}
"""


def main() -> None:
    """Writes the rows, runs every contender and prints the table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(arguments.model, folder / "model")
        (folder / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(folder / "model")))
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows(arguments.rows, arguments.source):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        results = {
            title: _run(python, script, folder, *more)
            for title, python, script, more in contenders(arguments.llama_factory)
        }
        _print(results)
        _print_again(folder)


def contenders(llama_factory: str | None) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """(title, interpreter, script, arguments) of each."""
    own = sys.executable
    yield "framework, snaptokens", own, "framework_prepare.py", ("snaptokens",)
    yield "framework, tokenizers", own, "framework_prepare.py", ("tokenizers",)
    yield "tokenizers alone", own, "tokenizer_alone.py", ()
    yield "TRL SFTTrainer", own, "trl_prepare.py", ()
    if llama_factory:
        yield "LLaMA-Factory", llama_factory, "llama_factory_prepare.py", ()


def rows(count: int, source: Path | None) -> Iterator[dict[str, str]]:
    """Alpaca-like rows, no two alike: of a file, or cut from Python's own manual."""
    if source is not None:
        text = source.read_text(encoding="utf-8")
        lines = text.splitlines() if source.suffix == ".jsonl" else None
        found = [json.loads(line) for line in lines] if lines else json.loads(text)
    else:
        found = list(_rows_of_the_manual())
    for number in range(count):
        row = found[number % len(found)]
        yield {**row, "instruction": f"{row['instruction']} ({number})"}


def _rows_of_the_manual() -> Iterator[dict[str, str]]:
    draw = random.Random(0)  # noqa: S311 - reproducible, not secret
    words = " ".join(pydoc_data.topics.topics.values()).split()
    for _ in range(1000):
        first = draw.randrange(len(words) - 600)
        length = int(draw.lognormvariate(4.6, 0.7))
        yield {
            "instruction": " ".join(words[first : first + draw.randint(5, 20)]),
            "input": " ".join(words[first + 20 : first + 50]) if draw.random() < 0.3 else "",
            "output": " ".join(words[first + 50 : first + 50 + min(length, 500)]),
        }


def _run(python: str, script: str, folder: Path, *more: str) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "XDG_CACHE_HOME": str(folder / "prepared"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [python, str(HERE / "contenders" / script), str(folder), *more]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    line = next((one for one in ended.stdout.splitlines() if one.startswith("RESULT ")), None)
    if line is None:
        sys.exit(f"{script} failed:\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")
    return json.loads(line.removeprefix("RESULT "))


def _print(results: dict[str, dict[str, Any]]) -> None:
    num_tokens = results["framework, tokenizers"]["num_tokens"]
    first = next(iter(results.values()))
    own = first["num_rows"] / first["cpu_seconds"]
    print(f"{'':24} {'CPU s':>8} {'rows/CPU-s':>11} {'tokens/CPU-s':>13} {'GiB':>6} {'ours is':>8}")
    for title, one in results.items():
        per_second = one["num_rows"] / one["cpu_seconds"]
        tokens = (one["num_tokens"] or num_tokens) / one["cpu_seconds"]
        print(
            f"{title:24} {one['cpu_seconds']:8.1f} {per_second:11,.0f} {tokens:13,.0f} "
            f"{one['peak_rss_bytes'] / 2**30:6.2f} {own / per_second:7.2f}x  {one['extra'] or ''}"
        )


def _print_again(folder: Path) -> None:
    """A second preparation of the same recipe, as a whole command."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "prepared")}
    command = [sys.executable, "-m", "framework", "prepare", str(folder / "recipe.yaml")]
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    print(f"`framework prepare` again, unchanged: {time.monotonic() - started:.2f} s in all")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepare the same rows with every contender.")
    parser.add_argument("model", type=Path, help="folder with tokenizer.json and its settings")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--source", type=Path, help="alpaca rows to repeat: JSON or JSON Lines")
    parser.add_argument("--llama-factory", help="Python of an environment with LLaMA-Factory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
