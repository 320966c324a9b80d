"""DeepSpeed's settings: what contradicts the recipe is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.core.problems import UserError
from framework.core.protocols.strategies import Setup
from framework.recipe.resolve import resolve

CONFIGS = Path(__file__).parents[3] / "deepspeed_configs"


@pytest.fixture
def problems(write_recipe, tmp_path):
    """What is refused of a file, or of settings."""

    def found(values=None, *, trainer=(), model=(), **settings):
        if values is not None:
            (tmp_path / "own.json").write_text(json.dumps(values), encoding="utf-8")
            settings["config"] = "own.json"
        recipe = write_recipe(
            trainer={"global_batch_size": 8, "micro_batch_size": 2, **dict(trainer)},
            model=dict(model),
            strategy={"type": "deepspeed", **settings},
        )
        try:
            resolve(recipe)
        except UserError as error:
            return [str(one) for one in error.problems]
        return []

    return found


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_file_may_say_what_the_recipe_says(problems, stage):
    same = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 4,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": stage},
    }
    assert problems(same, model={"dtype": "float32"}) == []


def test_a_file_that_says_another_thing_is_refused_with_both_values(problems):
    other = {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "fp16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "scheduler": {"type": "WarmupLR"},
        "zero_optimization": {"stage": 0},
    }
    found = problems(other, model={"dtype": "float32"})
    said = [
        ("train_batch_size", "is 16, and the recipe's trainer.global_batch_size is 8"),
        ("train_micro_batch_size_per_gpu", "is 1, and the recipe's trainer.micro_batch_size is 2"),
        ("gradient_clipping", "is 0.5, and the recipe's trainer.max_grad_norm is 1.0"),
        ("bf16.enabled", 'is true, and the recipe\'s model.dtype is "float32"'),
        ("fp16", "is what the recipe's `model.dtype` decides"),
        ("optimizer", "is what the recipe's `trainer.optimizer` decides"),
        ("scheduler", "is what the recipe's `trainer.lr_scheduler_type` decides"),
        ("zero_optimization.stage", "is 0; write 1, 2 or 3 there"),
    ]
    assert len(found) == len(said)
    for name, words in said:
        (one,) = (line for line in found if f" {name} in " in line)
        assert words in one and "own.json" in one


def test_settings_stand_in_the_file_or_in_the_recipe(problems):
    found = problems({"zero_optimization": {"stage": 3}}, stage=2, offload_optimizer="cpu")
    assert len(found) == 2
    assert "strategy.stage: stands beside `config`, whose file says it" in found[0]


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_file_that_is_no_json_object_is_refused(problems, tmp_path, text):
    (tmp_path / "broken.json").write_text(text, encoding="utf-8")
    (found,) = problems(config="broken.json")
    assert "strategy.config" in found and "broken.json" in found


def test_a_file_that_is_not_there_is_refused(problems):
    (found,) = problems(config="missing.json")
    assert "missing.json" in found


@pytest.mark.parametrize("stage", [None, 1, 2])
def test_only_stage_3_has_weights_to_offload(problems, stage):
    written = {} if stage is None else {"stage": stage}
    (found,) = problems(offload_parameters="cpu", **written)
    assert f"every device needs all weights in stage {stage or 2}" in found
    assert problems(offload_parameters="cpu", stage=3) == []


DISK = {"stage": 3, "offload_optimizer": "nvme", "offload_folder": "/disk"}


def test_a_disk_is_for_stage_3_and_has_a_folder(problems):
    assert problems(**DISK) == []
    (found,) = problems(**{**DISK, "stage": 2})
    assert "strategy.offload_optimizer: stage 2 keeps optimizer state in memory" in found
    (found,) = problems(stage=3, offload_optimizer="nvme")
    assert "strategy.offload_folder: nothing says on which disk" in found
    (found,) = problems(stage=3, offload_optimizer="cpu", offload_folder="/disk")
    assert "strategy.offload_folder: nothing is offloaded to a disk" in found


def test_what_waits_on_a_disk_has_no_moving_average(problems):
    (found,) = problems(**DISK, trainer={"ema": {}})
    assert "trainer.ema: averages weights after each step, and here they wait on a disk" in found
    offload = {"device": "nvme", "nvme_path": "/disk"}
    written = {"zero_optimization": {"stage": 3, "offload_optimizer": offload}}
    assert problems(written, trainer={"ema": {}}) == [found]
    assert problems(stage=3, offload_optimizer="cpu", trainer={"ema": {}}) == []


def test_weights_wait_on_no_disk(problems):
    offload = {"device": "nvme", "nvme_path": "/disk"}
    (found,) = problems({"zero_optimization": {"stage": 3, "offload_param": offload}})
    assert "strategy.config: zero_optimization.offload_param.device" in found
    assert "is nvme" in found and "write cpu there" in found
    (found,) = problems(stage=3, offload_parameters="nvme")
    assert "strategy.offload_parameters" in found


def test_what_is_on_a_disk_is_in_no_memory(write_recipe):
    recipe = resolve(write_recipe(strategy={"type": "deepspeed", **DISK}))
    shares = recipe.strategy.shares(2, weights_dtype="float32", products_dtype="float32")
    assert (shares.weights, shares.optimizer, shares.host_optimizer) == (0.5, 0.0, 0.0)


def refusal(recipe: Path) -> str:
    """What the start of a run says of its strategy."""
    setup = Setup(
        autocast_dtype=None, parameters_change=False, micro_batch_size=1, num_accumulation_steps=2
    )
    with pytest.raises(UserError) as refused:
        resolve(recipe).strategy.accelerator(setup)
    return str(refused.value)


def test_a_folder_that_is_not_on_this_machine_is_refused_when_a_run_starts(write_recipe, tmp_path):
    strategy = {"type": "deepspeed", **DISK, "offload_folder": str(tmp_path / "nowhere")}
    found = refusal(write_recipe(strategy=strategy))
    assert "strategy.offload_folder" in found and "nowhere' is no folder of this machine" in found


def test_a_file_of_deepspeeds_that_names_such_a_folder_is_refused_too(write_recipe, tmp_path):
    offload = {"device": "nvme", "nvme_path": str(tmp_path / "nowhere")}
    values = {"zero_optimization": {"stage": 3, "offload_optimizer": offload}}
    (tmp_path / "own.json").write_text(json.dumps(values), encoding="utf-8")
    found = refusal(write_recipe(strategy={"type": "deepspeed", "config": "own.json"}))
    assert "nowhere' is no folder of this machine" in found


def test_without_libaio_a_run_says_what_to_install(write_recipe, tmp_path, monkeypatch):
    """A compiler that finds no library stands for a machine that has none."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    strategy = {"type": "deepspeed", **DISK, "offload_folder": str(tmp_path)}
    found = refusal(write_recipe(strategy=strategy))
    assert "async_io" in found and "apt install libaio-dev" in found


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gradient_accumulation_steps": 4}, "is 4; global_batch_size, micro_batch_size"),
        ({"bf16": {"enabled": True}}, "is true, and this run computes in float32"),
    ],
)
def test_what_depends_on_the_machine_is_held_against_the_file_when_the_run_starts(
    write_recipe, tmp_path, values, words
):
    written = {"zero_optimization": {"stage": 2}, **values}
    (tmp_path / "own.json").write_text(json.dumps(written), encoding="utf-8")
    recipe = write_recipe(
        trainer={"global_batch_size": 8}, strategy={"type": "deepspeed", "config": "own.json"}
    )
    setup = Setup(
        autocast_dtype=None, parameters_change=False, micro_batch_size=1, num_accumulation_steps=8
    )
    with pytest.raises(UserError) as refused:
        resolve(recipe).strategy.accelerator(setup)
    assert words in str(refused.value)


def test_every_file_that_is_shipped_leaves_to_the_recipe_what_is_the_recipes(problems):
    files = sorted(CONFIGS.glob("*.json"))
    assert [one.stem for one in files] == ["zero1", "zero2", "zero3", "zero3_offload"]
    for file in files:
        assert problems(config=str(file)) == []
