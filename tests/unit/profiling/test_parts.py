"""Parts of a model: which they are, what they compute and keep, and that their times add up."""

from __future__ import annotations

import time

import pytest
import torch

from framework.attention.attention import SEGMENTED_SDPA, register
from framework.core.batch import Encoded, Features
from framework.core.spans import listening, span
from framework.models.collate import flat_batch
from framework.models.policy import CausalPolicy
from framework.profiling.clock import RECOMPUTED, Clock, Place
from framework.profiling.counts import Counts
from framework.profiling.parts import parts_of, parts_watched

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, TOKENS = 32, 64, 2, 384, 24
CPU = torch.device("cpu")
FLOAT32 = 4


@pytest.fixture
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    register()
    return AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, attn_implementation=SEGMENTED_SDPA
    ).train()


@pytest.fixture
def batch():
    document = Encoded(tokens=tuple(range(TOKENS)), trained=(False, *(True,) * (TOKENS - 1)))
    return flat_batch([Features(documents=(document,))], ["train0:1"])


def step(model, batch, clock: Clock, counts: Counts) -> None:
    """One forward and backward pass, with its spans."""
    watched = parts_watched(model, clock, compiled=False)
    with listening(clock), watched, counts, counts.keeping(), clock.step():
        with span("loss"):
            loss = CausalPolicy(model).negative_log_likelihood(batch).sum()
        with span("backward"):
            loss.backward()


def counted(model, batch) -> tuple[Clock, Counts]:
    clock = Clock(CPU)
    counts = Counts(model, clock)
    step(model, batch, clock, counts)
    return clock, counts


def test_the_modules_of_a_model_are_told_apart(model):
    names = {
        path: parts_of(model)[module]
        for path, module in model.named_modules()
        if module in parts_of(model)
    }
    layer = {
        "": "rest",
        ".self_attn": "attention",
        ".mlp": "MLP",
        ".input_layernorm": "norms",
        ".post_attention_layernorm": "norms",
    }
    assert names == {
        "model.embed_tokens": "embedding",
        **{f"model.layers.{n}{end}": part for n in range(LAYERS) for end, part in layer.items()},
        "model.norm": "norms",
        "lm_head": "head",
    }


def test_another_architecture_is_told_apart_by_the_same_rules():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=32)
    model = GPT2LMHeadModel(config)
    paths = {module: path for path, module in model.named_modules()}
    assert {paths[module]: part for module, part in parts_of(model).items()} == {
        "transformer.wte": "embedding",
        "transformer.wpe": "embedding",
        "transformer.h.0": "rest",
        "transformer.h.0.ln_1": "norms",
        "transformer.h.0.attn": "attention",
        "transformer.h.0.ln_2": "norms",
        "transformer.h.0.mlp": "MLP",
        "transformer.ln_f": "norms",
        "lm_head": "head",
    }


def test_a_model_inside_of_an_adapter_is_told_apart_as_well(model):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    assert sorted(parts_of(adapted).values()) == sorted(parts_of(model).values())


def test_operations_are_those_of_each_parts_products(model, batch):
    _, counts = counted(model, batch)
    operations = counts.operations
    mlp = LAYERS * 3 * 2 * TOKENS * HIDDEN * INTERMEDIATE
    assert operations[Place("forward", "MLP")] == mlp
    assert operations[Place("backward", "MLP")] == 2 * mlp
    head = 2 * (TOKENS - 1) * HIDDEN * VOCABULARY
    assert operations[Place("forward", "head")] == head
    assert operations[Place("backward", "head")] == 2 * head
    # Queries and outputs are as wide as the model, keys and values half so.
    projections = LAYERS * 2 * TOKENS * HIDDEN * HIDDEN * 3
    scores = LAYERS * TOKENS * TOKENS * HIDDEN * 2
    assert operations[Place("forward", "attention")] == projections + scores
    assert operations[Place("backward", "attention")] == 2 * projections + 2.5 * scores
    assert {place.part for place in operations} == {"MLP", "head", "attention"}


def test_frozen_weights_have_no_products_of_their_own_gradients(model, batch):
    for name, weight in model.named_parameters():
        weight.requires_grad_(".self_attn." in name)
    _, counts = counted(model, batch)
    mlp = LAYERS * 3 * 2 * TOKENS * HIDDEN * INTERMEDIATE
    assert counts.operations[Place("backward", "MLP")] == mlp


def test_bytes_that_are_kept_belong_to_the_part_that_keeps_them_first(model, batch):
    _, counts = counted(model, batch)
    # The input; silu's input and output, the other factor, their product.
    kept = counts.kept[Place("forward", "MLP")]
    assert kept == LAYERS * TOKENS * (HIDDEN + 4 * INTERMEDIATE) * FLOAT32
    assert counts.kept[Place("loss")] >= (TOKENS - 1) * VOCABULARY * FLOAT32


def test_checkpointed_layers_compute_again_and_keep_less(model, batch):
    _, whole = counted(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    clock, counts = counted(model, batch)
    again = Place("backward", RECOMPUTED)
    layers = sum(whole.operations[Place("forward", part)] for part in ("attention", "MLP"))
    # The last product of a layer is needed by nothing, so it isn't computed again.
    last = LAYERS * 2 * TOKENS * HIDDEN * INTERMEDIATE
    assert counts.operations.pop(again) == layers - last
    assert counts.operations == whole.operations
    assert clock.seconds[again] > 0
    assert sum(counts.kept.values()) < sum(whole.kept.values()) / 2


def test_every_moment_of_a_step_belongs_to_one_place(model, batch):
    clock = Clock(CPU)
    with listening(clock), parts_watched(model, clock, compiled=False):
        started = time.perf_counter()
        with clock.step():
            with span("data"):
                time.sleep(0.02)
            for _ in range(3):
                with span("loss"):
                    loss = CausalPolicy(model).negative_log_likelihood(batch).sum()
                with span("backward"):
                    loss.backward()
        seconds = time.perf_counter() - started
    assert sum(clock.seconds.values()) == pytest.approx(seconds, rel=0.02)
    assert clock.seconds[Place("data")] >= 0.02
    wanted = {Place(phase, part) for phase in ("forward", "backward") for part in MODULES}
    assert wanted <= set(clock.seconds)


MODULES = ("embedding", "attention", "MLP", "norms", "head")


def test_nothing_is_left_on_the_model(model, batch):
    counted(model, batch)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_spans_within_spans_take_their_time_from_them():
    clock = Clock(CPU)
    with listening(clock), clock.step(), span("backward"):
        time.sleep(0.01)
        with span("communication"):
            time.sleep(0.02)
    assert clock.seconds[Place("communication")] == pytest.approx(0.02, abs=0.005)
    assert clock.seconds[Place("backward", "loss")] == pytest.approx(0.01, abs=0.005)


def test_answers_are_one_place_whatever_runs_within(model, batch):
    clock = Clock(CPU)
    watched = parts_watched(model, clock, compiled=False)
    with listening(clock), watched, clock.step(), span("answers"), torch.no_grad():
        CausalPolicy(model).negative_log_likelihood(batch)
    assert set(clock.seconds) == {Place("rest"), Place("answers")}
