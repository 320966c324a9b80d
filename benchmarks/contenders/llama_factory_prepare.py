"""JOB -> LLaMA-Factory's preparation: alpaca, its template of the model, neat packs."""

from __future__ import annotations

import json
from pathlib import Path

import llama_factory_import  # noqa: F401
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from protocol import measured, read_job, read_rows
from transformers import AutoTokenizer

PACKAGES = ("llamafactory", "datasets", "tokenizers", "transformers")

job = read_job()
folder = Path(job.folder)
(folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": job.rows}}))
model_arguments, data_arguments, training_arguments, _, _ = get_train_args(
    {
        "model_name_or_path": job.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "smollm2",
        "cutoff_len": job.max_length,
        "packing": True,
        "neat_packing": True,
        "output_dir": str(folder / "llama_factory"),
        "overwrite_cache": True,
        "cache_dir": str(folder / "cache"),
        "report_to": "none",
        "use_cpu": True,
    }
)
AutoTokenizer.from_pretrained(job.model)  # what it imports is nobody's preparation
num_rows = len(read_rows(job))
with measured(PACKAGES) as work:
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    template = get_template_and_fix_tokenizer(tokenizer, data_arguments)
    module = get_dataset(
        template,
        model_arguments,
        data_arguments,
        training_arguments,
        stage="sft",
        tokenizer=tokenizer,
    )
    work.num_rows = num_rows
assert module["train_dataset"] is not None
