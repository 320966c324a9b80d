"""Parts of a step that are computed in fewer passes, or never whole, are the plain ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import batch_of, build, document, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from framework.adapters.full import Full
from framework.adapters.lora import LoRA
from framework.fused.same_code import is_same_function
from framework.losses import cross_entropy
from framework.model_sources.hub import Hub
from framework.models.policy import CausalPolicy
from framework.models.speed import fuse
from framework.recipe.schema import GradientCheckpointing, Model

# Float32 sums in another order: a few rounding units (6e-8), grown through two layers.
TOLERANCE = 1e-5
DOCUMENTS = [document(23, seed=1), document(5, seed=2, num_prompt_tokens=3), document(40, seed=3)]
BATCH = batch_of(*DOCUMENTS)
SETTINGS = Model(source=Hub(repo="owner/name"))
ROW_BYTES = 97 * 4
"""Of one label's float32 logits."""


def step(model, **policy):
    """Losses [L] and gradients by name, of a sum in which labels count differently."""
    model.zero_grad()
    losses = CausalPolicy(model, **policy).negative_log_likelihood(BATCH)
    (losses * torch.linspace(-1, 2, len(losses))).sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return losses.detach(), found


def assert_same(found, expected, tolerance=TOLERANCE):
    assert torch.allclose(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys() and expected[1]
    for name, gradient in found[1].items():
        gap = (gradient - expected[1][name]).norm()
        assert gap <= tolerance * expected[1][name].norm() + 1e-9, name


def with_lora(model, **settings):
    """Its matrices are random: an update that is zero would hide what is wrong with it."""
    adapted = LoRA(r=4, lora_alpha=12, **settings).apply(model)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted.train()


def first_layers(model, *names) -> list[Any]:
    """Of the first of the model's repeated layers."""
    return [model.get_submodule(f"base_model.model.model.layers.0.{name}") for name in names]


def fused(model):
    again = copy.deepcopy(model)
    return again, fuse(again, SETTINGS, "cpu", shared_out=False)


# ---- norms and LoRA layers


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("llama", "5 norms, 2 gates, 2 rotary embeddings, 14 LoRA layers"),
        ("qwen2", "5 norms, 2 gates, 2 rotary embeddings, 14 LoRA layers"),
        ("mistral with a window", "5 norms, 2 gates, 2 rotary embeddings, 14 LoRA layers"),
        ("gemma", "2 rotary embeddings, 14 LoRA layers"),
    ],
)
def test_fused_layers_give_the_plain_losses_and_gradients(architecture, parts):
    plain = with_lora(tiny_model(architecture))
    again, said = fused(plain)
    assert said == f"fused on CPU: {parts}"
    assert_same(step(again), step(plain))


def test_fused_norms_give_the_plain_gradients_of_trained_norms():
    plain = Full().apply(tiny_model("llama")).train()
    again, said = fused(plain)
    assert said == "fused on CPU: 5 norms, 2 gates, 2 rotary embeddings"
    assert_same(step(again), step(plain))


def test_fused_layers_drop_the_same_inputs():
    plain = with_lora(tiny_model("llama"), lora_dropout=0.5)
    again, _ = fused(plain)
    torch.manual_seed(3)
    expected = step(plain)
    torch.manual_seed(3)
    found = step(again)
    assert_same(found, expected)
    torch.manual_seed(4)
    assert not torch.allclose(step(again)[0], expected[0])


def test_fused_layers_in_16_bits_are_as_near_to_float32_as_plain_ones():
    exact = with_lora(tiny_model("llama"))
    expected = step(exact)
    plain = copy.deepcopy(exact)
    for name, weight in plain.named_parameters():
        weight.data = weight.data.bfloat16() if "lora_" not in name else weight.data
    again, _ = fused(plain)

    def error(model):
        found = step(model, autocast_dtype="bfloat16")[1]
        return sum(float((found[n] - one).norm() / one.norm()) for n, one in expected[1].items())

    # Fewer roundings; one tenth for their luck.
    assert error(again) <= 1.1 * error(plain)
    assert error(again) > 0


def test_a_fused_layer_whose_adapter_is_off_is_the_layer_alone():
    model = with_lora(tiny_model("llama"))
    again, _ = fused(model)
    with torch.no_grad(), again.disable_adapter():
        found = CausalPolicy(again.eval()).logits(BATCH)
    with torch.no_grad():
        expected = CausalPolicy(tiny_model("llama").eval()).logits(BATCH)
    assert torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_fused_model_merges_as_a_plain_one():
    plain = with_lora(tiny_model("llama"))
    again, _ = fused(plain)
    expected, found = plain.merge_and_unload(), again.merge_and_unload()
    assert_same(step(found.requires_grad_()), step(expected.requires_grad_()))


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ({"use_dora": True}, "5 norms, 2 gates, 2 rotary embeddings"),
        ({"bias": "all"}, "5 norms, 2 gates, 2 rotary embeddings, 8 LoRA layers"),
        ({"target_modules": ("q_proj",)}, "5 norms, 2 gates, 2 rotary embeddings, 2 LoRA layers"),
    ],
)
def test_layers_that_compute_something_else_are_left_as_they_are(adapter, why):
    # Qwen 2 has biases in three of seven layers.
    plain = with_lora(tiny_model("qwen2"), **adapter)
    again, said = fused(plain)
    assert said == f"fused on CPU: {why}"
    assert_same(step(again), step(plain))


def test_layers_that_read_the_same_are_computed_by_the_first_of_them():
    again, _ = fused(with_lora(tiny_model("llama")))
    q, k, v = first_layers(again, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    x = torch.randn(1, 3, q.in_features, requires_grad=True)
    together = [q(x), k(x), v(x)]
    assert len({output.grad_fn for output in together}) == 1
    alone = [v(x), k(x)]
    assert len({output.grad_fn for output in alone}) == 2
    for found, expected in zip(together[:0:-1], alone, strict=True):
        assert torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("order", [("v_proj", "q_proj", "k_proj"), ("q_proj", "v_proj", "k_proj")])
def test_layers_that_read_something_else_are_computed_alone(order):
    plain = with_lora(tiny_model("llama"))
    again, _ = fused(plain)
    names = [f"self_attn.{name}" for name in order]
    layers = list(zip(order, *(first_layers(one, *names) for one in (again, plain)), strict=True))
    for _ in range(3):
        queries, values = torch.randn(2, 1, 3, layers[0][1].in_features)
        for name, found, expected in layers:
            x = values if name == "v_proj" else queries
            assert torch.allclose(found(x), expected(x), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_fused_gate_keeps_less_for_the_backward_pass():
    plain = with_lora(tiny_model("llama"))
    again, _ = fused(plain)

    def kept(model):
        (layer,) = first_layers(model, "mlp")
        (gate,) = first_layers(model, "mlp.gate_proj")
        sizes: dict[int, int] = {}

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = layer(torch.randn(1, 10, gate.in_features, requires_grad=True))
        output.sum().backward()
        return sum(sizes.values()), 10 * gate.out_features

    (found, inside), (expected, _) = kept(again), kept(plain)
    # silu(gate) is one; the copies that LoRA layers don't keep come on top.
    assert found <= expected - inside


def test_only_the_same_turning_is_replaced():
    from transformers.models.cohere import modeling_cohere
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen3 import modeling_qwen3

    known = modeling_llama.apply_rotary_pos_emb
    assert is_same_function(modeling_qwen3.apply_rotary_pos_emb, known)
    # Cohere's pairs are neighbours, not halves: the same function calls another one.
    assert not is_same_function(modeling_cohere.apply_rotary_pos_emb, known)
    assert not is_same_function(modeling_cohere.rotate_half, modeling_llama.rotate_half)


@pytest.mark.parametrize(
    ("device", "shared_out", "settings", "why"),
    [
        ("cuda:0", False, {}, "the device is cuda:0"),
        ("cpu", True, {}, "weights are shared out"),
        ("cpu", False, {"compile": True}, "layers are compiled"),
        (
            "cpu",
            False,
            {"gradient_checkpointing": GradientCheckpointing(keep="products")},
            "products are kept as they are computed",
        ),
    ],
)
def test_nothing_is_fused_where_it_could_go_wrong(device, shared_out, settings, why):
    model = with_lora(tiny_model("llama"))
    before = [module.forward for module in model.modules()]
    asked = Model(source=Hub(repo="owner/name"), **settings)
    assert fuse(model, asked, device, shared_out=shared_out) == f"fused: nothing, {why}"
    assert [module.forward for module in model.modules()] == before


# ---- logits that are never whole


class LargestLogits(TorchDispatchMode):
    """Bytes of the largest tensor with rows of the whole vocabulary, no more than labels."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in tree_iter(result):
            # Fewer rows than there are hidden numbers, which are the rows of weights.
            if isinstance(one, torch.Tensor) and one.shape[1:] == (97,) and len(one) < 64:
                self.num_bytes = max(self.num_bytes, one.untyped_storage().nbytes())
        return result


MODELS = {
    "frozen": lambda: with_lora(tiny_model("llama")),
    "trained": lambda: tiny_model("llama"),
    "tied": lambda: build("LlamaConfig", {"tie_word_embeddings": True}),
    "biased": lambda: build("PhiConfig", {"partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("name", list(MODELS))
def test_losses_of_logits_in_parts_are_those_of_whole_logits(name, rows, monkeypatch):
    # Three rows at a time, so that a part's last rows are fewer.
    monkeypatch.setattr(cross_entropy, "LOGITS_CHUNK_ELEMENTS", 3 * 97)
    model = MODELS[name]()
    assert not CausalPolicy(model, logits_bytes=1).makes_whole_logits
    expected = step(model)
    assert_same(step(model, logits_bytes=rows * ROW_BYTES), expected)


@pytest.mark.parametrize("name", ["frozen", "trained"])
def test_logits_take_no_more_memory_than_they_may(name):
    model = MODELS[name]()
    whole = len(BATCH.labels) * ROW_BYTES
    with LargestLogits() as largest:
        step(model)
    assert largest.num_bytes == whole
    with LargestLogits() as largest:
        step(model, logits_bytes=7 * ROW_BYTES)
    assert largest.num_bytes == 7 * ROW_BYTES


@pytest.mark.parametrize("name", ["frozen", "trained"])
def test_logits_in_parts_in_16_bits_are_as_near_to_float32_as_whole_ones(name):
    exact = MODELS[name]()
    expected = step(exact)
    model = copy.deepcopy(exact).bfloat16()

    def error(**policy):
        losses, found = step(model, **policy)
        assert losses.dtype == torch.float32
        return sum(float((found[n] - one).norm() / one.norm()) for n, one in expected[1].items())

    assert error(logits_bytes=7 * ROW_BYTES // 2) <= 1.1 * error()


def test_evaluation_in_parts_has_the_same_losses_and_keeps_nothing():
    model = tiny_model("llama").eval()
    with torch.no_grad():
        expected = CausalPolicy(model).negative_log_likelihood(BATCH)
        found = CausalPolicy(model, logits_bytes=ROW_BYTES).negative_log_likelihood(BATCH)
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert found.grad_fn is None


def test_no_labels_give_a_zero_loss_connected_to_every_parameter():
    model = tiny_model("llama")
    silent = batch_of(document(5, seed=1, num_prompt_tokens=5))
    losses = CausalPolicy(model, logits_bytes=ROW_BYTES).negative_log_likelihood(silent)
    assert losses.shape == (0,)
    losses.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("GraniteConfig", {"logits_scaling": 3.0}),
        ("CohereConfig", {"logit_scale": 0.3}),
        ("Gemma3TextConfig", {"head_dim": 16, "final_logit_softcapping": 0.5}),
    ],
)
def test_models_that_change_their_logits_make_them_whole(config, settings):
    model = build(config, settings).train()
    assert CausalPolicy(model, logits_bytes=1).makes_whole_logits
    assert all(module.training for module in model.modules())
    expected = step(model)
    assert_same(step(model, logits_bytes=ROW_BYTES), expected, tolerance=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ("lm_head",)},
        {"modules_to_save": ("lm_head",)},
        {"trainable_token_indices": (3, 4)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_an_adapter_in_the_head_makes_logits_whole(settings):
    tied = "trainable_token_indices" in settings
    base = build("LlamaConfig", {"tie_word_embeddings": tied})
    model = with_lora(base, **{"target_modules": ("q_proj",), **settings})
    assert CausalPolicy(model, logits_bytes=1).makes_whole_logits
    assert_same(step(model, logits_bytes=ROW_BYTES), step(model))
