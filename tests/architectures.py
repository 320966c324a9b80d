"""Random two-layer models of several architectures, and documents for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.core.batch import Batch, Encoded, each_alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
PACKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama with one key head": ("LlamaConfig", {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", {}),
    "mistral with a window": ("MistralConfig", {"sliding_window": 8}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
    "gemma3 with a window in one layer": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 0,
        },
    ),
}
"""Name -> configuration class and what it needs besides SHAPE."""


def tiny_model(name: str, attention: str = "segmented_sdpa") -> PreTrainedModel:
    """A float32 model of that architecture, the same one every time."""
    return build(*PACKABLE[name], attention=attention)


def build(
    config_class: str, settings: dict[str, Any], attention: str = "segmented_sdpa"
) -> PreTrainedModel:
    """A random model of any architecture."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from framework.attention.attention import register

    register()
    config = getattr(transformers, config_class)(**{**SHAPE, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for parameter in model.parameters():
            # Larger than the usual start, so that a leak can't hide in small logits.
            torch.nn.init.normal_(parameter, std=0.15)
    return model.float()


def batch_of(*documents: Encoded) -> Batch:
    """Each document a sample, all in one row."""
    from framework.models.collate import flat_batch

    return flat_batch(each_alone(documents), [f"t:{at}" for at in range(len(documents))])


def document(length: int, seed: int, num_prompt_tokens: int = 1) -> Encoded:
    """A document whose tokens after the prompt are trained."""
    tokens = tuple(2 + (seed * 31 + i * i * 7 + i * 5) % (VOCABULARY - 2) for i in range(length))
    return Encoded(tokens=tokens, trained=tuple(i >= num_prompt_tokens for i in range(length)))
