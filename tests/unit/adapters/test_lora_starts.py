"""LoRA's starts: the model stays what it was, and what is saved fits the model as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters_of_peft import trained
from architectures import batch_of, document, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights

from framework.adapters.lora import FROM_DATA, TAKEN_OUT, LoRA
from framework.core.problems import UserError
from framework.core.protocols.models import Surroundings
from framework.core.registries import registry
from framework.data_sources.jsonl import Jsonl
from framework.model_sources.hub import Hub
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.models.quiet import quiet
from framework.recipe import schema
from framework.trainers.sft import SFT

BATCHES = [batch_of(*(document(30, seed=10 * row + n) for n in range(4))) for row in range(3)]
BATCH = batch_of(document(20, seed=1), document(9, seed=2))
ROUNDING = 1e-4  # float32: s (B A - B0 A0) x summed in another order than (W - s B0 A0) x + s B A x


def around(quantizer=None, folder=Path()):
    return Surroundings(batches=BATCHES, quantizer=quantizer, folder=folder)


def started(adapter, architecture="llama"):
    torch.manual_seed(0)
    with quiet():
        return adapter.apply_within(tiny_model(architecture), around())


def train_a_little(model):
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.02)
    for _ in range(3):
        CausalPolicy(model.train()).negative_log_likelihood(BATCH).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model, batch=BATCH):
    with torch.no_grad():
        return CausalPolicy(model.eval()).logits(batch)


def recipe_of(adapter, **model):
    return schema.Recipe(
        model=schema.Model(source=Hub(repo="owner/name"), **model),
        data=schema.Data(train=(schema.Dataset(source=Jsonl(path="rows.jsonl")),)),
        adapter=adapter,
        trainer=schema.Trainer(method=SFT()),
        output=schema.Output(dir="run"),
    )


@pytest.mark.parametrize("start", [*TAKEN_OUT, "eva"])
def test_the_model_is_what_it_was(start):
    model = started(LoRA(r=4, init_lora_weights=start))
    assert torch.allclose(logits(model), logits(tiny_model("llama")), atol=1e-4)
    with model.disable_adapter():
        changed = not torch.allclose(logits(model), logits(tiny_model("llama")), atol=1e-3)
    assert changed == (start in TAKEN_OUT)
    assert LoRA(init_lora_weights=start).alters_weights() == changed


@pytest.mark.parametrize(
    "adapter",
    [
        *(LoRA(r=4, init_lora_weights=start) for start in (*TAKEN_OUT, *FROM_DATA[1:2])),
        LoRA(r=4, init_lora_weights="pissa", use_rslora=True),
        LoRA(r=4, init_lora_weights="pissa", use_dora=True),
        LoRA(r=4, init_lora_weights="olora", modules_to_save=("lm_head",)),
        LoRA(
            r=4,
            init_lora_weights="corda",
            rank_pattern={"q_proj": 6},
            alpha_pattern={"q_proj": 5, "v_proj": 3},
        ),
        LoRA(r=4, init_lora_weights="eva", target_modules=("q_proj", "down_proj"), eva_rho=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_what_is_saved_is_the_trained_model_on_the_base_as_it_was(adapter, architecture, tmp_path):
    model = started(adapter, architecture)
    train_a_little(model)
    wanted = logits(model)
    with quiet():
        adapter.save(model, tmp_path)
        again = PeftModel.from_pretrained(tiny_model(architecture), str(tmp_path))
    assert not torch.allclose(wanted, logits(tiny_model(architecture)), atol=1e-2)
    assert torch.allclose(logits(again), wanted, rtol=ROUNDING, atol=ROUNDING)
    merged = adapter.merge(again)
    assert torch.allclose(logits(merged), wanted, rtol=ROUNDING, atol=ROUNDING)


def test_eva_is_what_peft_makes_of_the_same_tokens():
    ours = started(LoRA(r=4, init_lora_weights="eva"))
    from peft import EvaConfig

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=32,
        target_modules="all-linear",
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=2.0),
    )
    theirs = get_peft_model(tiny_model("llama"), config)
    policy = CausalPolicy(theirs)
    initialize_lora_eva_weights(
        theirs,
        [{"at": torch.tensor(n)} for n in range(len(BATCHES))],
        forward_fn=lambda _, inputs: policy.logits(BATCHES[int(inputs["at"])]),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=lambda inputs, *_: inputs[0].flatten(0, 1),
        show_progress_bar=False,
    )
    mine, reference = trained(ours), trained(theirs)
    assert mine.keys() == reference.keys()
    assert len({len(value) for name, value in mine.items() if "lora_A" in name}) > 1
    assert all(torch.allclose(mine[name], value, atol=1e-5) for name, value in reference.items())


def test_lora_ga_starts_in_the_gradient_of_the_data():
    model = started(LoRA(r=4, init_lora_weights="lora_ga", target_modules=("q_proj",)))
    plain = tiny_model("llama").train()
    policy = CausalPolicy(plain)
    for batch in BATCHES:
        policy.negative_log_likelihood(batch).mean().backward()
    gradient = plain.get_submodule("model.layers.0.self_attn.q_proj").weight.grad
    directions = torch.linalg.svd(gradient)[2][:4]
    reads = model.get_base_model().get_submodule("model.layers.0.self_attn.q_proj").lora_A
    # The same directions, whatever their signs.
    overlap = (reads["default"].weight @ directions.T).abs()
    assert torch.allclose(overlap, torch.eye(4), atol=1e-2)


def test_sixteen_bit_weights_get_a_float32_update_from_eva():
    adapter = LoRA(r=4, init_lora_weights="eva")
    model = adapter.apply_within(tiny_model("llama").to(torch.bfloat16), around())
    assert {p.dtype for p in trained(model).values()} == {torch.float32}


def test_too_few_tokens_for_eva_are_refused():
    short = Surroundings(batches=[BATCH], quantizer=None, folder=Path())
    with pytest.raises(UserError, match="finds 40 directions in each batch, and one has 29 tokens"):
        LoRA(r=20, init_lora_weights="eva").apply_within(tiny_model("llama"), short)


def test_more_rank_than_lora_ga_has_directions_for_is_refused():
    with pytest.raises(UserError, match="more than half of a layer's 32 rows or columns"):
        started(LoRA(r=17, init_lora_weights="lora_ga"))


@pytest.mark.parametrize("held", ["bitsandbytes_4bit", "torchao"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_loftq_makes_up_for_most_of_what_quantisation_lost(held, use_rslora, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    quantizer = registry("quantizers").get(held)()
    base = load_weights(tmp_path, dtype="float32", attention="segmented_sdpa", quantizer=quantizer)
    whole, rounded = logits(tiny_model("llama")), logits(base)
    adapter = LoRA(r=16, lora_alpha=7, init_lora_weights="loftq", use_rslora=use_rslora)
    model = adapter.apply_within(base, around(quantizer, tmp_path))
    left = (logits(model) - whole).norm() / (rounded - whole).norm()
    # r 16 of 64 holds more than half of random rounding errors' norm in weights of 32 to 96 rows.
    assert left < 0.85
    layer = model.get_base_model().get_submodule("model.layers.0.self_attn.k_proj")
    lost = tiny_model("llama").get_submodule("model.layers.0.self_attn.k_proj").weight
    lost = lost - quantizer.dequantized(layer.get_base_layer())
    given = layer.get_delta_weight("default")
    best = torch.linalg.svd(lost)[1][16:].norm()
    assert torch.allclose((lost - given).norm(), best, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "held", "key"),
    [
        ({"init_lora_weights": "loftq"}, None, ".init_lora_weights"),
        ({"init_lora_weights": "pissa"}, "bitsandbytes_4bit", ".init_lora_weights"),
        ({"init_lora_weights": "eva", "target_parameters": ("up",)}, None, ".init_lora_weights"),
        (
            {"init_lora_weights": "loftq", "use_dora": True},
            "bitsandbytes_4bit",
            ".use_dora",
        ),
    ],
)
def test_starts_that_cannot_be_are_found_without_a_model(settings, held, key):
    adapter = LoRA(**settings)
    quantizer = None if held is None else registry("quantizers").get(held)()
    whole = recipe_of(adapter, quantization=quantizer)
    (problem,) = adapter.check(whole)
    assert problem.key == key
    assert problem.hint


def test_matrices_that_write_learn_faster_if_the_recipe_says_so():
    names = list(trained(started(LoRA(r=2))))
    plain, faster = LoRA(r=2), LoRA(r=2, loraplus_lr_ratio=16)
    assert {plain.learning_rate_ratio(name) for name in names} == {1.0}
    assert {name: faster.learning_rate_ratio(name) for name in names} == {
        name: 16.0 if "lora_B" in name else 1.0 for name in names
    }
