"""Every adapter: what it trains, that it starts from the base, merges, is saved and is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from adapters_of_peft import BEFORE_THE_TEXT, MIXED_BY_TOKEN, NAMES, adapter_named, trained
from architectures import batch_of, document, tiny_model
from safetensors.torch import load_file, save_file

from framework.core.problems import UserError
from framework.core.protocols.models import Penalising, Stepping, TellingShapes
from framework.core.registries import registry
from framework.core.settings import documentation
from framework.data_sources.jsonl import Jsonl
from framework.engine.parameter_groups import parameter_groups
from framework.model_sources.hub import Hub
from framework.models.policy import CausalPolicy
from framework.models.quiet import quiet
from framework.recipe import schema
from framework.trainers.sft import SFT

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
START_ELSEWHERE = (*BEFORE_THE_TEXT, "fourierft")
"""Adapters that change the model before they have learned anything."""
MERGEABLE = tuple(name for name in NAMES if name not in (*BEFORE_THE_TEXT, *MIXED_BY_TOKEN))
OF_PEFT = tuple(name for name in NAMES if name not in MIXED_BY_TOKEN)
ROUNDING = 1e-4  # float32: the change is added to the weights instead of to their products
NUM_STEPS = 4

LOAD_ELSEWHERE = """
import json, sys
from pathlib import Path
sys.modules["framework"] = None  # as if it were not installed
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder = Path(sys.argv[1])
tokens = load_file(folder / "tokens.safetensors")["tokens"]
found = {}
for adapter in json.loads(sys.argv[2]):
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = PeftModel.from_pretrained(base, str(folder / adapter)).eval()
    with torch.no_grad():
        found[adapter] = model(input_ids=tokens).logits[:, -tokens.shape[1]:].contiguous()
save_file(found, folder / "found.safetensors")
"""


def applied(name, architecture="llama", model=None):
    torch.manual_seed(0)
    with quiet():
        return adapter_named(name).apply(model or tiny_model(architecture))


def train_a_little(adapter, model, rate=0.02):
    optimizer = torch.optim.AdamW(trained(model).values(), lr=rate)
    losses = []
    for step in range(NUM_STEPS):
        if isinstance(adapter, Stepping):
            adapter.before_step(model, step, NUM_STEPS, 0)
        loss = CausalPolicy(model).negative_log_likelihood(BATCH).mean()
        added = adapter.penalty(model) if isinstance(adapter, Penalising) else 0.0
        (loss + added).backward()
        optimizer.step()
        if isinstance(adapter, Stepping):
            adapter.after_step(model, step, NUM_STEPS)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(model):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(BATCH)


def problems(adapter, model=None, **tokenizer):
    recipe = schema.Recipe(
        model=model or schema.Model(source=Hub(repo="owner/name")),
        tokenizer=schema.Tokenizer(**tokenizer),
        data=schema.Data(train=(schema.Dataset(source=Jsonl(path="rows.jsonl")),)),
        adapter=adapter,
        output=schema.Output(dir="run"),
    )
    return list(adapter.check(recipe))


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented_and_the_defaults_have_no_problem(name):
    fields = {field.name for field in dataclasses.fields(registry("adapters").get(name))}
    assert fields <= set(documentation(registry("adapters").get(name)))
    assert not problems(adapter_named(name))


@pytest.mark.parametrize("name", NAMES)
def test_it_says_whether_it_trains_matrices_inside_layers(name):
    adapter = adapter_named(name)
    trainer = schema.Trainer(method=SFT(), learning_rate=1e-3)
    groups = parameter_groups(applied(name), trainer, adapter)
    says = not isinstance(adapter, TellingShapes) or adapter.trains_matrices
    assert says == any(group["hidden"] for group in groups)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_from_the_base_trains_and_merges(name):
    adapter = adapter_named(name)
    base = logits(tiny_model("gemma"))
    model = applied(name, "gemma")
    starts_as_base = torch.allclose(logits(model), base, atol=2e-5)
    assert starts_as_base == (name not in START_ELSEWHERE)
    losses = train_a_little(adapter, model.train())
    assert losses[-1] < losses[0]
    tuned = logits(model)
    assert not torch.allclose(tuned, base, atol=1e-2)
    with model.disable_adapter():
        assert torch.allclose(logits(model), base, atol=2e-5)
    if name in MERGEABLE:
        plain = adapter.merge(model)
        assert type(plain) is type(tiny_model("gemma"))
        assert torch.allclose(logits(plain), tuned, rtol=ROUNDING, atol=ROUNDING)
    else:
        with pytest.raises(UserError, match="can't be merged"):
            adapter.merge(model)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_stay_and_16_bit_weights_get_a_float32_adapter(name):
    model = applied(name, model=tiny_model("llama").to(torch.bfloat16))
    before = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    train_a_little(adapter_named(name), model.train())
    after = dict(model.named_parameters())
    assert all(torch.equal(after[key], p) for key, p in before.items())
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prefix_tuning"])
def test_gradient_checkpointing_changes_no_gradient(name):
    def gradients(checkpointing):
        model = applied(name)
        if checkpointing:
            plain = model.get_base_model()
            plain.gradient_checkpointing_enable({"use_reentrant": False})
            plain.enable_input_require_grads()
        CausalPolicy(model.train()).negative_log_likelihood(BATCH).sum().backward()
        return {key: p.grad for key, p in trained(model).items()}

    plain, checkpointed = gradients(False), gradients(True)
    assert all(value is not None for value in plain.values())
    assert all(torch.allclose(plain[key], checkpointed[key], atol=1e-6) for key in plain)


def test_saved_adapters_load_in_plain_peft_without_this_package(tmp_path):
    tokens = torch.tensor([document(20, seed=1).tokens])
    tiny_model("llama").save_pretrained(tmp_path / "base")
    wanted = {}
    for name in OF_PEFT:
        model = applied(name)
        train_a_little(adapter_named(name), model.train())
        with torch.no_grad():
            wanted[name] = model.eval()(input_ids=tokens).logits[:, -20:].clone()
        with quiet():
            model.save_pretrained(tmp_path / name)
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    ended = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_ELSEWHERE, str(tmp_path), json.dumps(OF_PEFT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    found = load_file(tmp_path / "found.safetensors")
    far = {
        name: (found[name] - wanted[name]).abs().max().item()
        for name in OF_PEFT
        if not torch.allclose(found[name], wanted[name], atol=1e-5)
    }
    assert not far


@pytest.mark.parametrize("name", NAMES)
def test_new_tokens_whose_embeddings_stay_frozen_are_a_problem(name):
    if name == "trainable_tokens":
        assert not problems(adapter_named(name), add_tokens=("<|call|>",))
        return
    (problem,) = problems(adapter_named(name), add_tokens=("<|call|>",))
    assert "modules_to_save: [embed_tokens, lm_head]" in problem.hint
    if name in MERGEABLE:
        repaired = adapter_named(name, modules_to_save=("embed_tokens", "lm_head"))
        assert not problems(repaired, add_tokens=("<|call|>",))
        with quiet():
            model = repaired.apply(tiny_model("llama"))
        assert any("modules_to_save" in key for key in trained(model))


@pytest.mark.parametrize("name", [name for name in MERGEABLE if name != "trainable_tokens"])
def test_names_that_fit_nothing_are_refused_with_those_there_are(name):
    names = {"target_modules": ("q_prj",)}
    if name == "ia3":
        names["feedforward_modules"] = ("q_prj",)
    with pytest.raises(UserError, match=r"'q_prj' fits no module[^;]*; did you mean 'q_proj'\?"):
        adapter_named(name, **names).apply(tiny_model("llama"))


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("adalora", {"target_r": 6}, ".target_r"),
        ("adalora", {"tinit_ratio": 0.5, "tfinal_ratio": 0.5}, ".tfinal_ratio"),
        ("ia3", {"target_modules": ("k_proj",)}, ".feedforward_modules"),
        ("ia3", {"feedforward_modules": ("k_proj",)}, ".target_modules"),
        (
            "ia3",
            {"target_modules": ("k_proj",), "feedforward_modules": ("down_proj",)},
            ".feedforward_modules",
        ),
        ("hra", {"r": 3}, ".r"),
        ("oft", {"target_modules": "*proj"}, ".target_modules"),
        ("prompt_tuning", {"prompt_tuning_init": "text"}, ".prompt_tuning_init_text"),
        ("prompt_tuning", {"prompt_tuning_init_text": "Hi"}, ".prompt_tuning_init_text"),
        ("p_tuning", {"encoder_dropout": 0.1}, ".encoder_dropout"),
        ("prefix_tuning", {"encoder_hidden_size": 8}, ".encoder_hidden_size"),
        ("trainable_tokens", {"token_indices": (-1,)}, ".token_indices"),
    ],
)
def test_settings_that_contradict_each_other_are_found_without_a_model(name, settings, key):
    (problem,) = problems(adapter_named(name, **settings))
    assert problem.key == key
    assert problem.hint


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("oft", {"oft_block_size": 48}),
        ("c3a", {"block_size": 48}),
        ("shira", {"r": 64}),
        ("road", {"group_size": 48}),
        ("trainable_tokens", {"token_indices": (4000,)}),
        ("boft", {"boft_n_butterfly_factor": 2}),
    ],
)
def test_sizes_that_do_not_fit_the_model_are_refused(name, settings):
    with pytest.raises(UserError), quiet():
        adapter_named(name, **settings).apply(tiny_model("llama"))


def test_the_last_step_decides_about_ranks_whatever_the_interval():
    adapter = adapter_named("adalora", delta_t=NUM_STEPS, tfinal_ratio=0.0, tinit_ratio=0.0)
    model = adapter.apply(tiny_model("llama"))
    train_a_little(adapter, model)
    values = [p for name, p in trained(model).items() if "lora_E" in name]
    assert sum(int(p.count_nonzero()) for p in values) == adapter.target_r * len(values)


def test_a_prefix_is_refused_where_layers_are_computed_again():
    model = schema.Model(source=Hub(repo="owner/name"), gradient_checkpointing=True)
    (problem,) = problems(adapter_named("prefix_tuning"), model=model)
    assert problem.key == "model.gradient_checkpointing"
