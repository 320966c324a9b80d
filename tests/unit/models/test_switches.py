"""Memory and speed switches: equal numbers, fewer activations kept, reasons where none can run."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, document, tiny_model

from framework.adapters.lora import LoRA
from framework.attention.attention import choose_attention
from framework.core.problems import UserError
from framework.model_sources.hub import Hub
from framework.models.checkpointing import checkpoint_gradients
from framework.models.offload import LEAST_BYTES, OffloadedActivations, offload_activations
from framework.models.policy import CausalPolicy
from framework.models.speed import compile_layers, convert_to_float8, speed_up
from framework.recipe.schema import GradientCheckpointing, Model

BATCH = batch_of(document(60, seed=1), document(50, seed=2))


def gradients(model):
    """(loss, gradients by name, bytes that were saved for the backward pass)."""
    model.train()
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = CausalPolicy(model).negative_log_likelihood(BATCH).sum()
    num_bytes = sum(saved.values())
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), found, num_bytes


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (GradientCheckpointing(), 0.45),
        (GradientCheckpointing(every_layers=2), 0.75),
        (GradientCheckpointing(keep="products"), 1.0),
    ],
    ids=["every layer", "every second layer", "products"],
)
def test_checkpointing_gives_the_same_bits_and_keeps_less(settings, most, adapted):
    model = tiny_model("llama")
    whole = LoRA(r=2, lora_dropout=0.0).apply(model) if adapted else model
    loss, plain, num_bytes = gradients(whole)
    said = checkpoint_gradients(model, settings)
    again, found, fewer_bytes = gradients(whole)
    assert torch.equal(again, loss)
    assert same(found, plain)
    assert fewer_bytes < most * num_bytes, fewer_bytes / num_bytes
    assert f"{2 // settings.every_layers} of 2 layers" in said


def test_what_is_computed_again_is_what_the_settings_say():
    """Forward passes of a product within a layer, of both passes of a step."""

    def num_products(settings):
        from torch.utils._python_dispatch import TorchDispatchMode

        class Counting(TorchDispatchMode):
            number = 0

            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                Counting.number += function is torch.ops.aten.mm.default
                return function(*args, **(kwargs or {}))

        model = tiny_model("llama").train()
        if settings:
            checkpoint_gradients(model, settings)
        loss = CausalPolicy(model).negative_log_likelihood(BATCH).sum()
        with Counting():
            loss.backward()
        return Counting.number

    plain = num_products(None)
    assert num_products(GradientCheckpointing()) >= plain + 2 * 6
    assert num_products(GradientCheckpointing(every_layers=2)) >= plain + 6
    assert num_products(GradientCheckpointing(keep="products")) == plain


def test_layers_that_do_not_exist_cannot_be_left_out():
    with pytest.raises(UserError, match="is 3, the model has 2 layers"):
        checkpoint_gradients(tiny_model("llama"), GradientCheckpointing(every_layers=3))


def test_offloaded_activations_come_back_bit_for_bit_and_weights_stay():
    model = tiny_model("llama").train()
    loss, plain, _ = gradients(model)
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    hooks = OffloadedActivations((*model.parameters(), *model.buffers()), "cpu")
    moved = []

    def pack(tensor):
        packed = hooks.pack_hook(tensor)
        if packed is not tensor:
            assert tensor.untyped_storage().data_ptr() not in own
            moved.append(packed.copy.untyped_storage().nbytes())
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, hooks.unpack_hook):
        again = CausalPolicy(model).negative_log_likelihood(BATCH).sum()
    again.backward()
    assert torch.equal(again.detach(), loss)
    assert same({n: p.grad for n, p in model.named_parameters()}, plain)
    assert len(moved) > 10
    assert min(moved) >= LEAST_BYTES


def test_offloading_wraps_the_model_s_own_forward_and_nothing_without_gradients():
    # On a device that no tensor is on nothing moves: what is looked at is the wrapping.
    model = tiny_model("llama").eval()
    expected = CausalPolicy(model).logits(BATCH)
    assert "on, what the backward pass needs" in offload_activations(model, "meta")
    assert "logits_to_keep" in str(__import__("inspect").signature(model.forward))
    assert torch.equal(CausalPolicy(model).logits(BATCH), expected)


def test_a_switch_that_does_nothing_on_a_cpu_says_why():
    settings = Model(source=Hub(repo="owner/name"), tf32=True)
    said = list(speed_up(tiny_model("llama"), settings, "cpu"))
    assert said == [
        "tf32: does nothing, the device is cpu",
        "liger kernels: off, the device is cpu",
    ]
    assert "memory already" in offload_activations(tiny_model("llama"), "cpu")


@pytest.mark.parametrize("switch", ["float8", "liger"])
def test_a_switch_that_cannot_run_is_refused_with_the_line_to_write(switch):
    settings = Model(source=Hub(repo="owner/name"), **{switch: True})
    with pytest.raises(UserError, match="the device is cpu") as caught:
        list(speed_up(tiny_model("llama"), settings, "cpu"))
    assert caught.value.problems[0].key == f"model.{switch}"
    assert f"{switch}: " in caught.value.problems[0].hint


def test_flex_attention_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="no backward pass on cpu"):
        choose_attention("flex_attention", "cpu", "bfloat16")


def test_float8_layers_learn_nearly_the_same_and_keep_their_weights():
    from torchao.float8 import Float8LinearConfig

    model = tiny_model("llama")
    loss, plain, _ = gradients(model)
    names = list(model.state_dict())
    config = Float8LinearConfig(emulate=True, pad_inner_dim=True)
    assert convert_to_float8(model, config) == "float8: 14 linear layers compute in 8 bits"
    assert list(model.state_dict()) == names
    assert type(model.lm_head) is torch.nn.Linear
    again, found, _ = gradients(model)
    assert not torch.equal(again, loss)
    # Three bits of mantissa.
    assert again == pytest.approx(float(loss), rel=0.02)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.cosine_similarity(found[name].flatten(), plain[name].flatten(), dim=0) > 0.95


@pytest.mark.long
def test_compiled_layers_give_the_same_gradients():
    model = tiny_model("llama")
    loss, plain, _ = gradients(model)
    assert compile_layers(model) == "compile: 2 layers, in the first steps"
    again, found, _ = gradients(model)
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    for name, gradient in plain.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4), name
