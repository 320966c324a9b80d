"""`framework launch`: what can't work ends at once, in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

WITH_A_GPU = (
    *("unshare", "--mount", "sh", "-ec"),
    'mount --rbind /dev "$1"; mount -t tmpfs own /dev; touch /dev/nvidiactl /dev/nvidia0; '
    'for name in null urandom; do touch /dev/$name; mount --bind "$1/$name" /dev/$name; done; '
    'shift; exec "$@"',
    "sh",
)


def launch(
    *arguments: object, machine: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*machine, sys.executable, "-m", "framework", "launch", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "line"),
    [
        (["--nodes", 2], {}, 2, "2 nodes need an address to meet at; write --main-address"),
        (["--node-rank", 1], {}, 2, "--node-rank 1 of 1 node; write a rank from 0 to 0"),
        (["--processes", 3], {}, 2, "2 can't be shared by 3 processes of micro_batch_size 1"),
        (["--processes", 2], {"GLOO_SOCKET_IFNAME": "wrong0"}, 2, "GLOO_SOCKET_IFNAME=wrong0"),
        (
            ["--nodes", 2, "--node-rank", 1, "--main-address", "127.0.0.1", "--port", 1],
            {},
            1,
            "can't reach the main node at 127.0.0.1:1: Connection refused",
        ),
        (["trainer.learning_rat=1"], {}, 2, "did you mean 'learning_rate'?"),
    ],
)
def test_a_hopeless_launch_ends_in_one_line(write_recipe, arguments, environment, code, line):
    recipe = write_recipe(trainer={"micro_batch_size": 1})
    done = launch(recipe, *arguments, "--wait-seconds", 0, **environment)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert line in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="device files of its own need root")
def test_more_processes_than_gpus_are_refused_before_anything_starts(write_recipe, tmp_path):
    """The device files stand for a driver and a GPU."""
    (tmp_path / "dev").mkdir()
    machine = (*WITH_A_GPU, str(tmp_path / "dev"))
    recipe = write_recipe(trainer={"micro_batch_size": 1, "global_batch_size": 3})
    done = launch(recipe, "--processes", 3, machine=machine)
    assert done.returncode == 2
    assert done.stderr == (
        f"3 processes on {socket.gethostname()}, which has 1 cuda device; start 1 processes there\n"
    )


def test_a_port_in_use_is_refused_before_anything_starts(write_recipe):
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = launch(write_recipe(), "--port", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"port {port} of {socket.gethostname()} is in use; "
        "write another --port, the same on every node\n"
    )


def test_a_cluster_file_says_where_and_options_go_before_it(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"micro_batch_size": 1, "global_batch_size": 4})
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        "processes_per_node: 2\nnetwork_interface: lo\nenvironment: {NCCL_DEBUG: INFO}\n"
    )
    shown = launch(recipe, "--cluster", cluster, "--dry-run").stdout
    assert "GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo NCCL_DEBUG=INFO" in shown
    assert "--multi_gpu --num_processes 2" in shown
    shown = launch(recipe, "--cluster", cluster, "--dry-run", "--processes", 4).stdout
    assert "--multi_gpu --num_processes 4" in shown
