"""FOLDER -> the preparation of TRL's SFTTrainer: prompt and completion, packs of 2048."""

from __future__ import annotations

import sys
from pathlib import Path

import measure
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import SFTConfig, SFTTrainer

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
# The smallest model there is: only the data are prepared, nothing is trained.
config = LlamaConfig(
    vocab_size=len(tokenizer),
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


with measure.measured() as result:
    rows = Dataset.from_json(str(folder / "rows.jsonl"), cache_dir=str(folder / "cache"))
    num_rows = len(rows)
    rows = rows.map(conversational, remove_columns=rows.column_names)
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        packing=True,
        max_length=2048,
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    packs = trainer.train_dataset
    result.num_rows = num_rows
num_tokens = sum(len(ids) for batch in packs.iter(1000) for ids in batch["input_ids"])
print(f"packs {len(packs)}, tokens {num_tokens}", file=sys.stderr)
