"""What a run has seen of each dataset is what the recipe asked for, also after an interruption."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import read_rows, write_rows
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.engine.order import Order
from framework.recipe.resolve import resolve

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def write_mixed(write_recipe, tmp_path):
    """A recipe over `short`, `long` and `few`, whose answers are of very different lengths."""
    chance = random.Random(5)
    for name, number, middle in (("short", 150, 2.0), ("long", 60, 8.0), ("few", 20, 4.0)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"Question {at}"},
                    {
                        "role": "assistant",
                        "content": " ".join(
                            ["word"] * min(20, 1 + int(chance.expovariate(1 / middle)))
                        ),
                    },
                ]
            }
            for at in range(number)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)

    def write(weights=(None, None, None), epochs=(None, None, None), **settings) -> Path:
        train = []
        for name, weight, most in zip(("short", "long", "few"), weights, epochs, strict=True):
            written = {"source": f"./{name}.jsonl", "name": name, "weight": weight, "epochs": most}
            train.append({key: value for key, value in written.items() if value is not None})
        return write_recipe(
            **{
                "data": {"train": train, "max_length": 256, **settings},
                "trainer": {"max_steps": None, "learning_rate": 1e-3, "global_batch_size": 2},
            }
        )

    return write


def start(recipe: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FRAMEWORK, "train", str(recipe), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(recipe: Path, *overrides: str) -> str:
    process = start(recipe, *overrides)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return " ".join(output.split())


def trained_tokens(recipe: Path) -> dict[str, int]:
    """Sample id -> its trained tokens."""
    store = prepare_data(resolve(recipe)).train
    return {
        store.sample_id(at): store.features(at).num_trained_tokens
        for at in range(store.num_samples)
    }


def seen(run: Path) -> list[str]:
    return [one for row in read_rows(run / "samples.jsonl") for one in row["ids"]]


def shares(ids: list[str], tokens: dict[str, int]) -> dict[str, float]:
    of: Counter[str] = Counter()
    for one in ids:
        of[one.partition(":")[0]] += tokens[one]
    return {name: number / of.total() for name, number in of.items()}


@pytest.mark.slow
def test_weighted_shares_are_kept_over_an_interruption(write_mixed, tmp_path):
    recipe = write_mixed(weights=(5, 3, 2), epochs=(1, 2, 3), mixture="interleave")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = train(recipe, f"output.dir={whole}")
    assert "short 50" in said
    assert "(asked 50.0%)" in said

    process = start(recipe, f"output.dir={cut}")
    metrics = cut / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    before = len(read_rows(cut / "samples.jsonl"))
    assert 3 < before < len(read_rows(whole / "samples.jsonl"))
    train(recipe, f"output.dir={cut}")
    assert read_rows(cut / "samples.jsonl") == read_rows(whole / "samples.jsonl")

    tokens = trained_tokens(recipe)
    realised = shares(seen(cut), tokens)
    assert realised == pytest.approx({"short": 0.5, "long": 0.3, "few": 0.2}, abs=0.01)
    repeated = Counter(seen(cut))
    assert max(count for one, count in repeated.items() if one.startswith("few")) > 1
    assert max(count for one, count in repeated.items() if one.startswith("short")) == 1
    store = prepare_data(resolve(recipe)).train
    packs = [store.unit(at).tolist() for at in range(store.num_units)]
    assert all(len(set(pack)) == len(pack) for pack in packs), "no pack has a sample twice"

    written = json.loads((cut / "preparation.json").read_text())["train"]["mixing"]
    assert {one["name"]: one["realised"] for one in written["datasets"]} == pytest.approx(realised)
    page = (cut / "report.html").read_text()
    assert "Share of trained tokens" in page
    assert "50.0 %" in page


@pytest.mark.slow
def test_a_curriculum_changes_what_is_trained_over_the_run(write_mixed, tmp_path):
    points = [{"at": 0, "weights": {"short": 1}}, {"at": 1, "weights": {"long": 3, "few": 1}}]
    recipe = write_mixed(
        epochs=(1, 2, 4),
        mixture={"type": "curriculum", "points": points, "num_stages": 4},
        split={"eval": 0.1},
        over_length="drop",
    )
    with (tmp_path / "long.jsonl").open("a") as stream:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "word " * 400}]
        stream.write(json.dumps({"messages": turns}) + "\n")
    said = train(recipe)
    assert "short: data.split leaves 135 rows to train, 15 to evaluate, 0 to test" in said
    assert "1 rows longer than data.max_length (1 dropped, 1,601 tokens" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "leaves 135 rows to train, 15 to evaluate, 0 to test" in page
    assert "of 1 rows over length 0 were cut, 0 split, 1 left out" in page
    written = json.loads((tmp_path / "run" / "preparation.json").read_text())["train"]["mixing"]
    ids, tokens = seen(tmp_path / "run"), trained_tokens(recipe)
    first = 0
    for number, stage in enumerate(written["stages"]):
        part = ids[first : first + stage["num_samples"]]
        first += stage["num_samples"]
        late = (number + 0.5) / 4
        expected = {"short": 1 - late, "long": 0.75 * late, "few": 0.25 * late}
        assert shares(part, tokens) == pytest.approx(expected, abs=0.01)
    assert first == len(ids)


def test_one_dataset_after_the_other(write_mixed):
    store = prepare_data(resolve(write_mixed(mixture="concatenate"))).train
    order = Order(
        stage_ends=store.stage_ends, global_batch_size=2, seed=1, data_fingerprint="content"
    )
    units = [unit for step in range(order.steps_per_epoch) for unit in order.global_batch(step)]
    ids = [store.sample_id(one) for unit in units for one in store.unit(unit)]
    names = [one.partition(":")[0] for one in ids]
    assert names == ["short"] * 150 + ["long"] * 60 + ["few"] * 20


def test_shares_can_be_shares_of_rows(write_mixed):
    recipe = write_mixed(weights=(1, 1, 2), mixing_unit="rows")
    mixing = prepare_data(resolve(recipe)).train.details["mixing"]
    assert [one["num_samples"] for one in mixing["datasets"]] == [10, 10, 20]
    assert [one["realised"] for one in mixing["datasets"]] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    ("settings", "overrides", "key", "hint"),
    [
        ({"weights": (1, None, 1)}, [], "data.train[1].weight", "every dataset a weight"),
        ({}, ["data.eval=[{source: few.jsonl, weight: 1}]"], "data.eval[0].weight", "remove it"),
        ({}, ["data.test=[{source: few.jsonl, epochs: 1}]"], "data.test[0].epochs", "remove it"),
        (
            {"weights": (1, 1, 1)},
            ["data.mixture={type: curriculum, points: [{at: 0, weights: {short: 1}}]}"],
            "data.train[0].weight",
            "remove it",
        ),
        (
            {},
            ["data.mixture={type: curriculum, points: [{at: 0, weights: {shrt: 1}}]}"],
            "data.mixture.points[0].weights.shrt",
            "did you mean 'short'?",
        ),
        (
            {},
            ["data.mixture={type: curriculum, points: [{at: 0, weights: {short: 1}}]}"],
            "data.train[1]",
            "remove the dataset",
        ),
        (
            {},
            [
                "data.mixture={type: curriculum, points: [{at: 1, weights: {short: 1}}, "
                "{at: 1, weights: {long: 1}}]}"
            ],
            "data.mixture.points[1].at",
            "in the order",
        ),
        (
            {},
            ["data.mixture={type: curriculum, points: [{at: 0, weights: {short: 0}}]}"],
            "data.mixture.points[0].weights",
            "{NAME: 1}",
        ),
        (
            {},
            [
                "data.mixture={type: curriculum, points: [{at: 0, weights: {short: 1}}]}",
                "trainer.num_train_epochs=2",
            ],
            "trainer.num_train_epochs",
            "write num_train_epochs: 1",
        ),
        (
            {},
            [
                "data.mixture={type: curriculum, points: [{at: 0, weights: {short: 1}}]}",
                "trainer.max_steps=2",
            ],
            "trainer.max_steps",
            "remove it",
        ),
    ],
)
def test_what_can_not_be_mixed_is_refused_at_its_line(write_mixed, settings, overrides, key, hint):
    with pytest.raises(UserError) as caught:
        resolve(write_mixed(**settings), overrides)
    found = [one for one in caught.value.problems if one.key == key]
    assert found, caught.value.problems
    assert hint in found[0].hint
    assert found[0].file
