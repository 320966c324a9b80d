"""The reference says the same wherever its answers come from."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import write_rows
from safetensors.torch import load_file

from framework.core.cache import cache_directory
from framework.core.protocols.strategies import Setup
from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.engine.reference import FrozenPolicy, open_references
from framework.models.collate import flat_batch
from framework.models.load import load_bundle
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.train import run

LORA = {"type": "lora", "r": 2, "lora_dropout": 0.3}
ROUNDING = 2e-6  # float32; documents in batches of other sizes


def pairs(first: int, count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}, sir.", "rejected": "No idea."}
        for n in range(first, first + count)
    ]


@pytest.fixture
def pairs_recipe(write_recipe, tmp_path):
    write_rows(tmp_path / "pairs.jsonl", pairs(0, 7))
    write_rows(tmp_path / "held_out.jsonl", pairs(50, 3))

    def write(name="recipe.yaml", *, adapter=None, precompute=False, **sections):
        # Both parts have one name, so that their sample ids are the same.
        datasets = {
            part: [{"source": f"./{file}.jsonl", "format": "preference", "name": "same"}]
            for part, file in (("train", "pairs"), ("eval", "held_out"))
        }
        return write_recipe(
            name,
            model={"dtype": "float32"},
            adapter=adapter or LORA,
            data={**datasets, "packing": False},
            trainer={
                "type": "dpo",
                "precompute_reference": precompute,
                "micro_batch_size": 2,
                "max_steps": 8,
                "learning_rate": 1e-2,
                **sections.pop("trainer", {}),
            },
            **sections,
        )

    return write


def opened(recipe):
    """(Data, the model, its references, what was said)."""
    plan = make_plan(resolve_with_origins(recipe, []), World.from_env())
    data = prepare_data(plan.recipe)
    bundle = load_bundle(plan, data.model_path, data.tokenizer)
    said: list[str] = []
    accelerator = plan.recipe.strategy.accelerator(
        Setup(
            autocast_dtype=None,
            parameters_change=False,
            micro_batch_size=1,
            num_accumulation_steps=1,
        )
    )
    return data, bundle, open_references(plan, data, bundle, accelerator, said.append), said


def said_of(policy, store) -> torch.Tensor:
    """What the policy says of all samples, in another order and all at once."""
    order = list(reversed(range(store.num_samples)))
    features = [store.features(one) for one in order]
    return policy.negative_log_likelihood(
        flat_batch(features, [store.sample_id(one) for one in order])
    )


def test_asked_before_or_with_the_adapter_off_or_a_copy_it_says_the_same(pairs_recipe):
    ways = {
        "off": pairs_recipe("off.yaml"),
        "before": pairs_recipe("before.yaml", precompute=True),
        "copy": pairs_recipe("copy.yaml", adapter={"type": "full"}),
        "before, all weights": pairs_recipe("all.yaml", adapter={"type": "full"}, precompute=True),
    }
    found, words = {}, {}
    for name, recipe in ways.items():
        data, bundle, references, said = opened(recipe)
        with torch.no_grad():  # a policy that has moved since
            for parameter in bundle.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5)
        assert data.eval is not None
        found[name] = [
            said_of(references.train, data.train),
            said_of(references.eval, data.eval),
        ]
        words[name] = " ".join(said)
    for name, values in found.items():
        for ours, wanted in zip(values, found["off"], strict=True):
            assert ours.shape == wanted.shape and not ours.requires_grad
            assert (ours - wanted).abs().max() < ROUNDING * wanted.abs().max(), name
    assert "switched off, no second copy" in words["off"]
    assert "second copy of the model, frozen" in words["copy"]
    assert "asking about 7 samples" in words["before"]
    assert words["before, all weights"].count("kept in the cache") == 2, "one reference for both"


def test_with_an_adapter_that_changes_weights_it_is_the_model_as_it_was(pairs_recipe):
    pissa = {**LORA, "init_lora_weights": "pissa"}
    data, _, references, _ = opened(pairs_recipe(adapter=pissa, precompute=True))
    _, bundle, _, _ = opened(pairs_recipe("plain.yaml"))
    wanted = said_of(FrozenPolicy(bundle.model, None), data.train)
    assert (said_of(references.train, data.train) - wanted).abs().max() < 1e-4


def test_damaged_answers_are_asked_for_again(pairs_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = pairs_recipe(precompute=True)
    data, _, references, _ = opened(recipe)
    before = said_of(references.train, data.train)
    for file in (cache_directory() / "references").glob("*/*.bin"):
        file.write_bytes(b"\0" * file.stat().st_size)
    data, _, references, said = opened(recipe)
    assert "asking about 7 samples" in " ".join(said)
    assert torch.equal(said_of(references.train, data.train), before)


def losses(output) -> list[float]:
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("adapter", [LORA, {"type": "full"}], ids=["lora", "full"])
def test_a_run_that_goes_on_in_the_middle_ends_with_the_same_weights(
    pairs_recipe, tmp_path, adapter
):
    recipe = pairs_recipe(
        adapter=adapter,
        precompute=True,
        checkpoint={"every_steps": 4},
        evaluation={"every_steps": 4},
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for output in (whole, cut):
        run(recipe, [f"output.dir={output}"])
    # Without its newest checkpoint the run goes on after step 4.
    (cut / "checkpoints" / "step-00000008" / "manifest.json").unlink()
    run(recipe, [f"output.dir={cut}"])
    assert losses(cut) == losses(whole)
    assert len(set(losses(whole))) > 4, "it learns"
    name = "adapter_model.safetensors" if adapter is LORA else "model.safetensors"
    ours, wanted = (load_file(output / "final" / name) for output in (cut, whole))
    assert all(torch.equal(ours[key], wanted[key]) for key in wanted)
