"""Reading a model's head leaves nothing behind."""

from __future__ import annotations

from transformers import AutoModelForSequenceClassification

from framework.attention.attention import SEGMENTED_SDPA, register
from framework.models.heads import head_layer
from framework.models.isolation import prove_isolation


def test_a_head_that_was_read_refers_to_no_model(tiny_model_dir):
    register(SEGMENTED_SDPA)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model_dir, attn_implementation=SEGMENTED_SDPA
    )
    prove_isolation(model)
    # An adapter copies the head, and with it all that its hooks refer to: the whole model.
    assert not head_layer(model)._forward_hooks
