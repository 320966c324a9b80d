"""Which rate and weight decay each trained parameter gets, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from architectures import tiny_model
from torch import nn

from framework.adapters.full import Full
from framework.adapters.lora import LoRA
from framework.api import check
from framework.core.problems import UserError
from framework.engine.parameter_groups import described_groups, parameter_groups
from framework.recipe.resolve import resolve


@pytest.fixture
def grouped(write_recipe):
    """Parameter name -> (rate, weight decay, hidden) on a tiny Llama, by the real recipe."""

    def of(adapter=None, model=None, **trainer):
        base = {"learning_rate": 1e-3, "weight_decay": 0.1}
        recipe = resolve(write_recipe(trainer={**base, **trainer}))
        model = tiny_model("llama") if model is None else model
        groups = parameter_groups(model, recipe.trainer, adapter or Full())
        names = {id(one): name for name, one in model.named_parameters()}
        return {
            names[id(one)]: (group["lr"], group["weight_decay"], group["hidden"])
            for group in groups
            for one in group["params"]
        }

    return of


def test_matrices_decay_and_norms_and_embeddings_do_not(grouped):
    found = grouped()
    assert len(found) == len(list(tiny_model("llama").named_parameters()))
    assert found["model.layers.0.self_attn.q_proj.weight"] == (1e-3, 0.1, True)
    assert found["model.layers.1.input_layernorm.weight"] == (1e-3, 0.0, False)
    assert found["model.embed_tokens.weight"] == (1e-3, 0.0, False)
    assert found["lm_head.weight"] == (1e-3, 0.1, False)


def test_biases_do_not_decay(grouped):
    assert grouped(model=tiny_model("qwen2"))["model.layers.0.self_attn.q_proj.bias"][1] == 0.0


def test_experts_that_are_held_as_one_tensor_are_no_hidden_matrices(grouped):
    found = grouped(model=tiny_model("qwen2_moe"))
    assert found["model.layers.0.mlp.experts.gate_up_proj"] == (1e-3, 0.1, False)
    assert found["model.layers.1.mlp.experts.gate_up_proj"] == (1e-3, 0.1, False)


def test_the_first_pattern_that_fits_counts(grouped):
    found = grouped(
        parameter_groups=[
            {"pattern": r"layers\.0\..*q_proj", "learning_rate": 5e-5},
            {"pattern": r"layers\.0\.", "learning_rate_ratio": 0.5, "weight_decay": 0.01},
            {"pattern": "embed_tokens", "weight_decay": 0.3},
        ]
    )
    assert found["model.layers.0.self_attn.q_proj.weight"] == (5e-5, 0.1, True)
    assert found["model.layers.0.self_attn.k_proj.weight"] == (5e-4, 0.01, True)
    assert found["model.layers.0.input_layernorm.weight"] == (5e-4, 0.01, False)
    assert found["model.embed_tokens.weight"] == (1e-3, 0.3, False)
    assert found["model.layers.1.self_attn.q_proj.weight"] == (1e-3, 0.1, True)


def test_layer_decay_lowers_the_rate_layer_by_layer(grouped):
    found = grouped(
        layer_decay=0.5,
        parameter_groups=[{"pattern": "k_proj", "learning_rate": 7e-4}],
    )
    rates = {name: rate for name, (rate, _, _) in found.items()}
    assert rates["lm_head.weight"] == rates["model.norm.weight"] == 1e-3
    assert rates["model.layers.1.self_attn.q_proj.weight"] == pytest.approx(5e-4)
    assert rates["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(2.5e-4)
    assert rates["model.embed_tokens.weight"] == pytest.approx(1.25e-4)
    assert rates["model.layers.0.self_attn.k_proj.weight"] == 7e-4, "a rate stands as written"


@dataclass(frozen=True, kw_only=True)
class FasterB(LoRA):
    def learning_rate_ratio(self, name: str) -> float:
        return 16.0 if "lora_B" in name else 1.0


def test_an_adapter_says_which_of_its_parameters_learn_faster(grouped):
    adapter = FasterB(r=4)
    found = grouped(
        adapter=adapter,
        model=adapter.apply(tiny_model("llama")),
        parameter_groups=[{"pattern": "layers.1.*v_proj.lora_B", "learning_rate_ratio": 0.5}],
    )
    rates = {
        name.removeprefix("base_model.model.model."): rate for name, (rate, _, _) in found.items()
    }
    assert rates["layers.0.self_attn.v_proj.lora_A.default.weight"] == 1e-3
    assert rates["layers.0.self_attn.v_proj.lora_B.default.weight"] == 16e-3
    assert rates["layers.1.self_attn.v_proj.lora_B.default.weight"] == 8e-3


def test_frozen_parameters_are_in_no_group(grouped):
    model = tiny_model("llama")
    model.model.layers[0].requires_grad_(False)
    found = grouped(model=model)
    assert not [name for name in found if ".layers.0." in name]
    assert [name for name in found if ".layers.1." in name]


def test_a_tied_weight_stands_once(grouped):
    model = tiny_model("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    assert "lm_head.weight" not in grouped(model=model)
    with pytest.raises(UserError, match="of tied weights the first name counts"):
        grouped(model=model, parameter_groups=[{"pattern": "lm_head", "weight_decay": 0.1}])


def test_a_pattern_that_fits_nothing_is_refused_with_names(grouped):
    with pytest.raises(UserError) as refused:
        grouped(parameter_groups=[{"pattern": "layres", "weight_decay": 0.0}])
    (problem,) = refused.value.problems
    assert problem.key == "trainer.parameter_groups[0].pattern"
    assert "'layres' fits none of the 21 trained parameters" in problem.what
    assert "model.embed_tokens.weight" in problem.hint


def test_a_pattern_that_comes_too_late_is_refused(grouped):
    patterns = [{"pattern": "proj", "weight_decay": 0.0}, {"pattern": "q_proj", "weight_decay": 1}]
    with pytest.raises(UserError, match="the first pattern that fits counts"):
        grouped(parameter_groups=patterns)


def test_layer_decay_needs_layers(write_recipe):
    recipe = resolve(write_recipe(trainer={"layer_decay": 0.9}))
    with pytest.raises(UserError, match="Linear has no list of layers"):
        parameter_groups(nn.Linear(2, 2), recipe.trainer, Full())


def test_groups_are_described_with_their_counts(write_recipe):
    recipe = resolve(write_recipe(trainer={"learning_rate": 1e-3, "weight_decay": 0.1}))
    groups = described_groups(parameter_groups(tiny_model("llama"), recipe.trainer, Full()))
    names = [group["name"] for group in groups]
    assert names == ["norms, biases and embeddings", "hidden matrices", "other matrices"]
    assert [group["num_tensors"] for group in groups] == [6, 14, 1]
    assert sum(group["num_parameters"] for group in groups) == sum(
        one.numel() for one in tiny_model("llama").parameters()
    )


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"pattern": "(", "weight_decay": 0.0}, "missing ), unterminated"),
        ({"pattern": "a", "learning_rate": 1.0, "learning_rate_ratio": 2.0}, "the same thing"),
        ({"pattern": "a"}, "changes nothing"),
    ],
)
def test_groups_that_cannot_be_meant_are_found_by_check(write_recipe, group, said):
    problems = check(write_recipe(trainer={"parameter_groups": [group]}))
    assert said in " ".join(problem.what for problem in problems)


def test_a_run_announces_its_groups_and_writes_them_down(write_recipe, launched, tmp_path):
    recipe = write_recipe(
        trainer={
            "max_steps": 2,
            "parameter_groups": [{"pattern": "embed_tokens", "learning_rate_ratio": 0.1}],
        }
    )
    said = launched(recipe)
    assert "optimizer group: /embed_tokens/, norms, biases and embeddings:" in " ".join(
        said.split()
    )
    groups = json.loads((tmp_path / "run" / "plan.json").read_text())["parameter_groups"]
    assert groups[0]["learning_rate"] == pytest.approx(1e-4)
    assert {"num_tensors", "num_parameters", "weight_decay", "name"} <= groups[0].keys()
