"""What a device holds follows from its shares, by hand."""

from dataclasses import replace

import pytest

from framework.core.protocols.sharding import Shares
from framework.planning.memory import Moment, Traced, peak_memory
from framework.planning.traffic import traffic

# One block weighs 10 bytes, what is outside of blocks 100; AdamW's state is twice that.
ONE = {
    "forward": [Moment(weights=110, optimizer=220, activations=50, logits=30)],
    "backward": [Moment(weights=110, gradients=110, optimizer=220, activations=9)],
    "step": [Moment(weights=110, gradients=110, optimizer=220, other=1)],
}
TWO = {
    "forward": [Moment(weights=120, optimizer=240, activations=70, logits=30)],
    "backward": [Moment(weights=120, gradients=120, optimizer=240, activations=9)],
    "step": [Moment(weights=120, gradients=120, optimizer=240, other=1)],
}
TRACED = Traced(
    num_blocks=10,
    one_block=ONE,
    two_blocks=TWO,
    weights_bytes=200,
    trained_bytes=200,
    num_parameters=50,
    num_trained=50,
    num_layer_parameters=5,
    num_layer_trained=5,
    layer_bytes=10,
    num_other_parameters=25,
    num_other_trained=25,
)


def test_each_further_block_adds_what_the_second_one_did():
    memory = peak_memory(TRACED, Shares())
    # forward: 200 + 400 + (50 + 9 x 20) + 30 is more than backward: 200 + 200 + 400 + 9.
    assert memory.phase == "forward"
    assert (memory.weights, memory.gradients, memory.optimizer) == (200, 0, 400)
    assert (memory.activations, memory.logits, memory.other) == (230, 30, 0)
    assert memory.peak == 860


def test_gradients_in_buckets_are_there_all_the_time():
    memory = peak_memory(TRACED, Shares(keeps_gradients=True), context_bytes=7)
    assert (memory.phase, memory.gradients, memory.other, memory.peak) == ("forward", 200, 7, 1067)


def test_what_is_shared_out_is_whole_only_while_a_layer_is_computed():
    shared = Shares(
        weights=0.25, gradients=0.25, optimizer=0.25, gathered_dtype="bfloat16", gathered_layers=2
    )
    memory = peak_memory(TRACED, shared)
    # A quarter of 200 and 400; two layers of 5 numbers in 2 bytes.
    assert (memory.weights, memory.optimizer) == (50 + 20, 100)
    assert (memory.phase, memory.gradients) == ("forward", 0)

    begun = [
        {**each, "forward": [each["forward"][0]._replace(has_gradients=True)]}
        for each in (ONE, TWO)
    ]
    backward = replace(TRACED, one_block=begun[0], two_blocks=begun[1])
    # The gradients of a layer's 5 numbers, and what they are added up in.
    assert peak_memory(backward, shared).gradients == 5 * (2 + 4)
    # Those of the 25 outside of layers wait.
    memory = peak_memory(backward, replace(shared, gathers_embeddings=True))
    assert memory.gradients == 5 * (2 + 4) + 25 * 2


def test_a_part_of_the_gradients_may_be_there_all_the_time():
    memory = peak_memory(TRACED, Shares(keeps_gradients=True, gradients=0.5))
    # Half of 200.
    assert (memory.phase, memory.gradients) == ("forward", 100)


@pytest.mark.parametrize("part", [1.0, 0.5])
def test_what_a_strategy_holds_for_each_number_is_shared_out_as_the_optimizers_state(part):
    memory = peak_memory(TRACED, Shares(optimizer=part, extra_optimizer_bytes_per_parameter=4))
    assert memory.optimizer == part * (400 + 4 * 50)


def test_the_host_holds_what_was_moved_there():
    moved = Shares(optimizer=0, gradients=0, host_optimizer=0.5, host_gradients=0.5)
    assert peak_memory(TRACED, moved).host == 300


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (Shares(), {("all_reduce", 2 * 150)}),
        (
            Shares(
                gathered_dtype="bfloat16", weight_gathers_per_pass=2, reduction="reduce_scatter"
            ),
            {("all_gather", 4 * 75), ("reduce_scatter", 150)},
        ),
        (
            Shares(reduction="reduce_scatter", weight_gathers_per_step=1, reduces_each_pass=True),
            {("all_gather", 150), ("reduce_scatter", 300)},
        ),
    ],
)
def test_a_ring_sends_all_but_a_devices_own_part(shares: Shares, expected: set[tuple[str, int]]):
    sent = traffic(TRACED, shares, num_devices=4, num_passes=2)
    assert {(one.collective, one.sent_bytes) for one in sent} == expected
    assert traffic(TRACED, shares, num_devices=1, num_passes=2) == ()


def test_a_second_model_and_averages_come_on_top():
    more = replace(TRACED, reference_bytes=200, average_bytes=80)
    assert peak_memory(more, Shares()).peak == 860 + 280
