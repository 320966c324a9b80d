"""Finding out whether a recipe is right: a whole command from its start to its end.

Of peers without such a command, the lightest of their own code that reads all of a configuration
and refuses what is wrong with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from contenders.protocol import LORA_ALPHA, LORA_RANK
from contenders.set_up import environment, interpreter
from harness import OWN, RECIPE, Bench, markdown, run_command, variables

TORCHTUNE_RECIPE = "lib/python*/site-packages/recipes/configs/qwen2/0.5B_lora_single_device.yaml"

TRL = """
import sys
from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser
parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
parser.parse_args_and_config(["--config", sys.argv[1]])
"""
AXOLOTL = """
import sys
from axolotl.cli.config import load_cfg
load_cfg(sys.argv[1])
"""
LLAMA_FACTORY = """
import json, sys
import llama_factory_import
from llamafactory.hparams import get_train_args
get_train_args(json.load(open(sys.argv[1])))
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A command that ends well if the recipe is right."""

    title: str
    environment: str
    package: str
    command: tuple[str | Path, ...]


def measure(bench: Bench) -> str:
    """The table."""
    model = bench.model()
    present = [
        one
        for one in _checks(bench, model)
        if bench.is_present(one.title, one.environment, (one.package,))
    ]
    caches = {"AXOLOTL_DO_NOT_TRACK": "1", "XDG_CACHE_HOME": str(bench.folder / "cache")}
    costs: list[list[dict[str, float]]] = [[] for _ in present]
    for number in range(1 + bench.rounds):
        for one, of_one in zip(present, costs, strict=True):
            cost = run_command(one.command, {**variables(one.environment), **caches})
            # The first time, files are read from disk and compiled.
            if number:
                of_one.append(cost)
    return markdown(
        ("", "CPU-s", "ours is", "s", "peak MiB"), list(_lines([o.title for o in present], costs))
    )


def _lines(
    titles: Sequence[str], costs: Sequence[Sequence[dict[str, float]]]
) -> Iterator[tuple[str, ...]]:
    first = median(one["cpu_seconds"] for one in costs[0])
    for title, of_one in zip(titles, costs, strict=True):
        seconds = median(one["cpu_seconds"] for one in of_one)
        yield (
            title,
            f"{seconds:.2f}",
            "" if of_one is costs[0] else f"{seconds / first:.1f}x",
            f"{median(one['wall_seconds'] for one in of_one):.2f}",
            f"{max(one['peak_rss_bytes'] for one in of_one) / 2**20:.0f}",
        )


def _checks(bench: Bench, model: str) -> Iterator[Check]:
    rows = bench.write_rows("rows", [{"messages": [{"role": "user", "content": "?"}]}])
    yield Check(
        title="this framework: `framework check`",
        environment=OWN,
        package="framework",
        command=(sys.executable, "-m", "framework", "check", RECIPE),
    )
    tune = environment("torchtune")
    yield Check(
        title="torchtune: `tune validate`",
        environment="torchtune",
        package="torchtune",
        command=(tune / "bin" / "tune", "validate", *sorted(tune.glob(TORCHTUNE_RECIPE))),
    )
    settings = {
        "model_name_or_path": model,
        "dataset_name": "rows",
        "output_dir": str(bench.folder / "run"),
        "learning_rate": 2e-4,
        "use_peft": True,
        "lora_r": LORA_RANK,
        "use_cpu": True,
        "report_to": "none",
    }
    yield Check(
        title="TRL: its parser of `trl sft --config`",
        environment=OWN,
        package="trl",
        command=(sys.executable, "-c", TRL, _write(bench, "trl", settings)),
    )
    settings = {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": LORA_RANK,
        "dataset": "rows",
        "template": "smollm2",
        "output_dir": str(bench.folder / "run"),
        "learning_rate": 2e-4,
        "use_cpu": True,
        "report_to": "none",
    }
    yield Check(
        title="LLaMA-Factory: `get_train_args`",
        environment="llama_factory",
        package="llamafactory",
        command=(
            interpreter("llama_factory"),
            "-c",
            LLAMA_FACTORY,
            _write(bench, "llama_factory", settings),
        ),
    )
    settings = {
        "base_model": model,
        "datasets": [{"path": rows, "ds_type": "json", "type": "chat_template"}],
        "adapter": "lora",
        "lora_r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_target_linear": True,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_epochs": 1,
        "learning_rate": 2e-4,
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "sequence_len": 512,
        "output_dir": str(bench.folder / "run"),
    }
    yield Check(
        title="Axolotl: `load_cfg`",
        environment="axolotl",
        package="axolotl",
        command=(interpreter("axolotl"), "-c", AXOLOTL, _write(bench, "axolotl", settings)),
    )


def _write(bench: Bench, name: str, settings: dict[str, Any]) -> Path:
    """JSON is YAML too."""
    path = bench.folder / f"{name}.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path
