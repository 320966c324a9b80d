"""Training goes on with a trained adapter: its model is the start, or the recipe is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch
from architectures import batch_of, document
from conftest import read_rows
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from warm_start import FRAMEWORK

from framework.adapters.lora import LoRA
from framework.core.problems import UserError
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.recipe.resolve import resolve
from framework.runs.trained import FinishedRun
from framework.train import run

pytestmark = pytest.mark.usefixtures("warm")

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
ADAPTER = {"type": "lora", "r": 4, "lora_alpha": 6, "use_rslora": True}


@pytest.fixture
def first(write_recipe, tmp_path):
    """The `final/` of a run of a few steps."""
    recipe = write_recipe("first.yaml", adapter=ADAPTER, trainer={"learning_rate": 1e-2})
    run(recipe, [f"output.dir={tmp_path / 'first'}"])
    return tmp_path / "first" / "final"


def going_on(write_recipe, first, **adapter):
    return write_recipe(adapter={**ADAPTER, "start_from": str(first), **adapter})


def refused(recipe):
    with pytest.raises(UserError) as caught:
        resolve(recipe)
    return caught.value.problems


def logits(model):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(BATCH)


def test_the_start_is_the_trained_adapter_to_the_last_bit(first, tiny_model_dir):
    base = load_weights(tiny_model_dir, dtype="float32", attention="segmented_sdpa")
    untrained = logits(base)
    settings = {name: value for name, value in ADAPTER.items() if name != "type"}
    started = LoRA(**settings, start_from=str(first)).apply(base)
    plain = load_weights(tiny_model_dir, dtype="float32", attention="segmented_sdpa")
    wanted = logits(PeftModel.from_pretrained(plain, str(first)))
    assert torch.equal(logits(started), wanted)
    assert not torch.allclose(wanted, untrained, atol=1e-2)


def test_the_first_loss_is_that_of_the_trained_model_and_no_step_changes_nothing(
    first, write_recipe, tmp_path
):
    recipe = going_on(write_recipe, first)
    settings = ("max_steps=1", "learning_rate=1e-30", "global_batch_size=16")
    run(recipe, ["model.dtype=float32", *(f"trainer.{setting}" for setting in settings)])
    (row,) = read_rows(tmp_path / "run" / "metrics.jsonl")
    model = FinishedRun.open(first.parent).trained_model(torch.float32)
    losses, count = 0.0, 0
    tokenizer: Any = FinishedRun.open(first.parent).tokenizer
    for one in read_rows(tmp_path / "train.jsonl"):
        whole = tokenizer.apply_chat_template(one["messages"], return_dict=False)
        prompt = tokenizer.apply_chat_template(
            one["messages"][:-1], add_generation_prompt=True, return_dict=False
        )
        end = whole.index(tokenizer.eos_token_id, len(prompt)) + 1
        tokens = torch.tensor([whole[:end]])
        with torch.no_grad():
            said = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        losses -= said.gather(1, tokens[0, len(prompt) :, None]).sum().item()
        count += end - len(prompt)
    assert row["loss"] == pytest.approx(losses / count, abs=1e-5)
    before, after = (
        load_file(at / "adapter_model.safetensors") for at in (first, tmp_path / "run" / "final")
    )
    assert before.keys() == after.keys()
    assert all(
        torch.allclose(value, before[name], rtol=0, atol=1e-20) for name, value in after.items()
    )


def test_a_run_that_goes_on_from_a_checkpoint_does_not_begin_again(first, write_recipe, tmp_path):
    recipe = write_recipe(
        adapter={**ADAPTER, "start_from": str(first)},
        trainer={"max_steps": 4},
        checkpoint={"every_steps": 2, "keep_last": 9},
    )
    run(recipe)
    final = tmp_path / "run" / "final"
    whole = load_file(final / "adapter_model.safetensors")
    shutil.rmtree(final)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run(recipe)
    resumed = load_file(final / "adapter_model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


CONTRADICTIONS = (
    ({"r": 8}, "r", r"is 8, and the adapter in '.*final' was trained with 4"),
    ({"lora_alpha": 3}, "lora_alpha", "write `lora_alpha: 6`"),
    ({"use_rslora": False}, "use_rslora", "was trained with True"),
    ({"use_dora": True}, "use_dora", "was trained with False"),
    ({"target_modules": ["q_proj"]}, "target_modules", "down_proj.* and 9 more, which"),
    (
        {"target_modules": ["q_proj", "lm_head"]},
        "target_modules",
        "'lm_head' fits no module that the",
    ),
    ({"exclude_modules": "model.*up_proj"}, "exclude_modules", "layers.0.mlp.up_proj"),
    ({"init_lora_weights": "gaussian"}, "init_lora_weights", "leave out one of them"),
)


def test_what_the_recipe_alone_contradicts_is_found_without_a_model(first, write_recipe):
    for settings, key, said in CONTRADICTIONS:
        problems = refused(going_on(write_recipe, first, **settings))
        assert {one.key for one in problems} == {f"adapter.{key}"}, str(problems)
        assert any(re.search(said, str(one)) for one in problems), str(problems)
        assert all(one.line for one in problems)


def test_another_base_is_named_beside_the_recipes(first, write_recipe, tiny_model_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    same = write_recipe(
        adapter={**ADAPTER, "start_from": str(first)}, **{"model.source": str(other)}
    )
    resolve(same)
    model: Any = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.1)
    model.save_pretrained(other)
    (problem,) = refused(same)
    assert str(tiny_model_dir) in problem.what and str(other) in problem.what


def test_names_on_the_hub_are_compared_where_no_run_says_more(first, write_recipe, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(first, alone)
    config = json.loads((alone / "adapter_config.json").read_text(encoding="utf-8"))
    for written, other in (
        ("some/model", True),
        ("/cache/models--some--model/snapshots/0a1b", True),
        ("own/model", False),
        ("/gone/model", False),
    ):
        text = json.dumps({**config, "base_model_name_or_path": written})
        (alone / "adapter_config.json").write_text(text, encoding="utf-8")
        recipe = write_recipe(
            adapter={**ADAPTER, "start_from": str(alone)}, **{"model.source": "own/model"}
        )
        if other:
            (problem,) = refused(recipe)
            assert "trained over some/model" in problem.what and "own/model" in problem.what
        else:
            resolve(recipe)


def test_what_is_no_adapter_is_refused_with_what_to_write(first, write_recipe, tmp_path):
    (problem,) = refused(going_on(write_recipe, first.parent))
    assert problem.hint == f"write the adapter's own: `{first}`"
    (problem,) = refused(going_on(write_recipe, tmp_path / "nothing"))
    assert "does not exist" in problem.what
    config = (first / "adapter_config.json").read_text(encoding="utf-8")
    (first / "adapter_config.json").write_text(config.replace("LORA", "VERA"), encoding="utf-8")
    (problem,) = refused(going_on(write_recipe, first))
    assert "of the kind VERA, not LORA" in problem.what


def test_weights_that_have_no_place_are_refused_before_training(first, write_recipe):
    path = first / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    narrow = {**weights, name: weights[name][:, :-1].contiguous()}
    save_file(narrow, path)
    with pytest.raises(UserError, match=r"has the shape \(4, 63\) in .*, and \(4, 64\)|\(4, 31\)"):
        run(going_on(write_recipe, first))
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(UserError, match=f"lacks {name}"):
        run(going_on(write_recipe, first))
    save_file({**weights, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}, path)
    with pytest.raises(UserError, match=r"holds .*lm_head\.lora_A\.weight, for which"):
        run(going_on(write_recipe, first))


def test_a_comparison_with_the_start_is_made_before_training_or_refused(first, write_recipe):
    from conftest import write_rows

    rows = [{"prompt": f"Say {n}", "chosen": f"{n}!", "rejected": "no"} for n in range(4)]
    write_rows(first.parent.parent / "pairs.jsonl", rows)
    recipe = write_recipe(
        adapter={**ADAPTER, "start_from": str(first)},
        trainer={"type": "dpo", "max_steps": 1},
        data={"train": [{"source": "./pairs.jsonl", "format": "preference"}], "packing": False},
    )
    (problem,) = refused(recipe)
    assert problem.key == "trainer.precompute_reference"
    run(recipe, ["trainer.precompute_reference=true"])
    (row,) = read_rows(first.parent.parent / "run" / "metrics.jsonl")
    assert row["loss"] == pytest.approx(0.6931, abs=1e-3)  # log 2: the start is the reference


def test_a_run_from_trained_adapters_is_planned_without_any_weights(first, write_recipe):
    for adapter in (
        {**ADAPTER, "start_from": str(first)},
        {"type": "lora_experts", "experts": [str(first)], "num_new_experts": 1},
    ):
        done = subprocess.run(
            [
                *FRAMEWORK,
                "plan",
                str(write_recipe(adapter=adapter)),
                "--json",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert 4096 <= found["num_trained_parameters"] < found["num_parameters"]
