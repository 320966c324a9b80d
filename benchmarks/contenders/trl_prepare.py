"""JOB -> the preparation of TRL's SFTTrainer: prompt and completion, packs."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from protocol import measured, read_job
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import SFTConfig, SFTTrainer

PACKAGES = ("trl", "datasets", "tokenizers", "transformers")

job = read_job()
folder = Path(job.folder)
# The smallest model there is: only the data are prepared, nothing is trained.
config = LlamaConfig(
    vocab_size=len(AutoTokenizer.from_pretrained(job.model)),
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
)
model = AutoModelForCausalLM.from_config(config)


def conversational(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """An alpaca row as TRL wants it."""
    given = row["input"]
    request = f"{row['instruction']}\n{given}" if given.strip() else row["instruction"]
    return {
        "prompt": [{"role": "user", "content": request}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


with measured(PACKAGES) as work:
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    rows = Dataset.from_json(job.rows, cache_dir=str(folder / "cache"))
    num_rows = len(rows)
    rows = rows.map(conversational, remove_columns=rows.column_names)
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        packing=True,
        max_length=job.max_length,
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    work.num_rows = num_rows
assert trainer.train_dataset is not None
