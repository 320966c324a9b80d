"""Per-document attention: when it is used, and that ordinary use of the model is unchanged."""

from __future__ import annotations

import pytest
import torch
from architectures import PACKABLE, batch_of, build, document, tiny_model
from torch.nn import functional as F

from framework.attention.attention import choose_attention
from framework.attention.flat_attention import flat_attention
from framework.attention.segmented import segmented_attention, segmented_mask
from framework.core.problems import UserError
from framework.models.isolation import prove_isolation
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy


@pytest.mark.parametrize("architecture", PACKABLE)
def test_generation_is_that_of_transformers_own_attention(architecture):
    prompts = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    mask = (prompts != 0).long()
    # More new tokens than the sliding window holds.
    settings = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ours = tiny_model(architecture).eval().generate(prompts, attention_mask=mask, **settings)
    theirs = (
        tiny_model(architecture, attention="sdpa")
        .eval()
        .generate(prompts, attention_mask=mask, **settings)
    )
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("architecture", PACKABLE)
def test_a_plain_forward_longer_than_the_window_is_transformers_own(architecture):
    tokens = torch.tensor([document(40, seed=4).tokens])
    with torch.no_grad():
        ours = tiny_model(architecture).eval()(tokens).logits
        theirs = tiny_model(architecture, attention="sdpa").eval()(tokens).logits
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_several_documents_without_boundaries_are_an_error_not_a_mixture():
    batch = batch_of(document(6, seed=1), document(7, seed=2))
    with pytest.raises(TypeError, match="boundaries"):
        tiny_model("llama")(batch.input_ids, position_ids=batch.position_ids, use_cache=False)


def test_no_mask_is_built_for_a_long_row(monkeypatch):
    import framework.attention.segmented as segmented

    def refuse(**_):
        raise AssertionError("a dense mask was built")

    monkeypatch.setattr(segmented, "sdpa_mask", refuse)
    documents = [document(30, seed=1), document(40, seed=2)]
    for architecture in PACKABLE:
        CausalPolicy(tiny_model(architecture)).logits(batch_of(*documents))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("Gemma2Config", {"head_dim": 16}),
        ("GptOssConfig", {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}),
    ],
)
def test_architectures_that_sdpa_cannot_compute_are_refused_at_load(config, settings, tmp_path):
    build(config, settings, attention="eager").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="can't compute") as caught:
        load_weights(tmp_path, dtype="float32", attention="segmented_sdpa")
    assert caught.value.problems[0].key == "model.attention"
    assert "attention: eager" in caught.value.problems[0].hint


@pytest.mark.parametrize("setting", ["softcap", "s_aux", "position_bias"])
def test_what_a_layer_asks_beyond_sdpa_is_refused_when_it_is_called(setting):
    tensor = torch.zeros(1, 2, 3, 4)
    with pytest.raises(UserError, match=r"Linear .* which `sdpa` can't compute"):
        segmented_attention(
            torch.nn.Linear(1, 1), tensor, tensor, tensor, None, **{setting: torch.ones(1)}
        )


@pytest.mark.parametrize("longest", [1000, 64, 0])
@pytest.mark.parametrize(
    "lengths",
    # Of one piece each; of several, also with a last one that is short; without kept weights.
    [(1,), (5, 5, 5), (3, 40, 41, 64, 65, 2, 100), (300, 7, 129, 256, 191, 192), (700, 3, 577)],
)
def test_flat_attention_is_causal_attention_of_each_document(lengths, longest):
    heads, key_heads, width = 6, 2, 8
    shapes = ((sum(lengths), n, width) for n in (heads, key_heads, key_heads))
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    weights = torch.randn(sum(lengths), heads, width)

    found = flat_attention(*ours, lengths, 0.3, longest)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in theirs)
    parts = [
        F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True)
        for a, b, c in zip(
            q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), strict=True
        )
    ]
    expected = torch.cat(parts, 2)[0].transpose(0, 1)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    # Float32 sums in another order.
    assert torch.allclose(found, expected, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)


def test_automatic_attention_on_a_cpu_is_sdpa_and_says_why():
    choice = choose_attention("auto", "cpu", "bfloat16")
    assert choice.name == "segmented_sdpa"
    assert "cpu" in choice.reason


def test_flash_attention_on_a_cpu_is_refused():
    with pytest.raises(UserError, match=r"flash_attention_2.*can't run: the device is cpu"):
        choose_attention("flash_attention_2", "cpu", "bfloat16")


def test_flash_attention_is_not_for_float32():
    with pytest.raises(UserError, match="16 bits only"):
        choose_attention("flash_attention_2", "cuda:0", "float32")
    assert choose_attention("auto", "cuda:0", "float32").name == "segmented_sdpa"


def test_choosing_attention_on_a_cpu_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from framework.attention.attention import choose_attention; "
        "choose_attention('auto', 'cpu', 'bfloat16'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mask_tells_of_a_window_that_is_longer_than_the_tokens_it_is_made_for():
    """They may be a slice of a row that is longer."""
    config = tiny_model("mistral with a window").config
    mask = segmented_mask(q_length=4, kv_length=4, local_size=8, config=config)
    assert mask is not None
    assert (mask.numel(), mask.shape[-1]) == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_may_have_another_size_than_queries_and_keys(dtype):
    """As in multi-head latent attention."""
    sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    settings = {"num_key_value_heads": 4, "v_head_dim": 12, "first_k_dense_replace": 2, **sizes}
    model = build("DeepseekV3Config", settings).to(dtype)
    prove_isolation(model, shares=True)
