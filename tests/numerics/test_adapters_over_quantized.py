"""An adapter over quantised weights is the same adapter over the weights that they stand for."""

from __future__ import annotations

import pytest
import torch
from adapters_of_peft import NAMES, adapter_named, trained
from architectures import batch_of, document, tiny_model
from peft import PeftModel

from framework.core.protocols.models import Loading, OverQuantized, RoundsActivations
from framework.core.registries import registry
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.models.quantized import plain_copy
from framework.models.quiet import quiet

BATCH = batch_of(document(20, seed=1), document(9, seed=2))
QUANTIZERS = ("bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "qat")
CLAIMED = [
    (adapter, quantizer)
    for adapter in NAMES
    for quantizer in QUANTIZERS
    if isinstance(registry("adapters").get(adapter), OverQuantized)
    and registry("quantizers").get(quantizer).layers
    in registry("adapters").get(adapter).quantized_layers
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(path)
    return path


def test_every_adapter_but_one_works_over_some_quantizer():
    assert {name for name, _ in CLAIMED} == set(NAMES) - {"hra"}


@pytest.mark.parametrize(("name", "held"), CLAIMED)
def test_what_was_trained_is_the_same_over_the_weights_in_full(name, held, folder, tmp_path):
    quantizer = registry("quantizers").get(held)()

    def loaded():
        return load_weights(
            folder, dtype="float32", attention="segmented_sdpa", quantizer=quantizer
        )

    torch.manual_seed(0)
    with quiet():
        model = adapter_named(name).apply(loaded())
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.02)
    for _ in range(3):
        CausalPolicy(model.train()).negative_log_likelihood(BATCH).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    if isinstance(quantizer, RoundsActivations):
        quantizer.round_activations(model, False)
    adapter, plain = adapter_named(name), plain_copy(loaded(), quantizer)
    with quiet():
        if isinstance(adapter, Loading):
            adapter.save(model, tmp_path)
            whole = adapter.load(plain, tmp_path)
        else:
            model.save_pretrained(tmp_path)
            whole = PeftModel.from_pretrained(plain, str(tmp_path))
    with torch.no_grad():
        ours = CausalPolicy(model.eval()).logits(BATCH)
        theirs = CausalPolicy(whole.eval()).logits(BATCH)
    assert torch.allclose(ours, theirs, atol=1e-5)
