"""Start-up: light verbs beside an empty interpreter, `train` beside a bare script; prints tables.

python benchmarks/start_up.py [--rounds 5]

Commands take turns, and each number is the median of its rounds: CPU seconds of the process (user
and system) and wall seconds. Of `train` it is all that comes before the first optimizer step, with
data that are prepared; the bare script imports what that recipe needs of the same libraries, loads
the same model and tokenizer and makes the same optimizer, as a script of twenty lines does. The
model is a random one of two small layers, so that what is left is what starting costs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from plan_memory import SIZES, make_model, write_rows

LIGHT = ("--help", "check", "explain", "list", "schema")
MODEL, RECIPE = "model", "recipe.yaml"
OURS = """
import os, sys
from framework.__main__ import main
from framework.engine import fit
fit.Run.step = lambda *_: os._exit(0)
sys.argv = ["framework", "train", *sys.argv[1:]]
main()
"""
"""The command as it is, ended where the first step begins."""
BARE = """
import os, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from accelerate import Accelerator
{imports}
AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
{adapt}
optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], fused=True)
Accelerator().prepare(model, optimizer)
os._exit(0)
"""
ADAPTERS: Mapping[str, Mapping[str, str]] = {
    "full": {"imports": "", "adapt": ""},
    "lora": {
        "imports": "from peft import LoraConfig, get_peft_model",
        "adapt": "model = get_peft_model(model, LoraConfig(target_modules='all-linear'))",
    },
}


def measured(command: Sequence[str]) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def compare(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """Name -> medians; each has been started once before, so that its files are in memory."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            one = measured(command)
            if number:
                found[name].append(one)
    return {
        name: (
            statistics.median(cpu for cpu, _ in ones),
            statistics.median(wall for _, wall in ones),
        )
        for name, ones in found.items()
    }


def show(title: str, found: Mapping[str, tuple[float, float]]) -> None:
    """A table."""
    print(f"\n| {title} | CPU s | wall s |\n|---|---|---|")
    for name, (cpu, wall) in found.items():
        print(f"| {name} | {cpu:.2f} | {wall:.2f} |", flush=True)


def write_recipe(folder: Path, adapter: str) -> Path:
    """A recipe beside the model and its rows."""
    path = folder / f"{adapter}.yaml"
    values = {
        "model": {"source": f"./{MODEL}", "dtype": "float32"},
        "data": {"train": [{"source": "./train.jsonl"}], "max_length": 1024},
        "adapter": {"type": adapter},
        "trainer": {"type": "sft", "global_batch_size": 1, "max_steps": 2},
        "output": {"dir": str(folder / f"run-{adapter}")},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Measure start-up.")
    parser.add_argument("--rounds", type=int, default=5, help="Of each command.")
    rounds = parser.parse_args().rounds
    os.environ.update(HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="true")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    python = sys.executable
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        # Whatever is set where this is started, files are compiled once, as where it is installed.
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        make_model(folder / MODEL, SIZES["small"])
        write_rows(folder / "train.jsonl", 400)
        recipes = {name: str(write_recipe(folder, name)) for name in ADAPTERS}
        given = {"check": [recipes["lora"]], "explain": [recipes["lora"]]}
        light = {verb: [python, "-m", "framework", verb, *given.get(verb, ())] for verb in LIGHT}
        show("light", compare({"python -c pass": [python, "-c", "pass"], **light}, rounds))
        for name, code in ADAPTERS.items():
            bare = [python, "-c", BARE.format(**code), str(folder / MODEL)]
            ours = [python, "-c", OURS, recipes[name]]
            found = compare({"bare script": bare, "train, before its first step": ours}, rounds)
            show(name, found)


if __name__ == "__main__":
    main()
