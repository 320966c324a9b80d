"""Every strategy makes of the processes what its run needs."""

from __future__ import annotations

from framework.core.protocols.strategies import Setup
from framework.strategies.ddp import DDP
from framework.strategies.deepspeed import DeepSpeed
from framework.strategies.fsdp import FSDP


def test_runs_of_one_process_have_each_their_own_precision():
    for strategy, products, precision in (
        (DDP(), None, "no"),
        (FSDP(), "bfloat16", "bf16"),
        (DDP(), "bfloat16", "no"),
        (DeepSpeed(), "bfloat16", "bf16"),
        (FSDP(), None, "no"),
    ):
        setup = Setup(
            autocast_dtype=products,
            parameters_change=False,
            micro_batch_size=1,
            num_accumulation_steps=1,
        )
        assert strategy.accelerator(setup).mixed_precision == precision
