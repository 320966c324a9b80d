"""Greedy answers are those of transformers' `generate`, and computed for less."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
from torch import distributed
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from framework.models.generating import generated, greedy

VOCABULARY = 97
ENDS = frozenset({5, 6})
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    # Weights so large that answers differ, and end at many lengths.
    "initializer_range": 0.35,
}
ATTENTION = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, **ATTENTION)).eval()


def with_lora() -> Any:
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    return peft.get_peft_model(llama(), config).eval()


def with_prefix() -> Any:
    """Puts keys and values of its own before those of the tokens."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return peft.get_peft_model(llama(), config).eval()


def with_window() -> Any:
    """Keeps no keys and values of tokens that are farther away."""
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SMALL, **ATTENTION, sliding_window=12)).eval()


def with_rotations_by_length() -> Any:
    """What it reads beyond eight tokens turns the keys of all otherwise."""
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(**SMALL, **ATTENTION, max_position_embeddings=8, rope_parameters=rope)
    return LlamaForCausalLM(config).eval()


def mamba() -> Any:
    """Keeps a state, not keys and values."""
    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(**SMALL)).eval()


def prompts(num: int, shared: Sequence[int] = ()) -> list[list[int]]:
    chosen = random.Random(num)
    lengths = [chosen.randint(1, 40) for _ in range(num)]
    return [[*shared, *(chosen.randrange(7, VOCABULARY) for _ in range(n))] for n in lengths]


SHARED = prompts(50)[0] * 20
CASES = {
    "of many lengths": prompts(21),
    "that begin alike": prompts(21, SHARED[:30]),
    "one of which is what all begin with": [SHARED[:30], *prompts(9, SHARED[:30])],
    "all the same": [SHARED[:30]] * 3,
    "one": prompts(1),
}


def of_generate(model: Any, asked: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    with torch.no_grad():
        rows = generated(
            model,
            asked,
            padding=0,
            end_token_ids=ENDS,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return [cut(row) for row in rows]


def cut(row: list[int]) -> list[int]:
    return next((row[: at + 1] for at, token in enumerate(row) if token in ENDS), row)


def ours(model: Any, asked: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    with torch.no_grad():
        return greedy(
            model,
            asked,
            padding=0,
            end_token_ids=ENDS,
            max_new_tokens=max_new_tokens,
            together=False,
        )


@contextmanager
def computed(model: Any) -> Iterator[list[int]]:
    """Places that go through the model in each pass, padding among them."""
    found: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, given, _output: found.append(given[0].numel())
    )
    yield found
    hook.remove()


@pytest.mark.parametrize("max_new_tokens", [1, 2, 17, 50])
@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_generate(case, max_new_tokens):
    model, asked = llama(), CASES[case]
    answers = ours(model, asked, max_new_tokens)
    assert answers == of_generate(model, asked, max_new_tokens)
    if max_new_tokens == 50 and len(asked) == 21:
        assert len({len(answer) for answer in answers}) > 8


@pytest.mark.parametrize(
    "make", [with_lora, with_prefix, with_window, with_rotations_by_length, mamba]
)
@pytest.mark.parametrize("case", ["of many lengths", "that begin alike"])
def test_answers_are_those_of_generate_whatever_a_model_keeps(make, case):
    asked = CASES[case]
    # A model each: rotations by length remember the longest row.
    assert [cut(row) for row in ours(make(), asked, 40)] == of_generate(make(), asked, 40)


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.3}, {"min_new_tokens": 20}, {"no_repeat_ngram_size": 2}]
)
def test_what_a_model_itself_says_of_its_answers_holds(settings):
    model, asked = llama(), CASES["that begin alike"]
    plain = of_generate(model, asked, 40)
    model.generation_config.update(**settings)
    answers = [cut(row) for row in ours(model, asked, 40)]
    assert answers == of_generate(model, asked, 40)
    assert answers != plain


def test_what_is_over_or_begins_alike_is_not_computed_again():
    model, asked = llama(), CASES["that begin alike"]
    with computed(model) as by_generate:
        of_generate(model, asked, 50)
    with computed(model) as by_us:
        answers = ours(model, asked, 50)
    # A pass for the beginning, three for the prompts; the first pass of each piece goes on.
    assert by_us[0] == 30
    groups = [sorted(map(len, asked))[at : at + 8] for at in range(0, len(asked), 8)]
    assert by_us[1:4] == [len(one) * (max(one) - 30) for one in groups]
    needed = sum(len(answer) - 1 for answer in answers)
    assert needed <= sum(by_us[4:]) <= needed + 15 * len(asked)
    assert sum(by_us) < 0.55 * sum(by_generate)


def test_processes_that_share_weights_out_run_whole_passes():
    model, asked = llama(), CASES["of many lengths"]
    given = {"padding": 0, "end_token_ids": ENDS, "max_new_tokens": 40}
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with torch.no_grad(), computed(model) as passes:
            answers = greedy(model, asked, **given, together=True)
    finally:
        distributed.destroy_process_group()
    assert [cut(row) for row in answers] == of_generate(model, asked, 40)
    assert set(passes[1:]) == {len(asked)}
