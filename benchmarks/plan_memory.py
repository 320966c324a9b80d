"""Predicted against measured peak memory of training on the CPU; prints a row for each setting.

python benchmarks/plan_memory.py [--only PART_OF_A_NAME] [--limit 0.1]

Each setting trains a random model in processes of its own. What is measured is how much the
resident memory of a process grows from just before the model is loaded to the highest point within
its optimizer steps (VmHWM, reset before each step). Before that, a model of a single layer of the
same width is trained in the same way, so that every library is loaded, and the buffers that matrix
products of this size keep are made: a few tens of MiB, however many layers there are. The C library
is told to give freed memory back at once (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_, one
arena): else what grows is what it keeps for later, not what is in use.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}
NUM_STEPS = 3
PEER_TIMEOUT_SECONDS = 600.0
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model."""

    hidden: int
    layers: int
    vocabulary: int = 32_000


SIZES = {
    "small": Size(hidden=512, layers=4),
    "large": Size(hidden=896, layers=8),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A recipe."""

    name: str
    size: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    num_processes: int = 1


ADAPTERS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": {"type": "lora", "r": 16}},
    "qlora": {
        "adapter": {"type": "lora", "r": 16},
        "model.quantization": "bitsandbytes_4bit",
    },
}


def settings() -> Iterator[Setting]:
    """Adapters, packing, checkpointing, sizes and processes."""
    for adapter, changes in ADAPTERS.items():
        for packing in (True, False):
            for checkpointing in (False, True):
                name = f"{adapter}, {'packed' if packing else 'unpacked'}" + (
                    ", checkpointing" if checkpointing else ""
                )
                more = {
                    "data.packing": packing,
                    "trainer.micro_batch_size": 1 if packing else 4,
                    "model.gradient_checkpointing": checkpointing,
                }
                yield Setting(name=name, size="small", changes={**changes, **more})
        yield Setting(name=adapter, size="large", changes=changes)
        large = {**changes, "model.gradient_checkpointing": True}
        yield Setting(name=f"{adapter}, checkpointing", size="large", changes=large)
    yield Setting(
        name="full, 2 passes a step", size="small", changes={"trainer.global_batch_size": 8}
    )
    yield Setting(
        name="full, adamw_8bit", size="small", changes={"trainer.optimizer": "adamw_8bit"}
    )
    for adapter in ("full", "lora"):
        for strategy in ("ddp", "fsdp"):
            changes = {**ADAPTERS[adapter], "strategy": strategy}
            yield Setting(
                name=f"{adapter}, 2 processes, {strategy}",
                size="small",
                changes=changes,
                num_processes=2,
            )
        slices = {"type": "fsdp", "sequence_parallel_size": 2}
        yield Setting(
            name=f"{adapter}, 2 processes, rows in slices",
            size="small",
            changes={**ADAPTERS[adapter], "strategy": slices},
            num_processes=2,
        )
    yield Setting(
        name="full, 2 processes, fsdp",
        size="large",
        changes={"strategy": "fsdp"},
        num_processes=2,
    )


# ---- in a process of its own


def make_tokenizer(folder: Path) -> Any:
    """One of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE({one: at for at, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[1]
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


def make_model(folder: Path, size: Size) -> None:
    """A random Llama and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fast = make_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        num_key_value_heads=size.hidden // 64,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_rows(path: Path, longest: int) -> None:
    """Conversations of random words and lengths."""
    chance = random.Random(0)  # noqa: S311
    letters = "abcdefghijklmnopqrstuvwxyz     "
    rows = []
    for _ in range(64):
        texts = ["".join(chance.choices(letters, k=chance.randint(9, longest))) for _ in range(2)]
        turns = zip(("user", "assistant"), texts, strict=True)
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def recipe_for(folder: Path, size: Size, setting: Mapping[str, Any], length: int) -> Path:
    """A recipe beside its model and rows."""
    folder.mkdir()
    make_model(folder / "model", size)
    write_rows(folder / "train.jsonl", length // 2 - 20)
    return write_recipe(folder, setting, length)


def write_recipe(folder: Path, setting: Mapping[str, Any], length: int) -> Path:
    """A recipe for the model and rows of the folder."""
    import yaml

    values: dict[str, Any] = {
        "model": {"source": "./model"},
        "data": {"train": [{"source": "./train.jsonl"}], "max_length": length},
        "trainer": {
            "global_batch_size": 4 * int(os.environ.get("WORLD_SIZE", "1")),
            "max_steps": NUM_STEPS,
        },
        "output": {"dir": str(folder / "run")},
    }
    for key, value in setting.items():
        section, _, name = key.partition(".")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    if values["data"].get("packing", True):
        values["trainer"].setdefault("micro_batch_size", 4)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def measure(setting: Mapping[str, Any], size: Size) -> dict[str, float]:
    """Predicted and measured growth in this process."""
    from framework.core.world import World
    from framework.distributed.peers import meet

    with tempfile.TemporaryDirectory(dir=os.environ.get("PLAN_MEMORY_FOLDER")) as folder:
        # While every process is alone: of those that are together, one would save the model.
        small = recipe_for(Path(folder) / "first", replace(size, layers=1), setting, 512)
        whole = recipe_for(Path(folder) / "model", size, setting, 512)
        with meet(World.from_env(), PEER_TIMEOUT_SECONDS) as peers:
            _growth(small, peers)
            return _growth(whole, peers)


def _growth(path: Path, peers: Any) -> dict[str, float]:
    """Trains; see the module."""
    from framework.core.world import World
    from framework.data.prepared import prepare_data
    from framework.engine import fit
    from framework.models.load import load_bundle
    from framework.planning.plan import make_plan
    from framework.recipe.resolve import resolve_with_origins
    from framework.runs.run_directory import open_run
    from framework.tracing.lengths import prepared_lengths
    from framework.tracing.peak import predicted_memory

    plan = make_plan(resolve_with_origins(path), World.from_env())
    data = prepare_data(plan.recipe)
    predicted = predicted_memory(plan, data.model_path, prepared_lengths(plan, data.train))
    peaks: list[int] = []
    step = fit.Run.step

    def watched(self: fit.Run, stop: Any) -> str:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        stopping = step(self, stop)
        peaks.append(resident("VmHWM"))
        return stopping

    with open_run(plan) as directory:
        before = settled()
        bundle = load_bundle(plan, data.model_path, data.tokenizer)
        fit.Run.step = watched
        try:
            fit.fit(plan, data, bundle, directory, peers)
        finally:
            fit.Run.step = step
    return {"predicted": predicted.peak, "measured": max(peaks) - before, **predicted.kinds()}


def settled() -> int:
    """Resident bytes, all freed memory given back."""
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident("VmRSS")


def resident(name: str) -> int:
    """Bytes, by their name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# ---- all of them


def measured(setting: Setting) -> dict[str, float]:
    """What a setting's processes say; of several, the one that grew most."""
    given = json.dumps([dict(setting.changes), vars(SIZES[setting.size])])
    command = [sys.executable, __file__, "--one", given]
    if setting.num_processes > 1:
        number = str(setting.num_processes)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", number, "--no-python"]
        command = [sys.executable, *launcher, *command]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, **MALLOC, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
        environment["ACCELERATE_USE_CPU"] = "true"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith(">>> ")]
    if done.returncode or len(found) != setting.num_processes:
        raise SystemExit(f"{setting.name}: {done.stderr[-2000:]}")
    return max(found, key=lambda one: one["measured"])


def main() -> None:
    """Prints the table; ends with 1 where a setting is further off than the limit."""
    parser = argparse.ArgumentParser(description="Compare planned with measured memory.")
    parser.add_argument("--only", default="", help="Settings whose names hold this.")
    parser.add_argument("--limit", type=float, default=0.1, help="Largest relative error.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        changes, size = json.loads(arguments.one)
        print(f"\n>>> {json.dumps(measure(changes, Size(**size)))}", flush=True)
        return
    print("| setting | model | predicted MiB | measured MiB | error |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for setting in settings():
        if arguments.only not in f"{setting.name}, {setting.size}":
            continue
        found = measured(setting)
        error = found["predicted"] / found["measured"] - 1
        worst = max(worst, abs(error))
        print(
            f"| {setting.name} | {setting.size} | {found['predicted'] / 2**20:,.0f} "
            f"| {found['measured'] / 2**20:,.0f} | {error:+.1%} |",
            flush=True,
        )
    sys.exit(worst > arguments.limit)


if __name__ == "__main__":
    main()
