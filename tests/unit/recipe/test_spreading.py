"""What needs whole weights is refused where a strategy shares them out."""

from __future__ import annotations

import pytest
from conftest import write_rows

from framework.api import check
from framework.core.problems import UserError
from framework.core.world import World
from framework.optimizers.adamw import AdamW
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.trainers.sft import SFT

PAIRS = "data.train=[{source: ./pairs.jsonl, format: preference}]"
REFUSED = (
    (["adapter={type: prompt_tuning}"], "adapter", "puts weights of its own before the model"),
    (["adapter={type: lisa}"], "adapter", "reads or changes whole weights at each step"),
    (["adapter={type: half}"], "adapter", "reads or changes whole weights at each step"),
    (["adapter={type: adalora}"], "adapter", "reads or changes whole weights at each step"),
    (
        ["adapter={type: lora, init_lora_weights: eva}"],
        "adapter",
        "starts from what whole weights make of training data",
    ),
    (["trainer.optimizer=muon"], "trainer.optimizer", "`muon` steps a weight by more than"),
    (
        ["trainer.optimizer=adafactor"],
        "trainer.optimizer",
        "`optimizer: adamw` or `optimizer: sgd`",
    ),
    (["trainer.optimizer=adamw_torchao"], "trainer.optimizer", "`adamw_torchao` steps a weight"),
    (
        ["trainer.optimizer_in_backward=true"],
        "trainer.optimizer_in_backward",
        "after the backward pass",
    ),
    ([PAIRS, "trainer.type=dpo"], "trainer.precompute_reference", "a second copy of the model"),
    (["trainer.type=ppo"], "strategy", "lets the model answer while it is trained"),
    (["model.dtype=float16"], "model.dtype", "float16 gradients are scaled"),
    (["model.activation_offload=true"], "model.activation_offload", "gradient_checkpointing: true"),
)


@pytest.mark.parametrize(("overrides", "key", "words"), REFUSED)
def test_what_needs_whole_weights_is_refused(write_recipe, overrides, key, words):
    recipe = write_recipe(strategy="fsdp")
    found = [one for one in check(recipe, overrides) if one.key == key]
    assert any(words in f"{one.what}; {one.hint}" and "fsdp" in one.what for one in found), found
    whole = check(recipe, [*overrides, "strategy=ddp"])
    assert not any(words in f"{one.what}; {one.hint}" for one in whole)


def test_an_optimizers_average_of_parts_is_one_where_parts_are_parameters(write_recipe):
    """Not with DeepSpeed, whose optimizer has many of them in one tensor."""
    overrides = ["trainer.optimizer=schedule_free_adamw", "trainer.lr_scheduler_type=constant"]
    recipe = write_recipe()
    assert check(recipe, [*overrides, "strategy=fsdp"]) == ()
    (found,) = check(recipe, [*overrides, "strategy=deepspeed"])
    assert found.key == "trainer.optimizer" and "or `fsdp`" in found.hint
    assert "puts an average in the place of whole weights" in found.what


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed"])
def test_a_moving_average_goes_with_every_strategy(write_recipe, strategy):
    assert check(write_recipe(), ["trainer.ema={}", f"strategy={strategy}"]) == ()


@pytest.mark.parametrize(
    "overrides",
    [
        ["adapter={type: lora, use_dora: true}"],
        ["trainer.optimizer=sgd", "model.gradient_checkpointing=true"],
        [PAIRS, "trainer.type=dpo", "adapter=lora", "data.packing=false"],
        [PAIRS, "trainer.type=dpo", "trainer.precompute_reference=true", "data.packing=false"],
        ["adapter=lora", "model.quantization=bitsandbytes_4bit"],
    ],
)
def test_what_takes_weights_layer_by_layer_is_good(write_recipe, tmp_path, monkeypatch, overrides):
    # Paths of overrides begin where the command is started.
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "2?", "chosen": "Two.", "rejected": "No."}])
    assert check(write_recipe(strategy="fsdp"), overrides) == ()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_spreads_the_model_itself_is_refused(
    write_recipe, monkeypatch, strategy, variable
):
    monkeypatch.setenv(variable, "true")
    resolved = resolve_with_origins(write_recipe(strategy=strategy))
    with pytest.raises(UserError) as caught:
        make_plan(resolved, World.from_env())
    (problem,) = caught.value.problems
    assert problem.key == "strategy"
    assert f"`{strategy}`" in problem.what
    assert f"{variable}=true" in problem.what


def test_float16_that_a_device_chooses_is_refused(write_recipe):
    """A GPU without bfloat16 computes in float16 where a recipe leaves that to it."""
    resolved = resolve_with_origins(write_recipe(strategy="fsdp"))
    with pytest.raises(UserError, match="computes in float16"):
        make_plan(resolved, World(device="cuda", fast_bfloat16=False))


def test_a_component_that_says_no_to_a_marker_is_taken_at_its_word(write_recipe, monkeypatch):
    column = ["+data.train[0].loss_weight_column=weight"]
    spread = ["strategy=deepspeed"]
    path = write_recipe()
    for kind, overrides, key in (
        (SFT, column, "data.train[0].loss_weight_column"),
        (AdamW, spread, "trainer.optimizer"),
    ):
        before = set(check(path, overrides))
        marker = "weighs_samples" if kind is SFT else "steps_numbers_apart"
        monkeypatch.setattr(kind, marker, False)
        after = set(check(path, overrides))
        assert [problem.key for problem in after - before] == [key]
