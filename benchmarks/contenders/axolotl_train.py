"""JOB -> Axolotl's supervised fine-tuning, one optimizer step a turn; in an environment of its own.

It refuses bfloat16 on a CPU, and its fused LoRA kernels need a GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from protocol import LEARNING_RATE, LORA_ALPHA, LORA_RANK, NUM_STEPS, Job, read_job

PACKAGES = ("axolotl", "torch", "transformers", "peft", "accelerate", "trl")


def main() -> None:
    """What the job asks for, everything else as Axolotl has it."""
    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train
    from trainer_turns import take_turns

    job = read_job()
    path = Path(job.folder) / "axolotl.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps(_settings(job)), encoding="utf-8")
    take_turns(PACKAGES)
    do_train(load_cfg(str(path)), TrainerCliArgs())


def _settings(job: Job) -> dict[str, Any]:
    return {
        "base_model": job.model,
        "chat_template": "tokenizer_default",
        "datasets": [
            {
                "path": job.rows,
                "ds_type": "json",
                "type": "chat_template",
                "field_messages": "messages",
                "roles_to_train": ["assistant"],
            }
        ],
        "dataset_prepared_path": str(Path(job.folder) / "prepared"),
        "dataset_num_proc": 1,
        "sequence_len": job.max_length,
        "excess_length_strategy": "truncate",
        "sample_packing": job.packing,
        "pad_to_sequence_len": False,
        "adapter": "lora",
        "lora_r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "micro_batch_size": job.micro_batch_size,
        "gradient_accumulation_steps": job.num_accumulation_steps,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "bf16": False,
        "fp16": False,
        "attn_implementation": "sdpa",
        "gradient_checkpointing": job.gradient_checkpointing,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(Path(job.folder) / "run"),
        "dataloader_num_workers": 0,
    }


# Its processes that prepare rows import this file again.
if __name__ == "__main__":
    main()
