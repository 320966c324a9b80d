"""A job -> this framework's recipe for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol import DPO_BETA, LEARNING_RATE, LORA_ALPHA, LORA_RANK, NUM_STEPS, Job

from framework.recipe.schema import Data

FORMATS = {"sft": "messages", "dpo": "preference"}


def write_recipe(job: Job) -> Path:
    """The recipe's file in the job's folder; JSON is YAML too."""
    path = recipe_path(job)
    path.write_text(json.dumps(recipe_of(job), indent=2), encoding="utf-8")
    return path


def recipe_path(job: Job) -> Path:
    """Where it is written."""
    return Path(job.folder) / "recipe.yaml"


def recipe_of(job: Job) -> dict[str, Any]:
    """What the job asks for, everything else as the framework has it."""
    trainer: dict[str, Any] = {
        "type": job.method,
        "global_batch_size": job.step_size,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
    }
    if job.micro_batch_size is not None:
        trainer["micro_batch_size"] = job.micro_batch_size
    if job.method == "dpo":
        trainer |= {"beta": DPO_BETA, "precompute_reference": True}
    data: dict[str, Any] = {
        "train": [{"source": job.rows, "format": FORMATS[job.method]}],
        "max_length": job.max_length,
        "packing": job.packing,
    }
    # A framework that computes every row by itself has no such key.
    if not job.share_prefixes and "share_prefixes" in Data.__dataclass_fields__:
        data["share_prefixes"] = False
    lora = {"type": "lora", "r": LORA_RANK, "lora_alpha": LORA_ALPHA}
    return {
        "model": {
            "source": job.model,
            "dtype": job.dtype,
            "gradient_checkpointing": job.gradient_checkpointing,
        },
        "data": data,
        "adapter": lora if job.adapter == "lora" else {"type": "full"},
        "trainer": trainer,
        "checkpoint": {"every_steps": NUM_STEPS},
        "tracking": {"trackers": []},
        "output": {"dir": str(Path(job.folder) / "run")},
    }
