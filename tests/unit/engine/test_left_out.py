"""Which steps must not be taken, and what is remembered of those that weren't."""

from __future__ import annotations

import math

import pytest
import torch

from framework.core.problems import Refused, RunFailed, UserError
from framework.engine.left_out import (
    MOST_IN_A_ROW,
    LeftOut,
    LeftOutStep,
    LossWatch,
    Unusable,
    num_not_finite,
)
from framework.recipe.schema import LossSpike, Trainer
from framework.runs.run_directory import RunDirectory

SPIKE = LossSpike(factor=2.0, window=3, then="skip")


def step(number: int, *, fault_step: int | None = None, back_to: int | None = None) -> LeftOutStep:
    return LeftOutStep(
        step=number,
        ids=[f"train0:{number}"],
        reason="loss is nan",
        fault_step=fault_step or number,
        back_to=back_to,
    )


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -math.inf)]
)
def test_what_is_no_number_is_unusable(loss, norm):
    watch = LossWatch(Trainer(on_nan="roll_back"), scaled=False)
    with pytest.raises(Unusable, match="loss is") as caught:
        watch.check(loss, norm)
    assert caught.value.remedy == "roll_back"
    watch.check(1.0, 1.0)


def test_a_norm_that_a_scaler_judges_is_not_judged_again():
    watch = LossWatch(Trainer(), scaled=True)
    watch.check(1.0, math.inf)
    with pytest.raises(Unusable):
        watch.check(math.nan, 1.0)


def test_a_spike_is_above_the_median_of_a_whole_window():
    watch = LossWatch(Trainer(loss_spike=SPIKE), scaled=False)
    for loss in (1.0, 9.0, 2.0):
        watch.check(100.0, 1.0)  # the window isn't full
        watch.note(loss)
    watch.check(4.0, 1.0)
    with pytest.raises(Unusable, match="the median of the 3 before is 2") as caught:
        watch.check(4.01, 1.0)
    assert caught.value.remedy == "skip"
    watch.note(3.0)  # the 1.0 leaves the window: 9, 2, 3
    watch.check(6.0, 1.0)


def test_losses_survive_a_restart():
    watch, again = (LossWatch(Trainer(loss_spike=SPIKE), scaled=False) for _ in range(2))
    for loss in (5.0, 1.0, 1.1, 1.2):
        watch.note(loss)
    again.restore(watch.state())
    assert again.state() == watch.state() == [1.0, 1.1, 1.2]
    with pytest.raises(Unusable):
        again.check(2.3, 1.0)


def test_without_the_setting_no_loss_is_kept():
    watch = LossWatch(Trainer(), scaled=False)
    watch.note(1.0)
    watch.check(1e9, 1.0)
    assert watch.state() == []


def test_the_file_outlives_the_process_and_knows_its_data(tmp_path):
    directory = RunDirectory(tmp_path, is_main=True)
    LeftOut(directory, []).add([step(7), step(3)])
    again = LeftOut(directory, directory.rows("left_out.jsonl"))
    assert [number for number in range(10) if number in again] == [3, 7]
    assert again[7] == step(7)
    again.refuse_other_data(7, ["train0:7"])
    with pytest.raises(Refused, match="other samples"):
        again.refuse_other_data(7, ["train0:8"])


def test_a_line_of_the_file_that_cant_be_read_is_no_batch_that_is_taken(tmp_path):
    directory = RunDirectory(tmp_path, is_main=True)
    LeftOut(directory, []).add([step(3), step(7)])
    path = tmp_path / "left_out.jsonl"
    path.write_text(path.read_text().replace('"step": 3', '"step": '))
    with pytest.raises(UserError, match=r"left_out.jsonl:1: can't be read"):
        directory.rows("left_out.jsonl")


def test_steps_are_taken_back_only_where_all_their_samples_are_known(tmp_path):
    left_out = LeftOut(RunDirectory(tmp_path, is_main=True), [vars(step(5))])
    seen = [{"step": number, "ids": [f"train0:{number}"]} for number in (4, 6, 8)]
    with pytest.raises(RunFailed, match="which samples step 7 saw"):
        left_out.take_back(seen, 8, 3, "loss is nan")
    left_out.take_back(seen[:2], 6, 3, "loss is nan")
    assert [number for number in range(10) if number in left_out] == [4, 5, 6]


def test_batch_after_batch_is_not_left_out_for_ever(tmp_path):
    left_out = LeftOut(RunDirectory(tmp_path, is_main=True), [])
    for number in range(1, MOST_IN_A_ROW + 1):
        left_out.refuse_endless(number, number)
        left_out.add([step(number)])
    with pytest.raises(RunFailed, match="it isn't the data"):
        left_out.refuse_endless(MOST_IN_A_ROW + 1, MOST_IN_A_ROW + 1)
    left_out.refuse_endless(MOST_IN_A_ROW + 2, MOST_IN_A_ROW + 2)  # a step was taken in between


def test_a_run_does_not_go_back_to_one_checkpoint_for_ever(tmp_path):
    left_out = LeftOut(RunDirectory(tmp_path, is_main=True), [])
    for number in range(2, 2 * MOST_IN_A_ROW + 1, 2):
        left_out.refuse_endless(number, 1)
        left_out.add([step(number - 1, fault_step=number, back_to=0), step(number, back_to=0)])
    with pytest.raises(RunFailed, match="since step 0"):
        left_out.refuse_endless(99, 1)
    left_out.refuse_endless(99, 51)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_poison_is_found_in_weights_and_in_the_optimizers_state(value):
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert num_not_finite(optimizer) == 0
    optimizer.state[layer.bias]["exp_avg"][1] = value
    assert num_not_finite(optimizer) == 1
    with torch.no_grad():
        layer.weight[0, 0] = value
    assert num_not_finite(optimizer) == 2
