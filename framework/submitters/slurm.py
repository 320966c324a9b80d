"""Jobs -> an sbatch script, that goes on by itself after every stop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Interrupted, Problem
from framework.core.settings import setting
from framework.launching.job import Command, NamedJob, Submission
from framework.launching.rendering import render

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster

_PLAIN = re.compile(r"[\w.,:/=+@*&|()\[\]~-]+", re.ASCII)
"""What `#SBATCH` reads as it stands."""
_SCRIPT = "job.sh"
_ALWAYS_EXPORTED = ("HOME", "USER", "PATH", "LANG")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Slurm: a script for sbatch, requeued after a stop; a sweep becomes a job array."""

    partition: str | None = setting(None, not_empty=True)
    """Partition, Slurm's default otherwise."""
    account: str | None = setting(None, not_empty=True)
    """Account that pays."""
    qos: str | None = setting(None, not_empty=True)
    """Quality of service."""
    cpus_per_node: int | None = setting(None, at_least=1)
    """CPUs of each node."""
    memory_per_node: str | None = setting(None, not_empty=True)
    """Memory of each node, such as `200G`."""
    constraint: str | None = setting(None, not_empty=True)
    """Features that nodes must have."""
    max_parallel_runs: int | None = setting(None, at_least=1)
    """Runs of a sweep at a time; all by default."""
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """What starts `container`: srun by its plugin pyxis, or apptainer."""
    container_mounts: tuple[str, ...] = ()
    """Folders of the node that the container sees, as `/there:/here`."""
    options: tuple[str, ...] = ()
    """More options of sbatch, such as `--exclusive`."""

    def check(self, cluster: Cluster) -> Iterator[Problem]:
        """See `protocols.Submitter`."""
        for key in ("partition", "account", "qos", "memory_per_node", "constraint"):
            value = vars(self)[key]
            if value is not None and not _PLAIN.fullmatch(value):
                yield Problem(key=f".{key}", what=f"{value!r} is nothing that sbatch reads")
        for number, option in enumerate(self.options):
            if not (_PLAIN.fullmatch(option) and option.startswith("--")):
                yield Problem(
                    key=f".options[{number}]",
                    what=f"{option!r} is not an option of sbatch",
                    hint="write it as one word, such as `--nice=10`",
                )
        if self.container_mounts and cluster.container is None:
            yield Problem(
                key=".container_mounts", what="has no meaning without `container`", hint="add it"
            )

    def submission(self, jobs: Sequence[NamedJob]) -> Submission:
        """See `protocols.Submitter`."""
        first = jobs[0]
        script = render(
            "slurm.sh.jinja",
            name=first.name,
            cluster=first.cluster,
            options=list(self._options(jobs)),
            exported=[*_ALWAYS_EXPORTED, *first.cluster.pass_environment],
            environment=first.environment,
            runs=[job.launch() for job in jobs],
            srun=self._srun(first.cluster),
            container=self._container(first.cluster),
            stopped=Interrupted.exit_code,
        )
        submit = Command(arguments=("sbatch", f"{first.folder}/{_SCRIPT}"))
        return Submission(files={_SCRIPT: script}, commands=(submit,))

    def _options(self, jobs: Sequence[NamedJob]) -> Iterator[str]:
        cluster = jobs[0].cluster
        log = "%j.log" if len(jobs) == 1 else "%A_%a.log"
        values = {
            "output": f"{jobs[0].folder}/{log}",
            "time": cluster.time_limit_minutes,
            "gpus-per-node": cluster.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_node,
            "mem": self.memory_per_node,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        yield from (f"--{name}={value}" for name, value in values.items() if value is not None)
        if len(jobs) > 1:
            limit = f"%{self.max_parallel_runs}" if self.max_parallel_runs else ""
            yield f"--array=0-{len(jobs) - 1}{limit}"
        yield from self.options

    def _srun(self, cluster: Cluster) -> list[str]:
        # A step gets no more CPUs than it asks for, whatever the job has.
        cpus = [f"--cpus-per-task={self.cpus_per_node}"] if self.cpus_per_node else []
        if cluster.container is None or self.container_runtime != "pyxis":
            return cpus
        mounts = ",".join(self.container_mounts)
        mounted = [f"--container-mounts={mounts}"] if mounts else []
        return [*cpus, f"--container-image={cluster.container}", *mounted]

    def _container(self, cluster: Cluster) -> list[str]:
        if cluster.container is None or self.container_runtime != "apptainer":
            return []
        mounts = [word for mount in self.container_mounts for word in ("--bind", mount)]
        gpus = ["--nv"] if cluster.gpus_per_node else []
        return ["apptainer", "exec", *gpus, *mounts, cluster.container]
