"""A job and a node of it -> the `accelerate launch` command of that node."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from framework.launching.job import Command, Job, Node

SETTINGS = Path(__file__).with_name("accelerate.yaml")
"""Stands in for the user's own accelerate settings, which could change what the flags say."""


def accelerate_command(
    job: Job,
    node: Node,
    environment: Mapping[str, str],
    program: Sequence[str] = ("framework.train",),
) -> Command:
    """What starts this node's processes.

    Args:
        environment: what the command's environment has besides the inherited one.
        program: the module that each runs, and what comes before the job's arguments.
    """
    of_cpu = {"ACCELERATE_USE_CPU": "true"} if job.device == "cpu" else {}
    return Command(
        arguments=(
            *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
            *("--config_file", str(SETTINGS)),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *_processes(job),
            *_nodes(job, node),
            *("-m", *program, *job.arguments),
        ),
        environment={**of_cpu, **environment},
    )


def shown(command: Command) -> str:
    """The command as a line for a POSIX shell, that does the same when it is pasted."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " ".join([*variables, shlex.join(command.arguments)])


def _processes(job: Job) -> list[str]:
    number = ["--num_processes", str(job.num_processes)]
    if job.num_processes > 1:
        # Also on CPUs: with `--cpu`, accelerate starts a single process and says nothing.
        return ["--multi_gpu", *number]
    return ["--cpu", *number] if job.device == "cpu" else number


def _nodes(job: Job, node: Node) -> list[str]:
    port = ["--num_machines", str(job.num_nodes), "--main_process_port", str(node.port)]
    if job.num_nodes == 1:
        return port
    assert node.main_address is not None
    rendezvous = ["--rdzv_backend", "static", "--same_network"]
    rank = ["--machine_rank", str(node.rank), "--main_process_ip", node.main_address]
    return [*port, *rank, *rendezvous]
