"""Mixtures of LoRA experts: what a layer computes, what is trained, saved, loaded and refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from adapters_of_peft import trained
from architectures import batch_of, build, document, tiny_model
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from framework.adapters.lora import LoRA
from framework.adapters.lora_experts import LoRAExperts
from framework.adapting.expert_router import routed_layers
from framework.core.problems import UserError
from framework.data_sources.jsonl import Jsonl
from framework.model_sources.hub import Hub
from framework.models.policy import CausalPolicy
from framework.models.quiet import quiet
from framework.recipe import schema

DOCUMENTS = (document(20, seed=1), document(9, seed=2), document(33, seed=3))
BATCH = batch_of(*DOCUMENTS)
EXACT = 1e-5


def started(adapter, architecture="llama"):
    torch.manual_seed(0)
    with quiet():
        return adapter.apply(tiny_model(architecture))


def disturbed(model):
    """With routers and experts away from where they start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def logits(model, batch=BATCH):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(batch)


def gradients(model):
    CausalPolicy(model.train()).negative_log_likelihood(BATCH).sum().backward()
    return {name: parameter.grad for name, parameter in trained(model).items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two trained adapters of different rank, scale and modules."""
    found = []
    for number, adapter in enumerate(
        (
            LoRA(r=4, lora_alpha=6),
            LoRA(r=2, use_rslora=True, target_modules=("q_proj", "down_proj", "up_proj")),
        )
    ):
        folder = tmp_path_factory.mktemp(f"expert{number}")
        with quiet():
            disturbed(started(adapter)).save_pretrained(folder)
        found.append(str(folder))
    return tuple(found)


def problems(adapter):
    recipe = schema.Recipe(
        model=schema.Model(source=Hub(repo="owner/name")),
        data=schema.Data(train=(schema.Dataset(source=Jsonl(path="rows.jsonl")),)),
        adapter=adapter,
        output=schema.Output(dir="run"),
    )
    return list(adapter.check(recipe))


def test_one_expert_is_the_plain_adapter(folders):
    for folder in folders:
        plain = PeftModel.from_pretrained(tiny_model("llama"), folder)
        # Whatever its router says, it has all the weight.
        mixture = disturbed(started(LoRAExperts(experts=(folder,))))
        assert torch.allclose(logits(mixture), logits(plain), atol=EXACT)
        assert not torch.allclose(logits(mixture), logits(tiny_model("llama")), atol=1e-1)


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_a_layer_is_the_mixture_that_is_computed_by_hand(folders, top_k):
    adapter = LoRAExperts(experts=folders, num_new_experts=1, top_k=top_k, train_experts=True, r=3)
    model = disturbed(started(adapter))
    layers = routed_layers(model)
    num_experts_found = set()
    for path, layer in layers.items():
        inputs = torch.randn(2, 7, layer.in_features)
        said = torch.einsum("bnd,ed->bne", inputs, layer.router.weight)
        shares = said.exp() / said.exp().sum(-1, keepdim=True)
        if top_k is not None:
            least = shares.sort(-1, descending=True).values[..., top_k - 1 : top_k]
            shares = torch.where(shares >= least, shares, 0)
            shares = shares / shares.sum(-1, keepdim=True)
        wanted = nn.functional.linear(inputs, layer.get_base_layer().weight)
        for at, scale in enumerate((6 / 4, 32 / 2**0.5, 32 / 3)):
            name = f"expert_{at:03d}"
            if name in layer.lora_A:
                change = layer.lora_B[name].weight @ layer.lora_A[name].weight
                wanted = wanted + scale * shares[..., at, None] * (inputs @ change.T)
        num_experts_found.add(len(layer.lora_A))
        assert torch.allclose(layer(inputs), wanted, atol=EXACT, rtol=1e-4), path
    assert len(layers) == 14
    assert num_experts_found == {2, 3}


def test_it_starts_as_the_mean_of_its_experts_or_as_the_base(folders):
    model = started(LoRAExperts(experts=folders))
    for layer in routed_layers(model).values():
        inputs = torch.randn(1, 3, layer.in_features)
        change = sum(layer.get_delta_weight(name) for name in layer.lora_A) / 2
        wanted = layer.get_base_layer()(inputs) + inputs @ change.T
        assert torch.allclose(layer(inputs), wanted, atol=EXACT, rtol=1e-4)
    fresh = started(LoRAExperts(num_new_experts=3, top_k=2, r=4))
    assert torch.allclose(logits(fresh), logits(tiny_model("llama")), atol=EXACT)


def test_each_document_of_a_pack_is_what_it_is_alone(folders):
    model = disturbed(started(LoRAExperts(experts=folders, num_new_experts=1, top_k=2)))
    alone = [logits(model, batch_of(one)) for one in DOCUMENTS]
    assert torch.allclose(logits(model), torch.cat(alone), atol=EXACT, rtol=1e-4)


def test_layers_that_are_computed_again_have_the_same_gradients(folders):
    adapter = LoRAExperts(experts=folders, num_new_experts=1, top_k=2, train_experts=True)
    plain = gradients(disturbed(started(adapter)))
    model: PeftModel = disturbed(started(adapter))
    inner = model.get_base_model()
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    inner.enable_input_require_grads()
    again = gradients(model)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(value.abs().max() > 0 for name, value in plain.items() if "router" in name)


def test_experts_from_folders_stay_frozen_also_after_the_adapter_was_off(folders):
    model = started(LoRAExperts(experts=folders, num_new_experts=1))
    names = set(trained(model))
    assert any("router" in name for name in names)
    assert {match[0] for name in names if (match := re.search(r"expert_\d+", name))} == {
        "expert_002"
    }
    base = logits(tiny_model("llama"))
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert set(trained(model)) == names
    everything = trained(started(LoRAExperts(experts=folders, train_experts=True)))
    assert any("expert_000" in name for name in everything)


def test_experts_that_do_not_count_for_a_token_get_nothing_from_it(folders):
    model = disturbed(started(LoRAExperts(experts=folders, num_new_experts=2, top_k=1)))
    for layer in routed_layers(model).values():
        shares = layer.router(torch.randn(5, layer.in_features))
        assert torch.equal(shares.sort(-1).values, torch.tensor([[0.0, 0, 0, 1]] * 5))


def test_what_is_saved_is_the_mixture_again_and_each_expert_a_plain_adapter(folders, tmp_path):
    adapter = LoRAExperts(experts=folders, num_new_experts=1, top_k=2, r=3)
    model = disturbed(started(adapter))
    wanted = logits(model)
    with quiet():
        adapter.save(model, tmp_path)
        again = adapter.load(tiny_model("llama"), tmp_path)
    assert torch.equal(logits(again), wanted)
    for number, folder in enumerate(folders):
        frozen = load_file(tmp_path / f"expert_{number:03d}" / "adapter_model.safetensors")
        kept = load_file(f"{folder}/adapter_model.safetensors")
        assert frozen.keys() == kept.keys()
        assert all(torch.equal(frozen[name], kept[name]) for name in kept)
    new = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "expert_002"))
    assert not torch.allclose(logits(new), logits(tiny_model("llama")), atol=1e-2)
    with pytest.raises((KeyError, ValueError)):
        PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path))
    with pytest.raises(UserError, match=r"differs from token to token; .*framework chat"):
        adapter.merge(model)
    with pytest.raises(UserError, match="differs from token to token"):
        model.merge_adapter()


def test_16_bit_weights_get_float32_experts_and_routers(folders):
    with quiet():
        model = LoRAExperts(experts=folders, num_new_experts=1).apply(
            tiny_model("llama").to(torch.bfloat16)
        )
    assert {parameter.dtype for parameter in trained(model).values()} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_what_cannot_be_mixed_is_found_without_a_model(folders, tmp_path):
    shutil.copy(f"{folders[0]}/adapter_model.safetensors", tmp_path)
    config = json.loads(Path(folders[0], "adapter_config.json").read_text(encoding="utf-8"))
    for changed, said in (
        ({"use_dora": True}, "use_dora True, which can't be mixed"),
        ({"init_lora_weights": "pissa"}, "its start 'pissa' had changed"),
        ({"base_model_name_or_path": "some/other"}, "was trained over some/other"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changed}))
        (problem,) = problems(LoRAExperts(experts=(*folders, str(tmp_path))))
        assert problem.key == ".experts[2]"
        assert said in problem.what
    (problem,) = problems(LoRAExperts())
    assert problem.key == ".experts"
    (problem,) = problems(LoRAExperts(num_new_experts=2, top_k=3))
    assert problem.key == ".top_k"


def test_experts_of_another_model_are_refused(folders):
    with pytest.raises(UserError, match=r"has the shape .*, and .* in this recipe's adapter"):
        LoRAExperts(experts=folders[:1]).apply(build("LlamaConfig", {"hidden_size": 32}))
    with pytest.raises(UserError, match="only those are routed"):
        started(LoRAExperts(num_new_experts=1, target_modules=("embed_tokens",)))
