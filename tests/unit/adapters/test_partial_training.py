"""Freezing, half fine-tuning and LISA: which weights move, and that no other does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import batch_of, document, tiny_model
from conftest import read_rows
from safetensors.torch import load_file
from warm_start import FRAMEWORK

from framework.adapters.freeze import Freeze
from framework.adapters.half import Half
from framework.adapters.lisa import LISA
from framework.core.problems import UserError
from framework.core.protocols.models import Stepping
from framework.core.settings import documentation
from framework.data_sources.jsonl import Jsonl
from framework.model_sources.hub import Hub
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.recipe import schema

pytestmark = pytest.mark.usefixtures("warm")

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
LOADS_ELSEWHERE = """
import sys
from transformers import AutoModelForCausalLM
assert not any(name.split(".")[0] == "framework" for name in sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(sum(p.numel() for p in model.parameters()))
"""


def trained_names(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def problems(adapter, **tokenizer):
    recipe = schema.Recipe(
        model=schema.Model(source=Hub(repo="owner/name")),
        tokenizer=schema.Tokenizer(**tokenizer),
        data=schema.Data(train=(schema.Dataset(source=Jsonl(path="rows.jsonl")),)),
        adapter={"type": "lisa", "num_layers": 1, "interval_steps": 3},
        output=schema.Output(dir="run"),
    )
    return list(adapter.check(recipe))


def steps(adapter, num_steps, gradient_checkpointing=False):
    """A model trained so long, and which of its weights had gradients in each step."""
    model = adapter.apply(tiny_model("llama")).train()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.5)
    with_gradients = []
    for step in range(num_steps):
        if isinstance(adapter, Stepping):
            adapter.before_step(model, step, num_steps, seed=3)
        CausalPolicy(model).negative_log_likelihood(BATCH).mean().backward()
        with_gradients.append({n for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
    return model, with_gradients


def moved(model):
    before = dict(tiny_model("llama").named_parameters())
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("adapter", [Freeze, Half, LISA])
def test_every_setting_is_documented(adapter):
    assert set(vars(adapter)["__dataclass_fields__"]) <= set(documentation(adapter)) | {
        "trains_all_weights",
        "changes_trained_parameters",
        "quantized_layers",
    }


def test_a_pattern_is_whole_parts_of_a_name():
    model = Freeze(trainable=("layers.1", "lm_head")).apply(tiny_model("llama"))
    assert all(n.startswith(("model.layers.1.", "lm_head")) for n in trained_names(model))
    assert len(trained_names(model)) == 10
    assert trained_names(Freeze(trainable=(".*norm",)).apply(tiny_model("llama"))) == {
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.norm.weight",
    }
    with pytest.raises(UserError, match=r"'ayers.1' fits no weight"):
        Freeze(trainable=("ayers.1",)).apply(tiny_model("llama"))


def test_last_layers_frozen_and_trainable_add_up():
    adapter = Freeze(last_layers=1, trainable=("lm_head",), frozen=("mlp",))
    names = trained_names(adapter.apply(tiny_model("llama")))
    assert {name.split(".")[0] for name in names} == {"model", "lm_head"}
    assert len(names) == 1 + 4 + 2
    everything = dict(tiny_model("llama").named_parameters())
    but_one = trained_names(Freeze(frozen=("embed_tokens",)).apply(tiny_model("llama")))
    assert but_one == set(everything) - {"model.embed_tokens.weight"}


def test_a_tied_weight_is_meant_by_either_of_its_names():
    # gemma's output layer is its input embeddings.
    adapter = Freeze(trainable=("lm_head",))
    model = adapter.apply(tiny_model("gemma"))
    assert trained_names(model) == {"model.embed_tokens.weight"}
    (line,) = adapter.announced(model)
    assert "model.embed_tokens.weight=lm_head.weight" in line
    assert "6,208 of " in line  # 97 tokens of 64 numbers


def test_what_fits_nothing_is_reported_together():
    adapter = Freeze(trainable=("score",), frozen=("wte",), last_layers=3)
    with pytest.raises(UserError) as caught:
        adapter.apply(tiny_model("llama"))
    assert [problem.key for problem in caught.value.problems] == [
        "adapter.trainable",
        "adapter.frozen",
        "adapter.last_layers",
    ]
    with pytest.raises(UserError, match="nothing is left to train"):
        Freeze(trainable=("lm_head",), frozen=("lm_head",)).apply(tiny_model("llama"))


@pytest.mark.parametrize(
    ("adapter", "key", "tokens"),
    [
        (Freeze(), "adapter", ()),
        (Freeze(trainable=("(",)), ".trainable[0]", ()),
        (Freeze(last_layers=2), ".trainable", ("<|call|>",)),
        (Freeze(frozen=("embed_tokens",)), ".trainable", ("<|call|>",)),
    ],
)
def test_what_can_be_known_without_a_model_is_refused_without_it(adapter, key, tokens):
    (problem,) = problems(adapter, add_tokens=tokens)
    assert problem.key == key
    assert problem.hint


def test_freezing_layers_lets_added_tokens_be_trained():
    assert not problems(Freeze(trainable=("embed_tokens",)), add_tokens=("<|call|>",))
    assert not problems(Freeze(frozen=("layers.0",)), add_tokens=("<|call|>",))


@pytest.mark.parametrize(
    "adapter",
    [Freeze(last_layers=1), LISA(num_layers=1, interval_steps=2), Half(round_steps=2)],
    ids=["freeze", "lisa", "half"],
)
def test_only_what_has_gradients_moves_with_and_without_checkpointing(adapter):
    plain, with_gradients = steps(adapter, 2)
    assert with_gradients[0] == with_gradients[1]
    assert moved(plain) == with_gradients[0]
    assert 0 < len(moved(plain)) < len(list(plain.parameters()))
    saved, _ = steps(adapter, 2, gradient_checkpointing=True)
    for one, other in zip(plain.parameters(), saved.parameters(), strict=True):
        assert torch.equal(one, other)


def test_lisa_trains_embeddings_and_one_layer_after_the_other():
    adapter = LISA(num_layers=1, interval_steps=2)
    _, with_gradients = steps(adapter, 12)
    layers = [{n.split(".")[2] for n in names if ".layers." in n} for names in with_gradients]
    assert all(len(one) == 1 for one in layers)
    assert layers[0::2] == layers[1::2]
    assert set.union(*layers) == {"0", "1"}
    outside = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert all(outside <= names for names in with_gradients)
    drawn = [adapter.drawn(32, step, seed=3) for step in range(0, 200, 2)]
    assert len(set(drawn)) > 20
    assert drawn != [adapter.drawn(32, step, seed=4) for step in range(0, 200, 2)]
    with pytest.raises(UserError, match="none would ever be frozen"):
        LISA(num_layers=2).apply(tiny_model("llama"))


def test_two_rounds_of_half_train_every_weight_of_a_layer_once():
    _, with_gradients = steps(Half(round_steps=1), 4)
    first, second, third, _ = (
        {name for name in names if ".layers." in name} for names in with_gradients
    )
    everything = {n for n, _ in tiny_model("llama").named_parameters() if ".layers." in n}
    assert first | second == everything
    assert not first & second
    assert third not in (first, second)
    for layer in ("0", "1"):
        of_layer = [name for name in first if f".layers.{layer}." in name]
        assert sum("self_attn" in name for name in of_layer) == 2
        assert sum("norm" in name for name in of_layer) == 1
    # Three matrices a layer: two in one, one in the other.
    assert sum(".mlp." in name for name in first) == 3


def test_half_without_rounds_never_touches_the_other_half():
    model, with_gradients = steps(Half(round_steps=None), 3)
    assert with_gradients[0] == with_gradients[2]
    assert moved(model) == with_gradients[0]


@pytest.mark.slow
def test_a_run_on_two_processes_and_one_cut_within_a_round_are_the_same_run(
    write_recipe, launched, tmp_path, tiny_model_dir
):
    recipe = write_recipe(
        model={"dtype": "float32"},
        adapter={"type": "lisa", "num_layers": 1, "interval_steps": 3},
        trainer={"max_steps": 6, "micro_batch_size": 1, "global_batch_size": 4},
        checkpoint={"every_steps": 2},
    )
    one, two = tmp_path / "one", tmp_path / "two"
    said = launched(recipe, f"output.dir={one}")
    assert "lisa: 1 of 2 layers at a time" in " ".join(said.split())
    launched(recipe, f"output.dir={two}", num_processes=2)
    first, second = (load_file(run / "final" / "model.safetensors") for run in (one, two))
    base = load_file(tiny_model_dir / "model.safetensors")
    still = {name for name in base if torch.equal(base[name], first[name])}
    assert still == {name for name in base if torch.equal(base[name], second[name])}
    for name, weight in first.items():
        # Gradients are summed in another order.
        assert torch.allclose(weight, second[name], atol=2e-5), name

    # Without its newest checkpoint the run goes on after step 4, in the middle of a round.
    whole = (one / "final" / "model.safetensors").read_bytes()
    (one / "checkpoints" / "step-00000006" / "manifest.json").unlink()
    shutil.rmtree(one / "final")
    assert "going on after step 4" in launched(recipe, f"output.dir={one}")
    assert (one / "final" / "model.safetensors").read_bytes() == whole
    assert [row["step"] for row in read_rows(one / "metrics.jsonl")] == list(range(1, 7))


def test_a_frozen_run_loads_elsewhere_and_holds_the_base_bit_for_bit(
    write_recipe, tmp_path, tiny_model_dir
):
    recipe = write_recipe(
        model={"dtype": "float32"},
        adapter={"type": "freeze", "last_layers": 1},
        trainer={"weight_decay": 0.1},
    )
    command = [*FRAMEWORK, "train", str(recipe)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    final = tmp_path / "run" / "final"
    before = load_file(tiny_model_dir / "model.safetensors")
    after = load_file(final / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".layers.1." in name}
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS_ELSEWHERE, str(final)],
        capture_output=True,
        text=True,
        check=True,
    )
    model = load_weights(Path(tiny_model_dir), dtype="float32", attention="eager")
    assert int(loaded.stdout) == sum(weight.numel() for weight in model.parameters())
    counted = json.loads((tmp_path / "run" / "result.json").read_text())
    assert counted["num_trained_parameters"] == sum(after[name].numel() for name in changed)
