"""Every rule applies where its share is too large, nowhere else, and stands in the docs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_rows

import framework
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.profiling.advice import RULES, advise
from framework.profiling.clock import RECOMPUTED, Place
from framework.profiling.findings import Findings, Slice, StepMemory
from framework.recipe.resolve import resolve_with_origins

PAGE = Path(framework.__file__).parent.parent / "docs" / "profiling.md"
PEAK = 1e11


def findings(changes=(), **shares: float) -> Findings:
    """One second of a step; `forward_head=0.2` is a share of it, attention has the rest of it and
    computes at 80 % of the peak."""
    places = {Place(*name.split("_", 1)): seconds for name, seconds in shares.items()}
    seconds = {Place("forward", "attention"): 1 - sum(places.values()), **places}
    slices = tuple(
        Slice(
            place=place,
            seconds=one,
            operations=0.8 * PEAK if place.part == "attention" else 0.0,
            kept_bytes=0,
        )
        for place, one in seconds.items()
    )
    good = Findings(
        num_steps=3,
        num_processes=1,
        device="cpu",
        num_threads=2,
        slices=slices,
        engine_seconds=1.0,
        cpu_seconds=2.0,
        num_passes=2,
        num_tokens=8192,
        num_trained_tokens=4096,
        products_dtype="bfloat16",
        gemm_peak=PEAK,
        bfloat16_gemm_peak=None,
        memory=StepMemory(weights=1, gradients=1, optimizer=1, kept=1, peaks={}),
        unneeded_checkpointing=None,
        save_seconds=0.1,
        steps_per_save=100,
    )
    return replace(good, **dict(changes))


@pytest.fixture
def plan(write_recipe):
    def make(num_processes=1, **changes):
        resolved = resolve_with_origins(write_recipe(**changes))
        return make_plan(resolved, World(num_processes=num_processes))

    return make


def rules(found: Findings, plan) -> list[str]:
    return [one.rule for one in advise(found, plan)]


def test_a_good_step_needs_no_advice(plan):
    assert rules(findings(optimizer=0.1, data=0.05), plan()) == []


AGAIN = {f"backward_{RECOMPUTED}": 0.25}
SHARES = {
    "data": {"data": 0.06},
    "head_and_loss": {"forward_head": 0.1, "loss": 0.1, "backward_head": 0.11},
    "optimizer": {"optimizer": 0.16},
    "communication": {"communication": 0.21},
    "rest": {"rest": 0.1, "forward_rest": 0.06},
}
CHANGES = {
    "float32": {"bfloat16_gemm_peak": 2 * PEAK, "products_dtype": "float32"},
    "save": {"save_seconds": 6.0},
    "threads": {"cpu_seconds": 1.1},
}


@pytest.mark.parametrize("name", SHARES)
def test_a_large_share_is_named(plan, name):
    small = {place: 0.75 * share for place, share in SHARES[name].items()}
    assert rules(findings(**SHARES[name]), plan()) == [name]
    assert rules(findings(**small), plan()) == []


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_share_of_a_step_is_named_too(plan, name):
    assert rules(findings(CHANGES[name]), plan()) == [name]


def test_checkpointing_is_unneeded_only_where_the_memory_suffices_without_it(plan):
    fits = {"unneeded_checkpointing": (2 << 30, 8 << 30)}
    (one,) = advise(findings(fits, **AGAIN), plan())
    assert (one.rule, "2.0 GiB" in one.text, "8.0 GiB" in one.text) == ("checkpointing", True, True)
    assert rules(findings(**AGAIN), plan()) == []


def test_small_passes_are_advised_packing_or_larger_ones(plan):
    few = findings({"num_tokens": 400, "gemm_peak": 4 * PEAK})
    single = {"trainer.micro_batch_size": 1}
    packed, unpacked = plan(**single), plan(data={"packing": False}, **single)
    assert "`trainer.micro_batch_size: auto`" in advise(few, packed)[0].text
    assert "data.packing: true" in advise(few, unpacked)[0].text
    assert rules(findings({"num_tokens": 400}), packed) == [], "near the peak they are no trouble"


def test_of_passes_that_hold_what_they_can_a_step_is_advised_to_have_more(plan):
    few = findings({"num_tokens": 400, "gemm_peak": 4 * PEAK})
    auto = plan(data={"packing": False})
    assert advise(few, auto)[0].text.endswith("write a larger `trainer.global_batch_size`")
    one_by_one = plan(data={"packing": False}, model={"attention": "eager"})
    assert rules(few, one_by_one) == []


@pytest.mark.parametrize(
    ("size", "is_small"), [("tensor_parallel_size", False), ("sequence_parallel_size", True)]
)
def test_tokens_of_a_pass_are_those_that_a_process_computes(plan, size, is_small):
    """Two processes compute layers of the same 1,024 tokens, or a half of them each."""
    found = findings({"num_tokens": 2048, "num_processes": 2, "gemm_peak": 4 * PEAK})
    two = plan(2, adapter="full", strategy={"type": "fsdp", size: 2})
    assert rules(found, two) == ["small_passes"] * is_small


def test_groups_that_wait_for_each_other_are_advised_to_be_smaller(plan):
    strategy = {"type": "fsdp", "sequence_parallel_size": 2}
    (one,) = advise(findings(communication=0.21), plan(2, strategy=strategy))
    assert "a smaller size of such a group" in one.text and "ddp" not in one.text


def test_a_reference_is_advised_to_be_asked_beforehand(plan, tmp_path):
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "?", "chosen": "!", "rejected": "."}])
    rows = [{"source": "./pairs.jsonl", "format": "preference"}]
    compared = plan(trainer={"type": "dpo"}, data={"train": rows, "packing": False})
    (one,) = advise(findings(reference=0.2), compared)
    assert (one.rule, "precompute_reference: true" in one.text) == ("reference", True)
    assert rules(findings(reference=0.2), plan()) == []


def test_advice_begins_with_the_largest_share(plan):
    found = findings(CHANGES["save"], data=0.3, optimizer=0.2)
    assert rules(found, plan()) == ["data", "optimizer", "save"]


def test_every_rule_stands_in_the_docs_and_no_other():
    text = PAGE.read_text(encoding="utf-8").partition("## What would help")[2]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(RULES)
