"""What other programs call a setting -> the key that has its place here."""

from __future__ import annotations

from collections.abc import Mapping

_KEYS: Mapping[str, str] = {
    "adam_beta1": "trainer.optimizer.beta1",
    "adam_beta2": "trainer.optimizer.beta2",
    "adam_epsilon": "trainer.optimizer.epsilon",
    "attn_implementation": "model.attention",
    "base_model": "model.source",
    "batch_size": "trainer.micro_batch_size",
    "cutoff_len": "data.max_length",
    "dataset": "data.train",
    "datasets": "data.train",
    "early_stopping_patience": "evaluation.early_stopping.patience",
    "eval_steps": "evaluation.every_steps",
    "flash_attention": "model.attention",
    "flash_attn": "model.attention",
    "learning_rate": "trainer.learning_rate",
    "logging_steps": "tracking.log_steps",
    "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules",
    "lr": "trainer.learning_rate",
    "lr_scheduler": "trainer.lr_scheduler_type",
    "max_grad_norm": "trainer.max_grad_norm",
    "max_seq_length": "data.max_length",
    "max_steps": "trainer.max_steps",
    "model_max_length": "data.max_length",
    "model_name_or_path": "model.source",
    "neftune_noise_alpha": "trainer.neftune_noise_alpha",
    "num_epochs": "trainer.num_train_epochs",
    "num_train_epochs": "trainer.num_train_epochs",
    "optim": "trainer.optimizer",
    "output_dir": "output.dir",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "report_to": "tracking.trackers",
    "sample_packing": "data.packing",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_last",
    "seed": "trainer.seed",
    "sequence_len": "data.max_length",
    "val_set_size": "data.split.eval",
    "val_size": "data.split.eval",
    "warmup_ratio": "trainer.warmup_ratio",
    "warmup_steps": "trainer.warmup_steps",
    "weight_decay": "trainer.weight_decay",
}
_ADVICE: Mapping[str, str] = {
    "bf16": "write model.dtype: bfloat16, or leave it out: products are in bfloat16 where the "
    "device has it",
    "fp16": "write model.dtype: float16",
    "deepspeed": "write strategy: {type: deepspeed, stage: 2}",
    "fsdp": "write strategy: fsdp",
    "gradient_accumulation_steps": "leave it out: it follows from trainer.global_batch_size, "
    "trainer.micro_batch_size and the number of processes",
    "load_in_4bit": "write model.quantization: bitsandbytes_4bit",
    "load_in_8bit": "write model.quantization: bitsandbytes_8bit",
    "resume_from_checkpoint": "leave it out: the same command goes on from the newest checkpoint",
    "train_on_inputs": "write data.train_on: [user, assistant]",
}


def hint_for(name: str) -> str:
    """What to write instead; empty for a name that nobody uses."""
    if name in _ADVICE:
        return _ADVICE[name]
    return f"write it as {_KEYS[name]}" if name in _KEYS else ""
