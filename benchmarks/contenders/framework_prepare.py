"""JOB -> this framework's preparation: format, template, mask, proof, packs.

The job's variant is the tokenizer backend.
"""

from __future__ import annotations

import json

import framework_recipe
from protocol import measured, read_job
from transformers import AutoTokenizer

from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

PACKAGES = ("tokenizers", "snaptokens")

job = read_job()
settings = framework_recipe.recipe_of(job)
settings["data"]["train"][0]["format"] = "alpaca"
settings["data"]["over_length"] = "drop"
settings["tokenizer"] = {"backend": job.variant}
path = framework_recipe.recipe_path(job)
path.write_text(json.dumps(settings), encoding="utf-8")
recipe = resolve(path)
AutoTokenizer.from_pretrained(job.model)  # what it imports is nobody's preparation
with measured(PACKAGES) as work:
    store = prepare_data(recipe).train
    work.num_rows = store.details["datasets"][0]["num_rows"]
    work.num_tokens = store.num_tokens
    used = store.details["tokenizer"]["used"]
    wanted = "snaptokens" if job.variant == "auto" else job.variant
    assert used == wanted, f"{used} in the place of {wanted}"
