"""cluster.yaml -> Cluster: where a recipe runs, or every reason why that can't be read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from framework.core.problems import Problem
from framework.core.protocols.submitting import Submitter
from framework.core.settings import setting, slots
from framework.launching.job import DEFAULT_PORT
from framework.recipe.typed_file import read_typed

_SECRET = re.compile(r"(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a recipe runs. It says nothing about what is trained; a recipe nothing about this."""

    num_nodes: int = setting(1, at_least=1)
    """Machines that train together."""
    processes_per_node: int | None = setting(None, at_least=1)
    """Processes of each node; by default one for each of its GPUs, or one."""
    gpus_per_node: int | None = setting(None, at_least=0)
    """GPUs of each node; by default what `framework launch` finds, and `framework submit` asks for
    none."""
    port: int = setting(DEFAULT_PORT, at_least=1, at_most=65535)
    """Port of the first node at which the others meet it; a single node takes any that is free."""
    network_interface: str | None = setting(None, not_empty=True)
    """Interface through which nodes talk, such as `eth0`; by default the libraries guess."""
    time_limit_minutes: int | None = setting(None, at_least=1)
    """After so long the job is ended; it saves its state first."""
    stop_seconds: int = setting(120, at_least=1)
    """Time to finish a step and save before a job is killed."""
    max_restarts: int = setting(10, at_least=0)
    """How often a job that was stopped goes on by itself."""
    working_directory: str | None = setting(None, not_empty=True)
    """Folder, on the nodes, in which the command is started; relative paths start there."""
    virtual_environment: str | None = setting(None, not_empty=True)
    """Folder, on the nodes, of the Python environment that has this package."""
    container: str | None = setting(None, not_empty=True)
    """Image that has this package, as the target names images."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables of every process. Never secrets: this is written into files."""
    pass_environment: tuple[str, ...] = ()
    """Names of variables, such as `HF_TOKEN`, whose values come from where the command is started
    or from the target's own store of secrets. No file ever holds them."""
    submitters: tuple[Submitter, ...] = slots("submitters")
    """What each target of `framework submit` needs to know besides."""


def read_cluster(path: Path) -> Cluster:
    """The cluster that a YAML file describes.

    Raises:
        UserError: everything that is wrong with it, each with file, line and key.
    """
    return read_typed(path, Cluster, _conflicts, "num_nodes: 2")


def _conflicts(cluster: Cluster) -> Iterator[Problem]:
    for name in cluster.environment:
        if _SECRET.search(name):
            yield Problem(
                key=f"environment.{name}",
                what="looks like a secret, and this file is no place for one",
                hint=f"set it where you start the command, and write `pass_environment: [{name}]`",
            )
    for key, names in (
        ("environment", list(cluster.environment)),
        ("pass_environment", cluster.pass_environment),
    ):
        for name in names:
            if not _VARIABLE.fullmatch(name):
                yield Problem(key=key, what=f"{name!r} is not the name of a variable")
    if cluster.container and cluster.virtual_environment:
        yield Problem(
            key="virtual_environment",
            what="has no meaning beside `container`",
            hint="keep one of the two",
        )
    seen: set[type] = set()
    for index, submitter in enumerate(cluster.submitters):
        if type(submitter) in seen:
            yield Problem(key=f"submitters[{index}]", what="is there already", hint="keep one")
        seen.add(type(submitter))
        for problem in submitter.check(cluster):
            inside = problem.key.startswith(".")
            key = f"submitters[{index}]{problem.key}" if inside else problem.key
            yield dataclasses.replace(problem, key=key)
