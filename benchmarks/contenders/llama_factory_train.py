"""JOB -> LLaMA-Factory's supervised fine-tuning, one optimizer step a turn.

Runs in an environment of its own, with LLaMA-Factory and without torchvision and torchaudio.
"""

from __future__ import annotations

import json
from pathlib import Path

import llama_factory_import  # noqa: F401
from llamafactory.train.tuner import run_exp
from protocol import LEARNING_RATE, LORA_ALPHA, LORA_RANK, NUM_STEPS, read_job
from trainer_turns import take_turns

PACKAGES = ("llamafactory", "torch", "transformers", "peft", "accelerate")

job = read_job()
folder = Path(job.folder)
(folder / "dataset_info.json").write_text(
    json.dumps(
        {
            "rows": {
                "file_name": str(Path(job.rows).absolute()),
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            }
        }
    ),
    encoding="utf-8",
)
take_turns(PACKAGES)
run_exp(
    {
        "model_name_or_path": job.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": job.adapter,
        "lora_rank": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "smollm2",
        "cutoff_len": job.max_length,
        "packing": job.packing,
        "neat_packing": job.packing,
        "output_dir": str(folder / "run"),
        "overwrite_cache": True,
        "cache_dir": str(folder / "cache"),
        "per_device_train_batch_size": job.micro_batch_size,
        "gradient_accumulation_steps": job.num_accumulation_steps,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "disable_gradient_checkpointing": not job.gradient_checkpointing,
        "bf16": job.autocast,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
)
