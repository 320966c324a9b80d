"""Quantizers: what bits stand for, what stays whole, and that training goes through."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, document, tiny_model
from torch.nn import functional as F

from framework.adapters.lora import LoRA
from framework.core.problems import UserError
from framework.models.four_bit_blocks import repair_blocks
from framework.models.isolation import prove_isolation
from framework.models.load import fit_embeddings, load_weights
from framework.models.policy import CausalPolicy
from framework.models.quantized import (
    compute_in,
    count_parameters,
    plain_copy,
    weights_alone,
)
from framework.models.tokenizer import load_tokenizer
from framework.quantizers.bitsandbytes_4bit import Bitsandbytes4bit
from framework.quantizers.bitsandbytes_8bit import Bitsandbytes8bit
from framework.quantizers.qat import QAT
from framework.quantizers.torchao import Torchao
from framework.recipe import schema

NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)
"""The values of 4-bit NormalFloat, from the QLoRA paper, appendix E."""

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
QUANTIZERS = {
    "nf4": Bitsandbytes4bit(),
    "fp4 in bfloat16": Bitsandbytes4bit(
        quant_type="fp4", storage_dtype="bfloat16", double_quant=False
    ),
    "int8": Bitsandbytes8bit(),
    "torchao": Torchao(),
    "qat": QAT(group_size=16),
    "qat of weights": QAT(group_size=16, activations="none"),
}
HELD = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model 64 wide, with 96 in the feed-forward layer: rows there are no whole blocks of 64."""
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(path)
    return path


def loaded(folder, quantizer, dtype="float32", **settings):
    return load_weights(
        folder,
        dtype=dtype,
        attention="segmented_sdpa",
        quantizer=quantizer,
        compute_dtype=dtype,
        **settings,
    )


def whole_weight(folder, name=HELD):
    return tiny_model("llama").get_submodule(name).get_parameter("weight").detach()


def in_blocks(weight, size):
    return weight.detach().reshape(-1, size)


def logits(model):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(BATCH)


def held_names(model, quantizer):
    return {name for name, module in model.named_modules() if quantizer.holds(module)}


@pytest.mark.parametrize("name", [HELD, "model.layers.1.self_attn.k_proj"])
def test_nf4_is_the_nearest_of_the_papers_values_times_the_largest_of_its_block(folder, name):
    quantizer = Bitsandbytes4bit(double_quant=False)
    found = quantizer.dequantized(loaded(folder, quantizer).get_submodule(name))
    blocks = in_blocks(whole_weight(folder, name), 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / largest)[..., None] - NF4).abs().argmin(-1)
    assert torch.equal(found, (NF4[nearest] * largest).reshape(found.shape))


def test_double_quantisation_rounds_scales_to_the_nearest_of_256_around_their_mean(folder):
    once, twice = Bitsandbytes4bit(double_quant=False), Bitsandbytes4bit()
    single = loaded(folder, once).get_submodule(HELD).weight.quant_state
    nested = loaded(folder, twice).get_submodule(HELD).weight.quant_state
    scales = single.absmax - single.absmax.mean()
    largest = scales.abs().max()
    code = nested.state2.code
    nearest = ((scales / largest)[:, None] - code).abs().argmin(1)
    by_hand = code[nearest] * largest + single.absmax.mean()
    assert not torch.equal(by_hand, single.absmax)
    found = twice.dequantized(loaded(folder, twice).get_submodule(HELD))
    blocks = in_blocks(once.dequantized(loaded(folder, once).get_submodule(HELD)), 64)
    wanted = blocks / single.absmax[:, None] * by_hand[:, None]
    # float32: dividing by a scale and multiplying by another.
    assert torch.allclose(found, wanted.reshape(found.shape), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [2, 32, 48, 64, 96, 100, 576])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_are_those_of_the_block_however_wide_rows_are(width, kind, dtype):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    repair_blocks()
    torch.manual_seed(0)
    weight = torch.randn(8, width).to(dtype)
    packed, state = quantize_4bit(weight, quant_type=kind, blocksize=64)
    bytes_ = packed.flatten()
    numbers = torch.stack([bytes_ >> 4, bytes_ & 15], 1).flatten().long()[: weight.numel()]
    scales = state.absmax.repeat_interleave(64)[: weight.numel()]
    wanted = (state.code[numbers] * scales).reshape(weight.shape).to(dtype)
    assert torch.equal(dequantize_4bit(packed, state), wanted)


@pytest.mark.parametrize("quantizer", [Bitsandbytes8bit(), Torchao()], ids=["int8", "torchao"])
def test_8_bits_are_the_nearest_of_127_steps_of_the_rows_largest(quantizer, folder):
    weight = whole_weight(folder)
    found = quantizer.dequantized(loaded(folder, quantizer).get_submodule(HELD))
    step = weight.abs().amax(1, keepdim=True) / 127
    # Half a step; bitsandbytes computes steps in float16, torchao counts 127.5 of them.
    assert ((found - weight).abs() <= 0.6 * step).all()
    assert (found - weight).abs().max() > 0.25 * step.min()
    assert ((found / step).round().unique().numel()) > 50


def test_rounding_in_training_is_quantising_and_dequantising_by_hand(folder):
    quantizer = QAT(bits=4, group_size=16, activations="none")
    layer = loaded(folder, quantizer).get_submodule(HELD)
    groups = in_blocks(whole_weight(folder), 16)
    # Symmetric: the largest weight becomes 7.5 steps of 15.
    step = groups.abs().amax(1, keepdim=True) / 7.5
    rounded = (groups * (1 / step)).round().clamp(-8, 7) * step
    inputs = torch.randn(5, 96)
    wanted = F.linear(inputs, rounded.reshape(64, 96))
    assert torch.allclose(layer(inputs), wanted, atol=1e-5)
    assert not torch.allclose(F.linear(inputs, whole_weight(folder)), wanted, atol=1e-2)


def test_rounding_inputs_gives_each_token_255_steps_of_its_own_range(folder):
    quantizer = QAT(bits=4, group_size=16)
    layer = loaded(folder, quantizer).get_submodule(HELD)
    inputs = torch.randn(5, 96) * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])[:, None]
    low = inputs.amin(1, keepdim=True).clamp(max=0)
    step = (inputs.amax(1, keepdim=True).clamp(min=0) - low) / 255
    zero = (-128 - (low / step).round()).clamp(-128, 127)
    rounded = (((inputs / step).round() + zero).clamp(-128, 127) - zero) * step
    wanted = F.linear(rounded, quantizer.dequantized(layer))
    assert torch.allclose(layer(inputs), wanted, atol=1e-4)


@pytest.mark.parametrize("activations", ["int8", "none"])
def test_weights_trained_for_rounding_can_become_integers(activations, folder):
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        quantize_,
    )

    model = loaded(folder, QAT(bits=4, group_size=16, activations=activations))
    wanted = logits(model)
    served = tiny_model("llama")
    if activations == "int8":
        served_as = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=PerGroup(16)
        )
    else:
        served_as = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16))
    quantize_(served.model, served_as)
    # A rounded input that falls on the other side of a step moves a logit a little.
    tolerance = 1e-5 if activations == "none" else 2e-2
    difference = (logits(served) - wanted).abs().max() / wanted.abs().max()
    whole = (logits(tiny_model("llama")) - wanted).abs().max() / wanted.abs().max()
    assert difference <= tolerance < whole


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_a_quantised_model_computes_with_what_its_weights_stand_for(quantizer, folder):
    model = loaded(folder, quantizer)
    before, plain = logits(model), plain_copy(model, quantizer)
    assert len(held_names(model, quantizer)) == 14
    assert held_names(plain, quantizer) == set()
    with weights_alone(model, quantizer):
        assert torch.allclose(logits(model), logits(plain), atol=1e-5)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(model), logits(tiny_model("llama")), atol=1e-3)


@pytest.mark.parametrize("name", ["nf4", "fp4 in bfloat16", "int8", "torchao"])
def test_in_another_dtype_the_weights_stand_for_the_same_numbers(name, folder):
    quantizer = QUANTIZERS[name]
    model = loaded(folder, quantizer, dtype="bfloat16")
    before = plain_copy(model, quantizer)
    compute_in(model, quantizer, torch.float32)
    assert logits(model).dtype == torch.float32
    assert torch.allclose(logits(model), logits(before), atol=2e-5)


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_packed_weights_count_as_the_numbers_that_they_stand_for(quantizer, folder):
    whole = sum(parameter.numel() for parameter in tiny_model("llama").parameters())
    # Per layer: q and o 64 x 64, k and v 32 x 64, three of the feed-forward 64 x 96.
    held = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96)
    assert count_parameters(loaded(folder, quantizer), quantizer) == (whole, held)


@pytest.mark.parametrize(
    "quantizer",
    [
        Bitsandbytes4bit(skip_modules=("down_proj",)),
        Bitsandbytes8bit(skip_modules=("down_proj",)),
        Torchao(skip_modules=("down_proj",)),
        QAT(group_size=16, skip_modules=("down_proj",)),
    ],
    ids=["nf4", "int8", "torchao", "qat"],
)
def test_the_output_layer_and_what_is_named_stay_whole(quantizer, folder):
    held = held_names(loaded(folder, quantizer), quantizer)
    assert {name.rpartition(".")[2] for name in held} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    }


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_an_evaluation_in_between_changes_no_gradient(quantizer, folder):
    """bitsandbytes repacks weights in evaluation into a form that has none."""

    def gradients(*, evaluates):
        model = loaded(folder, quantizer)
        torch.manual_seed(0)
        model = LoRA(r=4, init_lora_weights="random").apply(model)
        if evaluates:
            logits(model)
        CausalPolicy(model.train()).negative_log_likelihood(BATCH).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    first, second = gradients(evaluates=False), gradients(evaluates=True)
    assert len(first) == 28
    assert all(first[name].abs().max() > 0 for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_evaluation_computes_what_training_does(quantizer, folder):
    model = loaded(folder, quantizer)
    with torch.no_grad():
        in_training = CausalPolicy(model.train()).logits(BATCH)
    assert torch.equal(logits(model), in_training)


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_documents_of_a_row_are_proven_apart(quantizer, dtype, folder):
    model = loaded(folder, quantizer, dtype)
    with weights_alone(model, quantizer):
        prove_isolation(model)


def test_inputs_rounded_to_8_bits_are_unrounded_to_look_at_the_weights_alone(folder):
    """As a GPU computes: in evaluation, without what `prepare` does about that on a CPU."""
    quantizer = Bitsandbytes8bit()
    model = loaded(folder, quantizer)
    for module in filter(quantizer.holds, model.modules()):
        module._forward_pre_hooks.clear()
    exact, rounded = logits(plain_copy(model, quantizer)), logits(model)
    with weights_alone(model, quantizer):
        assert torch.allclose(logits(model), exact, atol=1e-5)
    assert torch.equal(logits(model), rounded)
    assert not torch.allclose(rounded, exact, atol=1e-4)


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_embeddings_grow_over_quantised_layers(quantizer, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir, schema.Tokenizer(add_tokens=("<|call|>",)))
    model = loaded(tiny_model_dir, quantizer)
    fit_embeddings(model, tokenizer, ("<|call|>",))
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer)
    assert torch.isfinite(logits(model)).all()


def test_groups_that_do_not_fit_a_layer_are_refused_with_its_name(folder):
    with pytest.raises(UserError) as caught:
        loaded(folder, QAT(group_size=64))
    assert "64 does not divide the 96 inputs of model.layers.0.mlp.down_proj" in str(caught.value)
