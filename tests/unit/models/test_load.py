"""Loading: every weight from the folder, documents kept apart, the adapter applied."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import build, tiny_model
from safetensors.torch import load_file, save_file

from framework.adapters.full import Full
from framework.adapters.lora import LoRA
from framework.core.problems import UserError
from framework.core.world import World
from framework.data_sources.jsonl import Jsonl
from framework.formatters.messages import Messages
from framework.model_sources.local import Local
from framework.models.isolation import prove_isolation
from framework.models.load import as_loaded, load_bundle, load_weights
from framework.models.tokenizer import load_tokenizer
from framework.planning.plan import make_plan
from framework.recipe import schema
from framework.recipe.resolve import Resolved
from framework.strategies.ddp import DDP
from framework.trainers.sft import SFT


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def recipe(folder, adapter=None, max_length=128, **sections):
    dataset = schema.Dataset(source=Jsonl(path="rows.jsonl"), format=Messages())
    parts = {
        "model": schema.Model(source=Local(path=str(folder))),
        "data": schema.Data(train=(dataset,), max_length=max_length),
        "adapter": adapter or Full(),
        "trainer": schema.Trainer(method=SFT()),
        "strategy": DDP(),
        "output": schema.Output(dir="run"),
    }
    return schema.Recipe(**{**parts, **sections})


def load(recipe, dtype="float32"):
    model = dataclasses.replace(recipe.model, dtype=dtype)
    recipe = dataclasses.replace(recipe, model=model)
    resolved = Resolved(recipe=recipe, values={}, origins={}, warnings=())
    folder = recipe.model.source.fetch()
    tokenizer = load_tokenizer(folder, recipe.tokenizer)
    return load_bundle(make_plan(resolved, World()), folder, tokenizer), tokenizer


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_settings(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_full_bundle_trains_every_weight_in_its_dtype(folder):
    bundle, _ = load(recipe(folder), dtype="bfloat16")
    assert bundle.num_trained_parameters == bundle.num_parameters > 0
    assert {p.dtype for p in bundle.model.parameters()} == {torch.bfloat16}


def test_a_lora_bundle_trains_only_float32_matrices(folder):
    bundle, _ = load(recipe(folder, LoRA(r=2)), dtype="bfloat16")
    trained = {n: p for n, p in bundle.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert bundle.num_trained_parameters == sum(p.numel() for p in trained.values())
    frozen = [p for p in bundle.model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_a_missing_weight_is_an_error_that_names_it(folder):
    change_settings(folder, tie_word_embeddings=False)
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"lacks 1 weight \(lm_head.weight\)"):
        load_weights(folder, dtype="float32", attention="segmented_sdpa")


def test_a_left_over_weight_is_an_error_that_names_it(folder):
    change_weights(folder, lambda weights: weights.update({"value_head.weight": torch.ones(2)}))
    with pytest.raises(UserError, match=r"holds 1 weight \(value_head.weight\)"):
        load_weights(folder, dtype="float32", attention="segmented_sdpa")


def test_a_weight_of_another_shape_is_an_error(folder):
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(UserError, match=r"can't be loaded|another shape"):
        load_weights(folder, dtype="float32", attention="segmented_sdpa")


def test_a_cut_off_weights_file_is_an_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="can't be loaded"):
        load_weights(folder, dtype="float32", attention="segmented_sdpa")


def test_code_in_the_folder_is_never_run(folder, tmp_path):
    change_settings(
        folder, model_type="strange", auto_map={"AutoModelForCausalLM": "modeling.Strange"}
    )
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="can't be loaded"):
        load_weights(folder, dtype="float32", attention="segmented_sdpa")
    assert not (tmp_path / "ran").exists()


def test_added_tokens_start_at_the_mean_of_the_old_ones(folder):
    settings = schema.Tokenizer(add_tokens=("<|call|>", "<|result|>"))
    bundle, tokenizer = load(recipe(folder, tokenizer=settings))
    weight = bundle.model.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(["<|call|>", "<|result|>"])
    assert weight.shape[0] == len(tokenizer) == max(ids) + 1
    assert torch.allclose(weight[ids], weight[: ids[0]].mean(0).expand(2, -1), atol=1e-6)
    assert tokenizer.encode("<|call|>", add_special_tokens=False) == [ids[0]]


def test_documents_longer_than_the_models_positions_are_refused(folder):
    with pytest.raises(UserError, match="4096 is longer than the model's 512 positions"):
        load(recipe(folder, max_length=4096))


def test_gradient_checkpointing_is_on_when_the_recipe_says_so(folder):
    for adapter in (Full(), LoRA(r=2)):
        model = schema.Model(source=Local(path=str(folder)), gradient_checkpointing=True)
        bundle, _ = load(recipe(folder, adapter, model=model))
        assert any(getattr(m, "gradient_checkpointing", False) for m in bundle.model.modules())


def test_a_model_that_mixes_documents_is_refused_with_the_line_to_write():
    settings = {"layer_types": ["conv", "full_attention"]}
    model = build("Lfm2Config", settings)
    with pytest.raises(UserError, match="logits change when its neighbour does") as caught:
        prove_isolation(model)
    assert "data.packing: false" in str(caught.value)
    assert "trainer.micro_batch_size: 1" in str(caught.value)


def test_a_model_that_mixes_documents_has_them_one_by_one_where_nobody_asks_for_more(folder):
    tokens = len(load_tokenizer(folder, schema.Tokenizer()))
    settings = {"layer_types": ["conv", "full_attention"], "vocab_size": tokens}
    build("Lfm2Config", settings).save_pretrained(folder)
    data = dataclasses.replace(recipe(folder).data, packing=False)
    alone = recipe(folder, data=data)
    bundle, _ = load(alone)
    assert "logits change when its neighbour does" in bundle.alone_because
    resolved = Resolved(recipe=alone, values={}, origins={}, warnings=())
    plan = as_loaded(make_plan(resolved, World()), bundle)
    assert (plan.pass_size.num_units, plan.num_accumulation_steps) == (1, 16)
    assert plan.notes[-1].startswith("trainer.micro_batch_size: auto is 1: Lfm2ForCausalLM can't")
    for asked in (schema.Trainer(method=SFT(), micro_batch_size=2), schema.Trainer(method=SFT())):
        packing = asked.micro_batch_size == "auto"
        parts = {"data": dataclasses.replace(data, packing=packing), "trainer": asked}
        with pytest.raises(UserError, match="logits change when its neighbour does"):
            load(recipe(folder, **parts))


def test_a_model_that_takes_no_boundaries_is_refused():
    model = build("BloomConfig", {"n_head": 4, "n_layer": 2}, attention="eager")
    with pytest.raises(UserError, match="can't keep documents apart"):
        prove_isolation(model)


def test_a_model_that_takes_boundaries_and_keeps_them_from_its_attention_is_refused():
    with pytest.raises(UserError, match="StableLmAttention isn't told the documents' boundaries"):
        prove_isolation(build("StableLmConfig", {}))


def test_a_model_whose_positions_do_not_restart_is_refused():
    model = build("GPT2Config", {"n_head": 4, "n_layer": 2, "n_positions": 64})

    class Counting(type(model)):
        def forward(self, position_ids, **inputs):
            positions = torch.arange(position_ids.shape[1])[None]
            return super().forward(position_ids=positions, **inputs)

    prove_isolation(model)
    model.__class__ = Counting
    with pytest.raises(UserError, match="are not those that it has alone"):
        prove_isolation(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["segmented_sdpa", "eager"])
def test_models_that_keep_documents_apart_are_let_through(dtype, attention):
    model = tiny_model("llama", attention=attention).to(dtype).train()
    prove_isolation(model)
    assert model.training


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux for mapped files")
@pytest.mark.parametrize(("dtype", "is_mapped"), [("float32", True), ("bfloat16", False)])
def test_processes_share_weights_that_keep_the_dtype_of_their_file(folder, dtype, is_mapped):
    """Read for several processes of a node, a model then takes memory once."""
    model = load_weights(folder, dtype=dtype, attention="segmented_sdpa")
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(folder / "model.safetensors"))
    ]
    mapped = [
        any(start <= parameter.data_ptr() < stop for start, stop in ranges)
        for parameter in model.parameters()
    ]
    assert set(mapped) == {is_mapped}
