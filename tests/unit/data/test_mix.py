"""An epoch has the asked shares, is as long as the datasets allow, and is always the same one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.core.problems import UserError
from framework.data.mix import Ingredient, Mixed, mix
from framework.data.pack import apart
from framework.mixtures.concatenate import Concatenate
from framework.mixtures.curriculum import Curriculum, Point
from framework.mixtures.interleave import Interleave
from framework.mixtures.shuffle import Shuffle


def ingredients(*costs, weights=None, epochs=None) -> list[Ingredient]:
    """Datasets `a`, `b` ... of samples with these costs."""
    found = []
    first = 0
    for at, of in enumerate(costs):
        found.append(
            Ingredient(
                name="abcdef"[at],
                weight=weights[at] if weights else None,
                epochs=epochs[at] if epochs else 1.0,
                costs=np.asarray(of, dtype=np.int64),
                samples=np.arange(first, first + len(of)),
            )
        )
        first += len(of)
    return found


def skewed(seed: int, number: int, middle: float = 100.0) -> list[int]:
    """Lengths as conversations have them: most short, some ten times as long."""
    random = np.random.default_rng(seed)
    return np.ceil(random.lognormal(np.log(middle), 1.0, number)).astype(int).tolist()


def counts(mixed: Mixed, number: int) -> list[int]:
    """How often each sample stands in the epoch."""
    return np.bincount(np.concatenate(mixed.stages), minlength=number).tolist()


def shares(mixed: Mixed) -> dict[str, float]:
    return {one.name: one.realised for one in mixed.datasets}


# ---- without weights


@pytest.mark.parametrize("mixture", [Shuffle(), Concatenate(), Interleave(num_stages=3)])
def test_without_weights_every_sample_stands_once(mixture):
    mixed = mix(ingredients([5, 6, 7], [1, 2], [9]), mixture)
    assert counts(mixed, 6) == [1] * 6
    assert [one.asked for one in mixed.datasets] == [None] * 3
    assert [one.passes for one in mixed.datasets] == [1.0] * 3


def test_held_out_data_are_one_stage_with_every_sample_once():
    mixed = mix(ingredients([5, 6, 7], [1, 2]), None)
    assert [stage.tolist() for stage in mixed.stages] == [[0, 1, 2, 3, 4]]


def test_epochs_are_passes_and_parts_of_passes():
    mixed = mix(ingredients([1] * 10, [1] * 10, epochs=[2.0, 0.5]), Shuffle())
    assert counts(mixed, 20)[:10] == [2] * 10
    assert sorted(counts(mixed, 20)[10:]) == [0] * 5 + [1] * 5
    assert [one.num_unused_samples for one in mixed.datasets] == [0, 5]
    assert [one.passes for one in mixed.datasets] == [2.0, 0.5]


def test_one_dataset_after_the_other_in_the_order_of_the_recipe():
    mixed = mix(ingredients([5, 6], [1, 2, 3]), Concatenate())
    assert [stage.tolist() for stage in mixed.stages] == [[0, 1], [2, 3, 4]]
    assert list(mixed.shares) == [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]


# ---- with weights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(300, 1200), min_size=2, max_size=4),
    data=st.data(),
)
def test_shares_of_skewed_lengths_are_within_one_percent_and_limits_are_kept(seed, sizes, data):
    number = len(sizes)
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=number, max_size=number))
    epochs = data.draw(st.lists(st.floats(0.5, 4), min_size=number, max_size=number))
    costs = [skewed(seed + at, size, 50 + 100 * at) for at, size in enumerate(sizes)]
    mixture = data.draw(st.sampled_from([Shuffle(), Concatenate(), Interleave()]))
    mixed = mix(ingredients(*costs, weights=weights, epochs=epochs), mixture)
    parts = zip(mixed.datasets, costs, strict=True)
    whole = sum(one.passes * sum(cost) for one, cost in parts)
    for one, cost, weight, most in zip(mixed.datasets, costs, weights, epochs, strict=True):
        assert one.asked == pytest.approx(weight / sum(weights))
        # A single sample of more than a hundredth of the epoch is in it or not.
        assert abs(one.realised - one.asked) <= max(0.01, max(cost) / whole)
        assert one.passes <= most * (1 + 1e-6)
    # The longest such epoch: some dataset is used up.
    slack = [most - one.passes for one, most in zip(mixed.datasets, epochs, strict=True)]
    assert min(slack) <= 0.05


def test_a_small_dataset_that_is_asked_for_much_limits_the_epoch():
    mixed = mix(ingredients([10] * 100, [10] * 10, weights=[1, 1]), Shuffle())
    assert shares(mixed) == {"a": 0.5, "b": 0.5}
    assert [one.num_samples for one in mixed.datasets] == [10, 10]
    assert [one.num_unused_samples for one in mixed.datasets] == [90, 0]
    more = mix(ingredients([10] * 100, [10] * 10, weights=[1, 1], epochs=[1, 3]), Shuffle())
    assert [one.num_samples for one in more.datasets] == [30, 30]
    assert counts(more, 110)[100:] == [3] * 10


def test_no_sample_comes_again_before_all_of_its_dataset_have_come():
    costs = skewed(1, 50)
    mixed = mix(
        ingredients(costs, skewed(2, 400), weights=[1, 2], epochs=[9, 1]), Interleave(num_stages=40)
    )
    seen = np.zeros(50, dtype=int)
    for stage in mixed.stages:
        np.add.at(seen, stage[stage < 50], 1)
        assert seen.max() - seen.min() <= 2, "a stage may end one pass and begin the next"
    assert seen.max() - seen.min() <= 1


def test_an_interleaved_epoch_has_the_asked_shares_after_each_of_its_pieces():
    costs = [skewed(1, 3000), skewed(2, 900, 400), skewed(3, 3000)]
    mixed = mix(ingredients(*costs, weights=[6, 3, 1]), Interleave(num_stages=20))
    flat = np.concatenate([np.asarray(of) for of in costs])
    dataset = np.repeat([0, 1, 2], [3000, 900, 3000])
    done = np.zeros(3)
    for stage in mixed.stages:
        done += np.bincount(dataset[stage], weights=flat[stage], minlength=3)
        assert np.abs(done / done.sum() - [0.6, 0.3, 0.1]).max() <= 0.01


def test_a_dataset_with_a_share_and_no_sample_is_an_error():
    with pytest.raises(UserError, match="'b' has a share of the mixture"):
        mix(ingredients([1, 2], [], weights=[1, 1]), Shuffle())
    assert counts(mix(ingredients([1, 2], []), Shuffle()), 2) == [1, 1]


# ---- a curriculum


def test_a_curriculum_moves_the_shares_along_its_lines():
    easy_first = Curriculum(
        points=(
            Point(at=0.0, weights={"a": 1}),
            Point(at=0.5, weights={"a": 1, "b": 1}),
            Point(at=1.0, weights={"b": 3, "a": 1}),
        ),
        num_stages=10,
    )
    mixed = mix(ingredients(skewed(1, 8000), skewed(2, 4000, 200)), easy_first)
    assert len(mixed.stages) == 10
    expected = [0.05, 0.15, 0.25, 0.35, 0.45, 0.525, 0.575, 0.625, 0.675, 0.725]
    assert [of["b"] for of in mixed.shares] == pytest.approx(expected, abs=0.01)
    assert [one.asked for one in mixed.datasets] == pytest.approx([0.5625, 0.4375])
    assert [one.realised for one in mixed.datasets] == pytest.approx([0.5625, 0.4375], abs=0.01)
    assert max(one.passes for one in mixed.datasets) == pytest.approx(1.0, abs=0.01)


def test_before_the_first_and_after_the_last_point_the_weights_stay():
    points = (Point(at=0.4, weights={"a": 1}), Point(at=0.6, weights={"b": 1}))
    stages = Curriculum(points=points, num_stages=10).stages({})
    assert [stage.weights.get("a", 0.0) for stage in stages] == pytest.approx(
        [1, 1, 1, 1, 0.75, 0.25, 0, 0, 0, 0]
    )


# ---- the same everywhere


PROGRAM = """
import numpy as np, sys
sys.path.insert(0, {folder!r})
from test_mix import digest
print(digest())
"""


def digest() -> list[list[int]]:
    found = ingredients(skewed(1, 30), skewed(2, 40), weights=[2, 1], epochs=[2.5, 1])
    return [stage.tolist() for stage in mix(found, Interleave(num_stages=3)).stages]


def test_another_process_mixes_the_same():
    folder = str(__file__).rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == str(digest())


def test_the_draw_is_the_same_on_every_machine_and_version():
    """Golden: a change of this list makes other data of the same recipe."""
    mixed = mix(ingredients([1] * 10, [1] * 10, weights=[3, 1]), Shuffle())
    assert [stage.tolist() for stage in mixed.stages] == GOLDEN


GOLDEN = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 19]]


# ---- packs


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(1, 300))
def test_repetitions_are_kept_apart(samples, most):
    groups = apart(np.asarray(samples), most)
    assert sorted(one for group in groups for one in group.tolist()) == sorted(samples)
    assert len(groups) <= most
    repeated = max(samples.count(one) for one in samples)
    if most >= repeated:
        assert len(groups) == repeated
        assert all(len(set(group.tolist())) == len(group) for group in groups)


def test_what_stands_once_is_dealt_out_evenly():
    groups = apart(np.asarray([*range(1000), *[5] * 9]), 100)
    assert len(groups) == 10
    assert {len(group) for group in groups} <= {100, 101, 102}
