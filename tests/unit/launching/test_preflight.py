"""Every hopeless start ends in one line that says where, what, and what to write."""

from __future__ import annotations

import socket

import pytest

from framework.core.problems import RunFailed, UserError
from framework.launching.machine import interfaces, num_devices
from framework.launching.preflight import (
    device_problems,
    interface_problems,
    refuse_hopeless_start,
    refuse_port_in_use,
    refuse_unreachable_store,
    wait_for_main_node,
)

HOST = socket.gethostname()
NOWHERE = "no-such-host.invalid"


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def device_files(folder, *names):
    (folder / "dri").mkdir()
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "environment", "expected"),
    [
        (["nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"], {}, 2),
        (["nvidiactl", "nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        (["nvidiactl", "nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
        (["nvidiactl", "nvidia0"], {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 1),
        (["nvidiactl", "nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (["kfd", "dri/renderD128", "dri/renderD129", "dri/card0"], {}, 2),
    ],
)
def test_gpus_are_counted_by_their_device_files(tmp_path, names, environment, expected):
    assert num_devices("cuda", environment, device_files(tmp_path, *names)) == expected


def test_any_number_of_processes_may_share_a_cpu():
    assert num_devices("cpu", {}) is None
    assert list(device_problems(100, "cpu", {})) == []


def test_more_processes_than_devices_are_refused():
    (problem,) = device_problems(3, "mps", {})
    assert f"{problem}" == f"3 processes on {HOST}, which has 1 mps device; start 1 processes there"


@pytest.mark.parametrize(
    ("variable", "value", "bad"),
    [
        ("GLOO_SOCKET_IFNAME", "wrong0", True),
        ("GLOO_SOCKET_IFNAME", "lo", False),
        ("GLOO_SOCKET_IFNAME", "lo,wrong0", True),
        ("NCCL_SOCKET_IFNAME", "l", False),  # a prefix
        ("NCCL_SOCKET_IFNAME", "=l", True),
        ("NCCL_SOCKET_IFNAME", "=lo", False),
        ("NCCL_SOCKET_IFNAME", "^docker", False),
        ("NCCL_SOCKET_IFNAME", "wrong,lo", False),
        ("NCCL_SOCKET_IFNAME", "wrong", True),
    ],
)
def test_an_interface_that_is_not_there_is_named_with_those_that_are(variable, value, bad):
    assert "lo" in interfaces()
    problems = list(interface_problems({variable: value}))
    assert bool(problems) == bad
    for problem in problems:
        assert problem.what.startswith(f"{variable}=w" if "w" in value else f"{variable}=")
        assert f"names no network interface of {HOST}" in problem.what
        assert "lo" in problem.hint


def test_an_interface_matters_only_where_processes_talk():
    refuse_hopeless_start({"GLOO_SOCKET_IFNAME": "wrong0"}, "cpu")
    with pytest.raises(UserError, match="wrong0"):
        refuse_hopeless_start({"GLOO_SOCKET_IFNAME": "wrong0", "WORLD_SIZE": "2"}, "cpu")


def test_a_port_in_use_is_refused_and_a_free_one_is_not(taken_port, free_port):
    refuse_port_in_use("127.0.0.1", free_port)
    for address in ("127.0.0.1", "localhost"):
        with pytest.raises(RunFailed, match=f"port {taken_port} of {HOST} is in use; write an"):
            refuse_port_in_use(address, taken_port)


def test_a_name_with_an_address_that_this_machine_has_not_is_its_own(free_port):
    refuse_port_in_use("localhost", free_port)  # ::1 too, also where there is no IPv6


def test_a_main_address_of_another_machine_is_refused_on_the_main_node(free_port):
    with pytest.raises(RunFailed, match=r"started as the main node, but '192\.0\.2\.1' is another"):
        refuse_port_in_use("192.0.2.1", free_port)


def test_a_main_address_that_nobody_knows_is_refused_on_every_node(free_port):
    for rank in (0, 1):
        launched = {
            "RANK": f"{rank}",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": NOWHERE,
            "MASTER_PORT": f"{free_port}",
        }
        with pytest.raises(RunFailed, match=f"{HOST} can't find the main address '{NOWHERE}'"):
            refuse_unreachable_store(launched)


def test_a_main_node_is_waited_for_only_so_long(taken_port, free_port):
    wait_for_main_node("127.0.0.1", taken_port, seconds=0)
    with pytest.raises(
        RunFailed, match=f"can't reach the main node at 127.0.0.1:{free_port}: Conn"
    ):
        wait_for_main_node("127.0.0.1", free_port, seconds=1)


def test_processes_that_a_launcher_started_meet_its_store(taken_port):
    launched = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{taken_port}",
    }
    refuse_unreachable_store({**launched, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    with pytest.raises(RunFailed, match="is in use"):
        refuse_unreachable_store(launched)
