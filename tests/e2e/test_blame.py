"""The loss of each sample is written down, and a bad one is found by it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import warm_start
from conftest import conversation, read_rows, write_rows

pytestmark = pytest.mark.usefixtures("warm")

BAD = 11
"""The row, from 1, whose answer is nothing that could be learned."""


def framework(*arguments: object) -> str:
    ended = warm_start.framework(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def means_and_losses(run: Path) -> list[tuple[float, float]]:
    """(Mean of the samples' losses, the step's own) of each step."""
    losses = [row["losses"] for row in read_rows(run / "samples.jsonl")]
    steps = [row["loss"] for row in read_rows(run / "metrics.jsonl")]
    return [(sum(one) / len(one), step) for one, step in zip(losses, steps, strict=True)]


def test_the_losses_of_a_steps_samples_have_the_steps_loss_as_their_mean(write_recipe, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={"max_length": 256},
        trainer={
            "type": "sft",
            "loss_normalisation": "sequence",
            "global_batch_size": 4,
            "micro_batch_size": 2,
        },
    )
    framework("train", recipe)
    rows = read_rows(tmp_path / "run" / "samples.jsonl")
    assert max(len(row["losses"]) for row in rows) > 3, "packs hold several samples"
    assert [len(row["losses"]) for row in rows] == [len(row["ids"]) for row in rows]
    found = means_and_losses(tmp_path / "run")
    assert len(found) == 3
    for mean, loss in found:
        assert mean == pytest.approx(loss, rel=1e-6)  # float32 sums in another order


def test_a_pair_has_a_loss_unless_the_pairs_are_compared_with_each_other(write_recipe, tmp_path):
    pairs = [
        {"prompt": f"{n}?", "chosen": f"It is {n}, I think.", "rejected": "No."} for n in range(6)
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    recipe = write_recipe(
        model={"dtype": "float32"},
        adapter={"type": "lora", "r": 4},
        data={"train": [{"source": "./pairs.jsonl", "format": "preference"}], "packing": False},
        trainer={
            "type": "dpo",
            "rpo_alpha": 0.1,
            "loss_type": {"sigmoid": 0.7, "bco": 0.3},
            "micro_batch_size": 2,
        },
    )
    framework("train", recipe)
    found = means_and_losses(tmp_path / "run")
    assert len(found) == 3
    for mean, loss in found:
        assert mean == pytest.approx(loss, rel=1e-6)  # float32 sums in another order
    framework(
        "train",
        recipe,
        "trainer.loss_type=aot",
        "trainer.rpo_alpha=0",
        f"output.dir={tmp_path}/aot",
    )
    assert all("losses" not in row for row in read_rows(tmp_path / "aot" / "samples.jsonl"))
    assert "no loss of each sample" in framework("report", tmp_path / "aot", "--blame", 2)


def test_a_planted_bad_sample_is_the_worst_of_its_step(write_recipe, tmp_path):
    rows = [conversation(number) for number in range(16)]
    rows[BAD - 1]["messages"][-1]["content"] = "zq%7 Xj~ vv0^ kW}{ 9$Qy"
    write_rows(tmp_path / "train.jsonl", rows)
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={"packing": False},
        trainer={"seed": 2, "global_batch_size": 4, "max_steps": 40, "learning_rate": 1e-2},
    )
    write_rows(tmp_path / "train.jsonl", rows)
    framework("train", recipe)
    run, name = tmp_path / "run", f"train0:{BAD}"
    seen = [row["step"] for row in read_rows(run / "samples.jsonl") if name in row["ids"]]
    (step,) = json.loads(framework("report", run, "--blame", seen[2], "--json"))
    assert step["num_samples"] == len(step["samples"]) == 4
    worst, *others = step["samples"]
    assert worst["identifier"] == name
    assert worst["loss"] > 1.5 * max(one["loss"] for one in others)
    assert (worst["file"], worst["line"]) == (str(tmp_path / "train.jsonl"), BAD)
    assert worst["text"].endswith("zq%7 Xj~ vv0^ kW}{ 9$Qy")
    found = json.loads(framework("report", run, "--blame", "worst", "--json"))
    assert len(found) == 3
    assert found[0]["samples"][0]["identifier"] == name
    write_rows(tmp_path / "train.jsonl", rows[1:])
    table = subprocess.run(
        [*warm_start.FRAMEWORK, "report", str(run), "--blame", str(seen[2])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert table.returncode == 0
    assert name in table.stdout
    assert "train.jsonl: is no longer the file that the run read" in table.stderr
