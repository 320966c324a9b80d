"""LoRA: what it trains, what it refuses, and that merging keeps the model."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from architectures import batch_of, document, tiny_model
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from framework.adapters.full import Full
from framework.adapters.lora import LoRA
from framework.adapting.targets import name_exactly
from framework.core.problems import UserError
from framework.core.registries import registry
from framework.core.settings import documentation
from framework.data_sources.jsonl import Jsonl
from framework.model_sources.hub import Hub
from framework.models.policy import CausalPolicy
from framework.recipe import schema

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
BATCH = batch_of(document(20, seed=1), document(9, seed=2))


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def problems(adapter, **tokenizer):
    recipe = schema.Recipe(
        model=schema.Model(source=Hub(repo="owner/name")),
        tokenizer=schema.Tokenizer(**tokenizer),
        data=schema.Data(train=(schema.Dataset(source=Jsonl(path="rows.jsonl")),)),
        adapter=adapter,
        output=schema.Output(dir="run"),
    )
    return list(adapter.check(recipe))


def train_a_little(model):
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.02)
    for _ in range(3):
        CausalPolicy(model).negative_log_likelihood(BATCH).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(BATCH)


def test_both_are_registered_and_every_setting_is_documented():
    assert registry("adapters").get("full") is Full
    assert registry("adapters").get("lora") is LoRA
    fields = {field.name for field in dataclasses.fields(LoRA)}
    assert fields == set(documentation(LoRA)) - {"trains_all_weights"}


def test_full_trains_everything_and_merges_to_itself():
    model = tiny_model("llama").requires_grad_(False)
    applied = Full().apply(model)
    assert set(trained(applied)) == {name for name, _ in model.named_parameters()}
    assert Full().merge(applied) is model


def test_all_linear_means_every_linear_layer_but_the_head():
    names = trained(LoRA().apply(tiny_model("llama")))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == LINEAR


def test_16_bit_weights_get_a_float32_update():
    model = LoRA().apply(tiny_model("llama").to(torch.bfloat16))
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_whole_modules_beside_16_bit_weights_are_trained_in_float32(architecture):
    # gemma's input and output embeddings are tied, and stay so.
    adapter = LoRA(r=4, modules_to_save=("embed_tokens", "lm_head", "input_layernorm"))
    model = adapter.apply(tiny_model(architecture).to(torch.bfloat16))
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16
    train_a_little(model.train())
    assert torch.isfinite(logits(model)).all()
    ids = {id(p) for name, p in trained(model).items() if "embed" in name or "lm_head" in name}
    assert len(ids) == (1 if architecture == "gemma" else 2)


@pytest.mark.parametrize(
    "adapter",
    [
        LoRA(r=4),
        LoRA(r=4, use_rslora=True, rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 4}),
        LoRA(r=4, use_dora=True),
        LoRA(r=4, init_lora_weights="pissa"),
        LoRA(r=4, init_lora_weights="olora"),
        LoRA(r=4, init_lora_weights="orthogonal"),
        LoRA(r=4, init_lora_weights="gaussian"),
        LoRA(r=4, target_modules=("q_proj", "v_proj"), layers_to_transform=(1,)),
        LoRA(r=4, target_modules=r".*layers\.0\..*(up|down)_proj", exclude_modules=("up_proj",)),
        LoRA(r=4, modules_to_save=("embed_tokens", "lm_head")),
        LoRA(r=4, trainable_token_indices=(5, 6)),
    ],
    ids=lambda adapter: ",".join(
        f.name for f in dataclasses.fields(adapter) if getattr(adapter, f.name) != f.default
    ),
)
@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_the_merged_model_is_the_adapter_on_its_base(adapter, architecture):
    # gemma's input and output embeddings are tied, llama's are not.
    model = adapter.apply(tiny_model(architecture))
    before = logits(model)
    train_a_little(model.train())
    expected = logits(model)
    assert not torch.allclose(before, expected, atol=1e-2)
    merged = adapter.merge(model)
    assert type(merged) is type(tiny_model(architecture))
    assert not any("lora" in name for name, _ in merged.named_parameters())
    # Float32: the update is added to the weights instead of to their products.
    assert torch.allclose(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_an_update_that_is_not_finite_is_not_merged():
    model = LoRA(r=2).apply(tiny_model("llama"))
    next(iter(trained(model).values())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="can't be merged"):
        LoRA(r=2).merge(model)


def test_names_that_fit_nothing_are_reported_together_with_those_there_are():
    adapter = LoRA(
        target_modules=("q_prj", "v_proj"),
        exclude_modules="nothing.*",
        rank_pattern={"k_prj": 4},
        modules_to_save=("score",),
        layers_to_transform=(7,),
    )
    with pytest.raises(UserError) as caught:
        adapter.apply(tiny_model("llama"))
    assert [problem.key for problem in caught.value.problems] == [
        "adapter.target_modules",
        "adapter.exclude_modules",
        "adapter.modules_to_save",
        "adapter.rank_pattern",
        "adapter.layers_to_transform",
    ]
    text = str(caught.value)
    assert "did you mean 'q_proj'?" in text
    assert "layers are 0 to 1" in text
    assert all(name in text for name in LINEAR)


def test_added_tokens_whose_embeddings_stay_frozen_are_a_problem():
    (problem,) = problems(LoRA(), add_tokens=("<|call|>",))
    assert problem.key == ".modules_to_save"
    assert "modules_to_save: [embed_tokens, lm_head]" in problem.hint
    assert not problems(LoRA(modules_to_save=("embed_tokens",)), add_tokens=("<|call|>",))
    assert not problems(LoRA(trainable_token_indices=(9,)), add_tokens=("<|call|>",))


@pytest.mark.parametrize(
    ("adapter", "key"),
    [
        (LoRA(target_modules="*proj"), ".target_modules"),
        (LoRA(rank_pattern={"q_(": 4}), ".rank_pattern['q_(']"),
        (LoRA(rank_pattern={"q_proj": 0}), ".rank_pattern['q_proj']"),
        (LoRA(alpha_pattern={"q_proj": -1}), ".alpha_pattern['q_proj']"),
        (LoRA(layers_to_transform=(0,)), ".layers_to_transform"),
        (LoRA(layers_pattern="blocks"), ".layers_pattern"),
        (
            LoRA(target_modules=("q_proj",), layers_to_transform=(0,), layers_pattern="(a+)+"),
            ".layers_pattern",
        ),
        (LoRA(r=3, init_lora_weights="orthogonal"), ".r"),
    ],
)
def test_settings_that_contradict_each_other_are_found_without_a_model(adapter, key):
    (problem,) = problems(adapter)
    assert problem.key == key
    assert problem.hint


def test_the_defaults_have_no_problem():
    assert not problems(LoRA())


def test_experts_of_a_mixture_can_be_targeted_and_merged():
    adapter = LoRA(r=2, target_modules=("q_proj",), target_parameters=("mlp.experts.gate_up_proj",))
    model = adapter.apply(tiny_model("qwen2_moe"))
    assert any("experts" in name for name in trained(model))
    train_a_little(model.train())
    expected = logits(model)
    assert torch.allclose(logits(adapter.merge(model)), expected, rtol=1e-4, atol=1e-4)


PATTERNS = (
    {"target_modules": r".*\.(q|v)_proj"},
    {
        "target_modules": r"model\.layers\.1\..*",
        "exclude_modules": r".*(norm|act_fn|mlp|self_attn)",
    },
    {"target_modules": "lm_head|.*up_proj"},
    {
        "target_modules": r".*_proj",
        "rank_pattern": {r"layers\.0\..*": 2, "q_proj": 3, r".*[vo]_proj": 5},
    },
    {"target_modules": r".*_proj", "alpha_pattern": {r"(q|k)_proj": 2, r"^model.*down_proj": 7}},
    {"target_modules": ("q_proj", "k_proj"), "rank_pattern": {"q_proj": 3, "layers.1.*": 2}},
)


@pytest.mark.parametrize("settings", PATTERNS)
def test_patterns_choose_what_peft_chooses_by_them(settings):
    """Though it is given names; and what it saves is what plain peft loads."""

    def found(model: Any) -> dict[str, tuple[int, float]]:
        layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
        return {name: (one.r["default"], one.scaling["default"]) for name, one in layers.items()}

    ours = LoRA(r=4, lora_alpha=8, **settings).apply(tiny_model("llama"))
    given = {key: list(one) if isinstance(one, tuple) else one for key, one in settings.items()}
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **given)
    wanted = found(get_peft_model(tiny_model("llama"), config))
    assert found(ours) == wanted
    assert wanted
    saved = ours.peft_config["default"]
    written = {name: getattr(saved, name) for name in settings}
    for name, value in settings.items():
        # No pattern of a recipe gets there, for `re` to look for it.
        assert written[name] != value or not isinstance(value, str), name
        if name.endswith("_pattern"):
            assert all(re.fullmatch(r"\^\(\?:[\w.|\\]+\)", one) for one in written[name]), written
    again = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **written)
    assert found(get_peft_model(tiny_model("llama"), again)) == wanted


def test_a_pattern_for_a_path_with_which_another_one_ends_means_that_one_alone():
    paths = ("lm_head", "inner", "inner.lm_head")
    config = LoraConfig(target_modules="lm_head", rank_pattern={"^lm_head": 2})
    name_exactly(config, paths)
    assert [one for one in paths if check_target_module_exists(config, one)] == ["lm_head"]
    (pattern,) = config.rank_pattern
    assert [one for one in paths if get_pattern_key([pattern], one) == pattern] == ["lm_head"]
