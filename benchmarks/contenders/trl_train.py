"""JOB -> TRL's SFTTrainer or DPOTrainer, one optimizer step a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from protocol import (
    DPO_BETA,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    NUM_STEPS,
    Job,
    read_job,
    read_rows,
)
from trainer_turns import take_turns
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

PACKAGES = ("trl", "torch", "transformers", "peft", "accelerate")


def main() -> None:
    """What the job asks for, everything else as TRL has it."""
    job = read_job()
    take_turns(PACKAGES)
    trainer = _dpo(job) if job.method == "dpo" else _sft(job)
    trainer.train()


def _sft(job: Job) -> SFTTrainer:
    rows = [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
        for row in read_rows(job)
    ]
    settings = SFTConfig(packing=job.packing, completion_only_loss=True, **_settings(job))
    return SFTTrainer(
        model=job.model, args=settings, train_dataset=Dataset.from_list(rows), **_adapter(job)
    )


def _dpo(job: Job) -> DPOTrainer:
    settings = DPOConfig(
        beta=DPO_BETA,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=job.micro_batch_size,
        **_settings(job),
    )
    rows = Dataset.from_list(read_rows(job))
    return DPOTrainer(model=job.model, args=settings, train_dataset=rows, **_adapter(job))


def _settings(job: Job) -> dict[str, Any]:
    return {
        "output_dir": str(Path(job.folder) / "run"),
        "max_length": job.max_length,
        "per_device_train_batch_size": job.micro_batch_size,
        "gradient_accumulation_steps": job.num_accumulation_steps,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": job.gradient_checkpointing,
        "bf16": job.autocast,
        "use_cpu": True,
        "model_init_kwargs": {} if job.dtype == "auto" else {"dtype": job.dtype},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
    }


def _adapter(job: Job) -> dict[str, Any]:
    if job.adapter == "full":
        return {}
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear")
    return {"peft_config": lora}


if __name__ == "__main__":
    main()
