"""Runs whose documents begin alike learn the same, whether that is computed once or for each."""

from __future__ import annotations

import pytest
from conftest import read_rows, write_rows

from framework.train import run

RELATIVE_TOLERANCE = 1e-5  # float32 sums in another order
SYSTEM = "You are asked for a number, and say which one it is, with a sentence around it."
PAIRS = [{"prompt": f"{SYSTEM} {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(8)]
TALKS = [
    {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{n}?"},
            {"role": "assistant", "content": f"It is {n}, I think."},
        ]
    }
    for n in range(24)
]


@pytest.mark.parametrize(
    ("rows", "form", "trainer"),
    [
        (TALKS, "messages", {"type": "sft"}),
        (PAIRS, "preference", {"type": "dpo", "precompute_reference": True}),
        (PAIRS, "preference", {"type": "orpo"}),
    ],
    ids=["sft", "dpo", "orpo"],
)
def test_losses_and_gradients_are_the_same(rows, form, trainer, write_recipe, tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows)
    dataset = {"source": "./rows.jsonl", "format": form}
    recipe = write_recipe(
        model={"dtype": "float32"},
        adapter={"type": "lora", "r": 4},
        data={"train": [dataset], "eval": [dataset], "packing": False},
        trainer={
            **trainer,
            "global_batch_size": 4,
            "micro_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 1e-2,
        },
    )
    found = []
    for shares in ("true", "false"):
        output = tmp_path / shares
        run(recipe, [f"data.share_prefixes={shares}", f"output.dir={output}"])
        found.append(read_rows(output / "metrics.jsonl"))
    once, each = found
    saved = [row.pop("shared_tokens") for row in once if "shared_tokens" in row]
    assert len(saved) == 3
    assert min(saved) > 0.3
    assert any(row["grad_norm"] > 1e-3 for row in each if "grad_norm" in row)
    for one, other in zip(once, each, strict=True):
        same = {name for name in other if "loss" in name or name in ("grad_norm", "tokens")}
        assert {name: one[name] for name in same} == pytest.approx(
            {name: other[name] for name in same}, rel=RELATIVE_TOLERANCE, abs=1e-6
        )


def test_packs_hold_more_and_it_is_said(write_recipe, tmp_path, capsys):
    write_rows(tmp_path / "rows.jsonl", TALKS)
    recipe = write_recipe(
        data={"train": [{"source": "./rows.jsonl"}], "max_length": 256, "packing": True},
        trainer={
            "type": "sft",
            "num_train_epochs": 1,
            "max_steps": None,
            "global_batch_size": 1,
            "learning_rate": 1e-2,
        },
    )
    steps = {}
    for shares in ("true", "false"):
        output = tmp_path / shares
        result = run(recipe, [f"data.share_prefixes={shares}", f"output.dir={output}"])
        steps[shares] = result.num_steps
        ids = [one for row in read_rows(output / "samples.jsonl") for one in row["ids"]]
        assert sorted(ids) == sorted(f"train0:{number}" for number in range(1, 25))
        said = capsys.readouterr().err
        assert ("of the tokens begin samples that begin alike" in said) == (shares == "true")
        assert ("data.share_prefixes is false" in said) == (shares == "false")
    assert steps["true"] < 0.6 * steps["false"]
