"""LoRA over quantised weights learns what LoRA over the dequantised weights does, in float32."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, document, tiny_model

from framework.adapters.lora import LoRA
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.models.quantized import plain_copy, weights_alone
from framework.quantizers.bitsandbytes_4bit import Bitsandbytes4bit
from framework.quantizers.bitsandbytes_8bit import Bitsandbytes8bit
from framework.quantizers.qat import QAT
from framework.quantizers.torchao import Torchao

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
QUANTIZERS = {
    "nf4": Bitsandbytes4bit(),
    "fp4": Bitsandbytes4bit(quant_type="fp4", double_quant=False),
    "int8": Bitsandbytes8bit(),
    "torchao": Torchao(),
    "qat": QAT(group_size=16),
}
TOLERANCE = 1e-5
"""Of the gradient's largest number: float32, sums in another order (torchao scales products instead
of weights)."""


def loss_and_gradients(model, *, checkpointing=False):
    torch.manual_seed(0)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    # Both matrices have gradients at once, which they have not where one is zero.
    model = LoRA(r=4, init_lora_weights="random").apply(model).train()
    loss = CausalPolicy(model).negative_log_likelihood(BATCH).sum()
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_loss_and_gradients_are_those_over_dequantised_weights(quantizer, checkpointing, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_weights(tmp_path, dtype="float32", attention="segmented_sdpa", quantizer=quantizer)
    plain = plain_copy(model, quantizer)
    with weights_alone(model, quantizer):
        loss, found = loss_and_gradients(model, checkpointing=checkpointing)
    expected, wanted = loss_and_gradients(plain)
    _, others = loss_and_gradients(tiny_model("llama"))
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert found.keys() == wanted.keys() == others.keys()
    for name, gradient in found.items():
        limit = TOLERANCE * wanted[name].abs().max()
        assert (gradient - wanted[name]).abs().max() <= limit, name
        assert (gradient - others[name]).abs().max() > limit, name
