"""Jobs -> SkyPilot tasks, as managed jobs that find another machine when theirs is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framework.core.problems import Interrupted, Problem
from framework.core.settings import setting
from framework.launching.job import Command, NamedJob, Submission
from framework.launching.rendering import render

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class Skypilot:
    """SkyPilot: managed jobs on whatever cloud has room, on spot machines too."""

    infra: str | None = setting(None, not_empty=True)
    """Where, such as `aws`, `gcp/us-central1` or `k8s`; the cheapest by default."""
    gpu: str | None = setting(None, not_empty=True)
    """Which GPU, such as `H100`; `gpus_per_node` says how many."""
    cpus: str | None = setting(None, not_empty=True)
    """CPUs of each machine, such as `8+`."""
    memory: str | None = setting(None, not_empty=True)
    """Gigabytes of each machine, such as `64+`."""
    use_spot: bool = False
    """Cheaper machines that may be taken away."""
    workdir: str | None = setting(".", not_empty=True)
    """Local folder that is copied to the machines, and in which the command is started."""
    mounts: dict[str, str] = field(default_factory=dict)
    """Folder -> bucket that stands there, such as `s3://runs`. A job goes on after its machine was
    taken only if `output.dir` is in one."""
    setup: str | None = setting(None, not_empty=True)
    """Shell lines that install this package, where neither image nor environment has it."""

    def check(self, cluster: Cluster) -> Iterator[Problem]:
        """See `protocols.Submitter`."""
        if bool(self.gpu) != bool(cluster.gpus_per_node):
            missing = "gpus_per_node" if self.gpu else ".gpu"
            hint = "write `gpus_per_node: 8`" if self.gpu else "write `gpu: H100`"
            yield Problem(key=missing, what="is missing: both say which GPUs", hint=hint)
        if cluster.time_limit_minutes is not None:
            yield Problem(
                key="time_limit_minutes",
                what="SkyPilot knows no time limit",
                hint="leave it out",
            )

    def submission(self, jobs: Sequence[NamedJob]) -> Submission:
        """See `protocols.Submitter`."""
        files = {f"{one.name}.yaml": self._task(one) for one in jobs}
        return Submission(
            files=files,
            commands=tuple(
                Command(arguments=("sky", "jobs", "launch", *_secrets(one), f"{one.folder}/{name}"))
                for one, name in zip(jobs, files, strict=True)
            ),
        )

    def _task(self, one: NamedJob) -> str:
        cluster = one.cluster
        script = render(
            "skypilot.sh.jinja", cluster=cluster, run=one.launch("--port", str(cluster.port))
        )
        return render(
            "skypilot.yaml.jinja",
            name=one.name,
            target=self,
            cluster=cluster,
            environment=one.environment,
            resources=self._resources(cluster),
            mounts={
                folder: {"source": bucket, "mode": "MOUNT"}
                for folder, bucket in self.mounts.items()
            },
            script=script,
        )

    def _resources(self, cluster: Cluster) -> dict[str, Any]:
        values = {
            "infra": self.infra,
            "accelerators": {self.gpu: cluster.gpus_per_node} if self.gpu else None,
            "cpus": self.cpus,
            "memory": self.memory,
            "use_spot": self.use_spot or None,
            "image_id": f"docker:{cluster.container}" if cluster.container else None,
        }
        recovery = {
            "max_restarts_on_errors": 0,
            "recover_on_exit_codes": [Interrupted.exit_code],
        }
        wanted = {name: value for name, value in values.items() if value is not None}
        return {**wanted, "job_recovery": recovery}


def _secrets(one: NamedJob) -> list[str]:
    return [word for name in one.cluster.pass_environment for word in ("--secret", name)]
