"""FOLDER -> LLaMA-Factory's preparation: alpaca, its template of the model, neat packs of 2048.

Runs in an environment of its own, with LLaMA-Factory and without torchvision and torchaudio.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import measure
from transformers import AutoTokenizer

# It imports torchaudio even for text alone.
sys.modules["torchaudio"] = types.ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402

folder = Path(sys.argv[1])
(folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"}}))
model_arguments, data_arguments, training_arguments, _, _ = get_train_args(
    {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "smollm2",
        "cutoff_len": 2048,
        "packing": True,
        "neat_packing": True,
        "output_dir": str(folder / "llama_factory"),
        "overwrite_cache": True,
        "cache_dir": str(folder / "cache"),
        "report_to": "none",
        "use_cpu": True,
    }
)
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
with measure.measured() as result:
    template = get_template_and_fix_tokenizer(tokenizer, data_arguments)
    module = get_dataset(
        template,
        model_arguments,
        data_arguments,
        training_arguments,
        stage="sft",
        tokenizer=tokenizer,
    )
    packs = module["train_dataset"]
    with (folder / "rows.jsonl").open(encoding="utf-8") as stream:
        result.num_rows = sum(1 for _ in stream)
