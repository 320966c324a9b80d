"""Training over quantised weights learns what training over whole weights does."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, document, tiny_model

from framework.adapters.full import Full
from framework.adapters.lora import LoRA
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.quantizers.bitsandbytes_4bit import Bitsandbytes4bit
from framework.quantizers.bitsandbytes_8bit import Bitsandbytes8bit
from framework.quantizers.qat import QAT
from framework.quantizers.torchao import Torchao

BATCH = batch_of(*(document(16, seed=seed) for seed in range(1, 5)))
NUM_STEPS = 80
LORA = LoRA(r=8, modules_to_save=("lm_head",))
"""Over a frozen random output layer nothing could be learned by heart."""
LEARNED = {
    "whole weights": (None, LORA),
    "nf4": (Bitsandbytes4bit(), LORA),
    "int8": (Bitsandbytes8bit(), LORA),
    "torchao": (Torchao(), LORA),
    "qat under LoRA": (QAT(group_size=16), LORA),
    "qat": (QAT(group_size=16), Full()),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_few_documents_are_learned_by_heart(name, tmp_path):
    quantizer, adapter = LEARNED[name]
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_weights(tmp_path, dtype="float32", attention="segmented_sdpa", quantizer=quantizer)
    torch.manual_seed(0)
    policy = CausalPolicy(adapter.apply(model).train())
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-2, weight_decay=0.0)
    losses = []
    for _ in range(NUM_STEPS):
        loss = policy.negative_log_likelihood(BATCH).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    # Chance among 97 tokens is 4.6.
    assert losses[0] > 4
    assert losses[-1] < 0.1
