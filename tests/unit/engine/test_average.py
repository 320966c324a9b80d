"""Averages of weights: what they are, where they are used, and that training never feels them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import read_rows
from transformers import AutoModelForCausalLM

from framework.api import check
from framework.core import atomic
from framework.core.problems import Refused
from framework.distributed.pieces import Pieces
from framework.train import run

DECAY = 0.6
AVERAGES = {
    "ema": {"ema": {"decay": DECAY, "warmup": False, "keep_trained": True}},
    "schedule-free": {"optimizer": "schedule_free_adamw", "lr_scheduler_type": "constant"},
}


@pytest.fixture
def recipe(write_recipe):
    """A run of four steps that is evaluated and saved after each, without packing."""

    def of(average: str, name: str = "recipe.yaml", **overrides) -> Path:
        return write_recipe(
            name,
            model={"dtype": "float32"},
            data={"packing": False, "eval": [{"source": "./eval.jsonl"}]},
            trainer={"max_steps": 4, "learning_rate": 1e-2, **AVERAGES[average]},
            checkpoint={"every_steps": 1, "keep_last": 9},
            evaluation={"every_steps": 1},
            **overrides,
        )

    return of


def checkpoint(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters()
    )


def rows_of(run_dir: Path, name: str) -> list[float]:
    return [row[name] for row in read_rows(run_dir / "metrics.jsonl") if name in row]


def trained_at(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    pieces = Pieces(checkpoint(run_dir, step))
    names = [key for key in pieces.shapes if key.startswith("weights/")]
    return {key.removeprefix("weights/"): pieces.whole(key) for key in names}


def test_final_is_the_moving_average_and_the_trained_weights_lie_beside_it(
    recipe, tiny_model_dir, tmp_path
):
    run(recipe("ema"))
    run_dir = tmp_path / "run"
    average = weights_of(tiny_model_dir)
    for step in range(1, 5):
        trained = trained_at(run_dir, step)
        for name, one in average.items():
            average[name] = DECAY * one.detach() + (1 - DECAY) * trained[name]
    final, beside = weights_of(run_dir / "final"), weights_of(run_dir / "final_trained")
    for name, one in average.items():
        assert torch.allclose(final[name], one, atol=1e-6), name
        assert torch.equal(beside[name], trained[name]), name
    assert not torch.allclose(final["lm_head.weight"], beside["lm_head.weight"], atol=1e-4)


def test_final_is_the_average_of_schedule_free(recipe, tmp_path):
    run(recipe("schedule-free"))
    run_dir = tmp_path / "run"
    trained, state = trained_at(run_dir, 4), Pieces(checkpoint(run_dir, 4))
    final = weights_of(run_dir / "final")
    # y = (1 - b) z + b x, for x.
    for name, average in final.items():
        fast = state.whole(f"optimizer/{name}/z")
        assert torch.allclose(average, (trained[name] - 0.1 * fast) / 0.9, atol=1e-5), name
    assert len(final) == 21
    assert not (run_dir / "final_trained").exists()


@pytest.mark.parametrize("average", AVERAGES)
def test_evaluation_is_of_the_average_and_leaves_training_as_it_was(recipe, tmp_path, average):
    run(recipe(average))
    run(
        recipe(average, "never.yaml"),
        [f"output.dir={tmp_path / 'never'}", "data.eval=[]", "evaluation.every_steps=null"],
    )
    seen, never = tmp_path / "run", tmp_path / "never"
    assert rows_of(seen, "loss") == rows_of(never, "loss")
    assert (seen / "final" / "model.safetensors").read_bytes() == (
        never / "final" / "model.safetensors"
    ).read_bytes()
    # A model that starts as this one ended, and hardly moves, has the evaluation loss it ended at.
    still = write_still(recipe, tmp_path, seen / "final")
    assert rows_of(still, "eval_loss")[-1] == pytest.approx(
        rows_of(seen, "eval_loss")[-1], abs=1e-5
    )


def write_still(recipe, tmp_path: Path, folder: Path) -> Path:
    path = recipe("ema", "still.yaml")
    still = tmp_path / "still"
    run(
        path,
        [
            f"model.source={folder}",
            f"output.dir={still}",
            "trainer.learning_rate=1e-9",
            "trainer.max_steps=1",
        ],
    )
    return still


@pytest.mark.parametrize(
    ("average", "adapter"), [("ema", "full"), ("ema", "lora"), ("schedule-free", "full")]
)
def test_a_resumed_run_averages_on_bit_for_bit(recipe, tmp_path, average, adapter):
    path = recipe(average, adapter={"type": adapter})
    whole, resumed = tmp_path / "run", tmp_path / "resumed"
    run(path)
    run(path, [f"output.dir={resumed}"])
    for step in (3, 4):
        shutil.rmtree(checkpoint(resumed, step))
    shutil.rmtree(resumed / "final")
    run(path, [f"output.dir={resumed}"])
    assert rows_of(resumed, "loss") == rows_of(whole, "loss")
    assert rows_of(resumed, "eval_loss") == rows_of(whole, "eval_loss")
    name = "model.safetensors" if adapter == "full" else "adapter_model.safetensors"
    for folder in ("final", "final_trained") if average == "ema" else ("final",):
        ours, theirs = (one / folder / name for one in (resumed, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    # A run that is over can be started again, and writes the same.
    shutil.rmtree(resumed / "final")
    run(path, [f"output.dir={resumed}"])
    assert (resumed / "final" / name).read_bytes() == (whole / "final" / name).read_bytes()


def test_an_average_that_an_earlier_version_saved_is_refused_with_its_file(recipe, tmp_path):
    path, run_dir = recipe("ema"), tmp_path / "run"
    run(path)

    def as_it_was(folder: Path) -> None:
        for one in checkpoint(run_dir, 4).iterdir():
            if one.name == "average-00000.safetensors":
                shutil.copy(one, folder / "average.safetensors")
            elif not one.name.startswith(("average-", atomic.MANIFEST)):
                shutil.copy(one, folder)

    atomic.replace_folder(old := checkpoint(run_dir, 9), as_it_was)
    with pytest.raises(Refused) as refused:
        run(path)
    assert str(refused.value).startswith(f"{old / 'average.safetensors'}: ")
    assert "another version of framework" in str(refused.value)
    assert "write another output.dir" in str(refused.value)


def test_with_warmup_the_first_steps_count_more(recipe, tiny_model_dir, tmp_path):
    """decay = min(decay, (1 + t) / (10 + t)): 2/11 after the first step."""
    run(recipe("ema"), ["trainer.ema.warmup=true", "trainer.max_steps=1"])
    run_dir = tmp_path / "run"
    first = weights_of(tiny_model_dir)["lm_head.weight"]
    trained = trained_at(run_dir, 1)["lm_head.weight"]
    final = weights_of(run_dir / "final")["lm_head.weight"]
    assert torch.allclose(final, 2 / 11 * first + 9 / 11 * trained, atol=1e-6)


def test_two_averages_are_refused_by_check(write_recipe):
    (problem,) = check(write_recipe(trainer={**AVERAGES["schedule-free"], "ema": {}}))
    assert (problem.key, problem.hint) == ("trainer.ema", "remove it")


def test_schedule_free_refuses_a_schedule(write_recipe):
    (problem,) = check(write_recipe(trainer={"optimizer": "schedule_free_adamw"}))
    assert problem.key == "trainer.lr_scheduler_type"
    assert "`lr_scheduler_type: constant`" in problem.hint
