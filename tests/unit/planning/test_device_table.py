"""The table of devices, and what is written on a command line."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from framework.core.problems import UserError
from framework.planning.cost import Calls, run_cost
from framework.planning.devices import CallSeconds, Cluster, Device, cluster_of, device_called
from framework.planning.traffic import Transfer


def test_devices_are_counted_by_node_and_found_in_any_case():
    cluster = cluster_of("8xh100-80gb", 4, None)
    assert (cluster.num_devices, cluster.device_name) == (32, "H100-80GB")
    assert cluster.world.num_processes == 32
    assert cluster.world.device == "cuda" and cluster.world.fast_bfloat16
    assert not cluster_of("T4-16GB", 1, None).world.fast_bfloat16


def test_without_devices_it_is_this_machines_cpu():
    cluster = cluster_of(None, 1, None)
    assert (cluster.num_devices, cluster.device.kind) == (1, "cpu")
    assert cluster.device.memory_gib > 0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB"),
        ("NVIDIA RTX A6000", "RTX-A6000-48GB"),
        ("NVIDIA L40S", "L40S-48GB"),
        ("Tesla T4", "T4-16GB"),
        ("NVIDIA A100-SXM4-12GB", None),
        ("Abacus", None),
    ],
)
def test_a_device_is_found_by_what_its_driver_calls_it(said: str, found: str | None):
    assert device_called(said) == found


def test_an_unknown_device_is_answered_with_those_that_are_known():
    with pytest.raises(UserError) as caught:
        cluster_of("4xH900", 1, None)
    said = str(caught.value)
    assert "'H900'" in said and "A100-80GB" in said and "--device-table" in said


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("8xH100", "did you mean 8xH100-80GB or 8xH100-PCIe-80GB?"),
        ("4xL4", "did you mean 4xL4-24GB?"),
        ("8xa100", "did you mean 8xA100-80GB or 8xA100-40GB?"),
        ("T4-16G", "did you mean 1xT4-16GB?"),
        ("2xT416GB", "did you mean 2xT4-16GB?"),
    ],
)
def test_a_device_written_in_part_is_answered_with_those_that_are_meant(written: str, hint: str):
    with pytest.raises(UserError, match=re.escape(hint)) as caught:
        cluster_of(written, 1, None)
    assert "known are" not in str(caught.value)


def test_a_table_of_ones_own_adds_devices_and_replaces_some(tmp_path: Path):
    table = tmp_path / "mine.yaml"
    table.write_text(
        "TPU-X: {memory_gib: 10, peak_tflops: {bfloat16: 1}, price: [1, 2]}\n"
        "T4-16GB: {memory_gib: 15, peak_tflops: {float16: 65}}\n",
        encoding="utf-8",
    )
    assert cluster_of("2xTPU-X", 1, table).device.price == (1.0, 2.0)
    assert cluster_of("T4-16GB", 1, table).device.memory_gib == 15
    assert cluster_of("L4-24GB", 1, table).device.memory_gib == 22


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", ":1: is no mapping"),
        ("[1, 2]", ":1: is no mapping"),
        ("X: {memory_gib: 1}", ":1:1: X.peak_tflops: is required and missing"),
        ("X: {kind: abacus}", ":1:11: X.kind: 'abacus' is not one of its values"),
        ("X: {memory_gb: 1}", "X.memory_gb: is not a key here; did you mean 'memory_gib'?"),
        (
            "X: {memory_gib: 1, peak_tflops: {float32: 1}, price: [4, 2]}",
            "X.price: [4, 2] does not go from a low number above 0 to a high one; write "
            "price: [2, 4]",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, written: str, said: str):
    table = tmp_path / "mine.yaml"
    table.write_text(written, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        cluster_of("X", 1, table)
    assert str(table) in str(caught.value)
    assert said in str(caught.value)


def test_time_is_operations_over_speed_and_sending_hides_at_best():
    cluster = cluster_of("2xA100-80GB", 1, None)
    sent = Transfer(collective="all_reduce", what="", size_bytes=0, sent_bytes=300_000_000_000)
    cost = run_cost(
        cluster,
        "bfloat16",
        operations_per_step=312e12 * 0.3,
        calls_per_step=Calls(products=1e9, others=1e9),
        tokens_per_step=1000,
        transfers=[sent],
        num_steps=3600,
    )
    # Efficiency 0.3 to 0.6: 0.5 to 1 s of computation, and 1 s of sending at 300 GB/s; calls
    # are made meanwhile.
    assert cost.step_seconds == pytest.approx((1.0, 2.0))
    assert cost.seconds == pytest.approx((3600, 7200))
    assert cost.tokens_per_second == pytest.approx((500, 1000))
    low, high = cluster.device.price or (math.nan, math.nan)
    assert cost.dollars == pytest.approx((2 * low, 4 * high))


def test_calls_take_their_time_at_best_and_at_worst():
    device = Device(kind="cpu", memory_gib=1, peak_tflops={"float32": 1}, efficiency=(0.5, 1))
    cluster = Cluster(device_name="a CPU", device=device, num_per_node=1, num_nodes=1)
    each = CallSeconds(product=(1.0, 10.0), other=(0.1, 0.2))
    seconds = [
        run_cost(
            one,
            "float32",
            operations_per_step=1e12,
            calls_per_step=Calls(products=2, others=100),
            tokens_per_step=1,
            transfers=(),
            num_steps=None,
        ).step_seconds
        for one in (cluster, replace(cluster, call_seconds=each))
    ]
    assert seconds == [(1, 2), pytest.approx((1 + 2 + 10, 2 + 20 + 20))]


def test_no_time_is_made_up_where_no_speed_is_known():
    cluster = cluster_of(None, 1, None)
    cost = run_cost(
        cluster,
        "float32",
        operations_per_step=1,
        calls_per_step=Calls(),
        tokens_per_step=1,
        transfers=[],
        num_steps=1,
    )
    assert cost.seconds is None and cost.dollars is None
