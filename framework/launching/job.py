"""What is to be run, and where: the description that every command line and file is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.core.world import Device

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster

DEFAULT_PORT = 29500
WAIT_SECONDS = 600
"""Nodes of a cluster start at different times."""
STOP_SECONDS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Environment variable: how long processes that were asked to stop are left alone."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recipe over all its nodes."""

    recipe: str
    """Path, as it is written."""
    overrides: tuple[str, ...] = ()
    allowed_environment: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    num_nodes: int = 1
    processes_per_node: int = 1
    device: Device = "cpu"

    @property
    def num_processes(self) -> int:
        """Processes over all nodes."""
        return self.num_nodes * self.processes_per_node

    @property
    def arguments(self) -> tuple[str, ...]:
        """What `framework train` and `framework launch` are both told."""
        allowed = [
            *(word for name in self.allowed_environment for word in ("--allow-env", name)),
            *(word for url in self.allowed_urls for word in ("--allow-url", url)),
        ]
        return (self.recipe, *self.overrides, *allowed)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a job, and where its first one is."""

    rank: int = 0
    main_address: str | None = None
    """None where there is one node."""
    port: int = 0
    """0: any that is free."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program's arguments, and what its environment has besides."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NamedJob:
    """A job that a cluster runs."""

    name: str
    """Small letters, digits and dashes."""
    job: Job
    cluster: Cluster
    folder: str
    """Where the files of its submission stand."""

    def launch(self, *node: str) -> list[str]:
        """The command of each node; `node` says which one it is, if there are several."""
        command = ["python3", "-m", "framework", "launch", *self.job.arguments]
        command += ["--processes", str(self.job.processes_per_node)]
        command += ["--device", "cpu"] if self.job.device == "cpu" else []
        command += ["--wait-seconds", str(WAIT_SECONDS)] if self.job.num_nodes > 1 else []
        return [*command, "--nodes", str(self.job.num_nodes), *node]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every process."""
        interface = self.cluster.network_interface
        names = () if interface is None else ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        chosen = {name: str(interface) for name in names}
        stop = {STOP_SECONDS: str(self.cluster.stop_seconds)}
        return {**stop, **chosen, **self.cluster.environment}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What submits jobs: files, and the commands that hand them over."""

    files: Mapping[str, str]
    """Name -> text."""
    commands: tuple[Command, ...]
    """What hands them over, one after another, once the files are in their folder."""
