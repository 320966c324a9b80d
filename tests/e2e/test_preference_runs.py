"""Preferences are learned the same by one process and by two, through the real command."""

from __future__ import annotations

import pytest
from conftest import read_rows, write_rows

RELATIVE_TOLERANCE = 1e-5  # float32 sums in another order


@pytest.mark.slow
def test_two_processes_learn_what_one_does(write_recipe, launched, tmp_path, monkeypatch):
    """Five pairs in batches of four: the second step has one, for the first process."""
    pairs = [
        {"prompt": f"{n}?", "chosen": f"It is {n}, I think.", "rejected": "No."} for n in range(5)
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    dataset = {"source": "./pairs.jsonl", "format": "preference"}
    recipe = write_recipe(
        model={"dtype": "float32"},
        adapter={"type": "lora", "r": 4},
        data={"train": [dataset], "eval": [dataset], "packing": False},
        trainer={
            "type": "dpo",
            "precompute_reference": True,
            "rpo_alpha": 0.1,
            "ld_alpha": 0.5,
            "global_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
        },
        evaluation={"every_steps": 3},
    )
    found = {}
    for num_processes in (1, 2):
        output = tmp_path / str(num_processes)
        # Each asks the reference itself.
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{num_processes}"))
        launched(recipe, f"output.dir={output}", num_processes=num_processes)
        found[num_processes] = [
            {name: value for name, value in row.items() if "loss" in name or "reward" in name}
            for row in read_rows(output / "metrics.jsonl")
        ]
    assert len(found[1]) == len(found[2]) == 8
    assert found[1][0]["loss"] > 1.01 * found[1][5]["loss"], "it learns"
    for one, two in zip(found[1], found[2], strict=True):
        assert two == pytest.approx(one, rel=RELATIVE_TOLERANCE, abs=1e-5)
