"""`framework launch`: a recipe, in as many processes as this machine has devices, or as you say."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, Overrides, RecipePath
from framework.core.problems import Interrupted, Problem, UserError
from framework.core.world import Device, World
from framework.launching.accelerate_command import accelerate_command, shown
from framework.launching.cluster import Cluster, read_cluster
from framework.launching.job import Job, Node
from framework.launching.machine import num_cores, num_devices
from framework.launching.preflight import (
    CONNECT_SECONDS,
    device_problems,
    interface_problems,
    refuse_port_in_use,
    wait_for_main_node,
)
from framework.launching.supervisor import Ended, supervise
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine; by default one for each GPU, or one."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines that train together; one by default.")
    ] = None,
    node_rank: Annotated[int, typer.Option(min=0, help="Which of them this one is.")] = 0,
    main_address: Annotated[
        str | None, typer.Option(help="Name or IP address of the node of rank 0.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Its port; 29500 by default, free on a single node."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu"], typer.Option(help="cpu: leave this machine's GPUs alone.")
    ] = "auto",
    cluster: Annotated[
        Path | None, typer.Option(help="YAML file that says where; options go before it.")
    ] = None,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for the main node to listen.")
    ] = CONNECT_SECONDS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the command, for this machine.")
    ] = False,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
) -> None:
    """Train a recipe in several processes, through `accelerate launch`; shows that command."""
    where = read_cluster(cluster) if cluster else Cluster()
    world = World.from_env()
    used: Device = "cpu" if device == "cpu" or where.gpus_per_node == 0 else world.device
    job = Job(
        recipe=str(recipe),
        overrides=tuple(overrides or ()),
        allowed_environment=tuple(allow_env or ()),
        allowed_urls=tuple(allow_url or ()),
        num_nodes=nodes or where.num_nodes,
        processes_per_node=processes or _processes(where, used),
        device=used,
    )
    single = job.num_nodes == 1
    node = Node(
        rank=node_rank,
        main_address=None if single else main_address,
        port=port or (0 if single else where.port),
    )
    _refuse_wrong_node(job, node)
    resolved = resolve_with_origins(recipe, job.overrides, job.allowed_environment)
    make_plan(resolved, World(num_processes=job.num_processes, device=used))
    command = accelerate_command(job, node, _environment(where, job))
    print(shown(command), flush=True)
    if dry_run:
        return
    _refuse_hopeless(job, node, {**os.environ, **command.environment}, wait_seconds)
    _finish(supervise(command, job.processes_per_node), job)


def _processes(where: Cluster, device: Device) -> int:
    if where.processes_per_node is not None:
        return where.processes_per_node
    return where.gpus_per_node or num_devices(device, os.environ) or 1


def _environment(where: Cluster, job: Job) -> dict[str, str]:
    """Variables of every process that whoever starts the command has not set himself."""
    found = {"OMP_NUM_THREADS": str(max(1, num_cores() // job.processes_per_node))}
    if where.network_interface is not None:
        found["GLOO_SOCKET_IFNAME"] = found["NCCL_SOCKET_IFNAME"] = where.network_interface
    found = {**found, **where.environment}
    if "OMP_NUM_THREADS" in os.environ and "OMP_NUM_THREADS" not in where.environment:
        found["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return found


def _refuse_wrong_node(job: Job, node: Node) -> None:
    """The options about nodes fit each other, or the command ends."""
    problems: list[Problem] = []
    if node.rank >= job.num_nodes:
        last = job.num_nodes - 1
        what = f"--node-rank {node.rank} of {job.num_nodes} node{'s' * (job.num_nodes > 1)}"
        problems.append(Problem(what=what, hint=f"write a rank from 0 to {last}, or more --nodes"))
    if job.num_nodes > 1 and node.main_address is None:
        what = f"{job.num_nodes} nodes need an address to meet at"
        problems.append(Problem(what=what, hint="write --main-address, of the node of rank 0"))
    if problems:
        raise UserError(problems)


def _refuse_hopeless(
    job: Job, node: Node, environment: dict[str, str], wait_seconds: float
) -> None:
    """What can't work ends here in one line, before any process waits for another."""
    problems = [*device_problems(job.processes_per_node, job.device, environment)]
    if job.num_processes > 1:
        problems += interface_problems(environment)
    if problems:
        raise UserError(problems)
    if node.rank > 0:
        assert node.main_address is not None
        wait_for_main_node(node.main_address, node.port, wait_seconds)
    elif node.port:
        refuse_port_in_use(node.main_address, node.port, wait_seconds)


def _finish(ended: Ended, job: Job) -> None:
    """Leaves with the exit code of the processes; says why, below all that launchers print."""
    if ended.exit_code == 0:
        return
    if job.num_processes > 1:
        reasons = (one for one in ended.reports if one.exit_code == ended.exit_code)
        reason = next(reasons, None)
        if reason is not None:
            print(f"rank {reason.rank}: {reason.message}", file=sys.stderr)
    num_silent = job.processes_per_node - len(ended.reports)
    if num_silent > 0 and ended.exit_code != Interrupted.exit_code:
        print(
            f"{num_silent} of {job.processes_per_node} processes ended without saying why; where "
            "nothing stands above, mostly the kernel killed them for memory (`dmesg` tells); "
            "`framework plan` says what needs less",
            file=sys.stderr,
        )
    raise typer.Exit(ended.exit_code)
