"""What a classifier measures of its batches can be traced without numbers."""

from __future__ import annotations

import json

from framework.planning.devices import cluster_of
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.outlook import look_ahead


def test_a_classifier_is_planned_for(write_recipe, tmp_path):
    row = {"text": "good", "label": "a"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    datasets = [{"source": "./rows.jsonl", "format": "classification"}]
    recipe = write_recipe(
        trainer={"type": "classifier", "labels": ["a", "b"]},
        data={"train": datasets, "eval": datasets},
    )
    outlook = look_ahead(resolve_with_origins(recipe), cluster_of("1xH100-80GB", 1, None))
    assert outlook.memory.peak > 0
