"""FOLDER BACKEND -> this framework's preparation: format, template, mask, proof, packs of 2048."""

from __future__ import annotations

import sys
from pathlib import Path

import measure
from transformers import AutoTokenizer

from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

folder, backend = Path(sys.argv[1]), sys.argv[2]
recipe = resolve(folder / "recipe.yaml", [f"tokenizer.backend={backend}"])
AutoTokenizer.from_pretrained(folder / "model")  # what it imports is nobody's preparation
with measure.measured() as result:
    store = prepare_data(recipe).train
    details = store.details
    result.num_rows = details["datasets"][0]["num_rows"]
    result.num_tokens = store.num_tokens
    result.extra = {
        "packing_efficiency": round(details["packing_efficiency"], 5),
        "tokenizer": details["tokenizer"]["used"],
    }
