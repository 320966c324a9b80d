"""Steps that overflow in float16 change no weights, and no run goes on with nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from framework.core.problems import RunFailed
from framework.distributed.accelerators import new_accelerator
from framework.distributed.replicated import Replicated
from framework.engine.loss_scale import LossScale


class Overflowing:
    """A layer whose gradients a test sets, and the scale of its losses."""

    def __init__(self, *, fused: bool = True) -> None:
        accelerator = new_accelerator("fp16")
        self.layer = torch.nn.Linear(2, 1, bias=False)
        self.spread = Replicated(
            accelerator,
            self.layer,
            lambda model: torch.optim.SGD(model.parameters(), lr=1.0, fused=fused),
        )
        self.scale = LossScale(accelerator)

    def step(self, number: int, gradient: float) -> str:
        self.spread.backward(self.layer.weight.sum() * gradient, last=True)
        norm = self.spread.step(None, lambda norm: None)
        self.spread.zero_grad()
        return self.scale.after_step(number, norm)


def test_gradients_are_unscaled_before_the_step():
    one = Overflowing()
    before = one.layer.weight.detach().clone()
    assert one.step(1, 2.0) == ""
    torch.testing.assert_close(one.layer.weight, before - 2.0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("gradient", [math.inf, math.nan])
def test_what_is_no_number_reaches_no_weight(gradient, fused):
    one = Overflowing(fused=fused)
    before = one.layer.weight.detach().clone()
    assert "losses are scaled by 32768 now" in one.step(1, gradient)
    assert torch.equal(one.layer.weight, before)
    assert one.step(2, 1.0) == "" and one.scale.metrics() == {"num_overflows": 1}


def test_a_run_whose_every_step_overflows_ends():
    one = Overflowing()
    with pytest.raises(RunFailed, match="losses are already scaled by"):
        for number in range(1, 100):
            one.step(number, math.inf)
    assert one.scale.num_overflows == 30


def test_scale_and_count_survive_a_restart():
    one, again = Overflowing(), Overflowing()
    one.step(1, math.inf)
    one.step(2, 1.0)
    again.scale.restore(one.scale.state())
    assert again.scale.state() == one.scale.state()
    again.scale.restore(None)  # of a checkpoint that has none
    assert again.scale.metrics() == {"num_overflows": 1}
    assert "scaled by 16384 now" in again.step(3, math.inf)


def test_without_float16_there_is_no_scale():
    scale = LossScale(new_accelerator("no"))
    assert not scale.is_on and scale.state() is None
    scale.restore({"scaler": {}, "num_overflows": 3})
    assert scale.after_step(1, math.nan) == "" and scale.metrics() == {}
