"""A run with a mixture of LoRA experts: gone on with, shared among processes, talked to."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from conftest import read_rows
from safetensors.torch import load_file
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.runs.combine import combine
from framework.runs.merge import merge
from framework.runs.trained import FinishedRun
from framework.train import run

pytestmark = pytest.mark.usefixtures("warm")

STEPS = 4
TOKENS = torch.arange(5, 45)[None]


@pytest.fixture
def recipe(write_recipe, tmp_path):
    """A mixture of two trained adapters, named from the recipe's folder, and a new expert."""
    for name, r in (("one", 4), ("other", 2)):
        first = write_recipe(
            adapter={"type": "lora", "r": r},
            trainer={"learning_rate": 1e-2, "max_steps": 2, "seed": r},
        )
        run(first, [f"output.dir={tmp_path / name}"])
    return write_recipe(
        adapter={
            "type": "lora_experts",
            "experts": ["./one/final", "other/final"],
            "num_new_experts": 1,
            "top_k": 2,
            "r": 3,
        },
        trainer={"max_steps": STEPS, "learning_rate": 1e-2, "global_batch_size": 4},
        checkpoint={"every_steps": 2, "keep_last": 9},
        model={"gradient_checkpointing": True},
    )


def weights(folder):
    files = sorted((folder / "final").rglob("*.safetensors"))
    assert len(files) == 4  # three experts and the routers
    return {
        f"{file.parent.name}/{name}": v for file in files for name, v in load_file(file).items()
    }


def test_a_run_goes_on_is_talked_to_and_neither_merged_nor_combined(recipe, tmp_path):
    directory = tmp_path / "run"
    run(recipe)
    whole, losses = weights(directory), read_rows(directory / "metrics.jsonl")
    assert any(value.abs().max() > 1e-3 for name, value in whole.items() if "final/" in name)
    shutil.rmtree(directory / "final")
    shutil.rmtree(directory / "checkpoints" / f"step-{STEPS:08d}")
    run(recipe)
    resumed, again = weights(directory), read_rows(directory / "metrics.jsonl")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert [row["loss"] for row in losses] == [row["loss"] for row in again]

    finished = FinishedRun.open(directory)
    said = subprocess.run(
        [*FRAMEWORK, "chat", str(directory), "--max-new-tokens", "8"],
        capture_output=True,
        text=True,
        check=False,
        input="Question 3: what?\n",
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    assert "Plain peft can't load the mixture" in (finished.final / "README.md").read_text()
    with pytest.raises(UserError, match="differs from token to token"):
        merge(finished, tmp_path / "merged", "float32")
    with pytest.raises(UserError, match="holds LORA_EXPERTS, and only LoRA adapters"):
        combine([finished, finished], tmp_path / "sum", method="cat", weights=[1, 1])
    # With a key-value cache as without.
    model = finished.trained_model(torch.float32)
    with torch.no_grad():
        start = model(input_ids=TOKENS[:, :30], use_cache=True)
        rest = model(input_ids=TOKENS[:, 30:], past_key_values=start.past_key_values)
        together = torch.cat([start.logits, rest.logits], 1)
        assert torch.allclose(together, model(input_ids=TOKENS).logits, atol=1e-5)


@pytest.mark.long
def test_two_processes_learn_what_one_does(recipe, launched, tmp_path):
    run(recipe, [f"output.dir={tmp_path / 'single'}"])
    launched(recipe, f"output.dir={tmp_path / 'two'}", num_processes=2)
    one, two = weights(tmp_path / "single"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    # Sums over the batch in another order, through four steps of Adam.
    assert all(one[name].allclose(two[name], atol=1e-4) for name in one)
