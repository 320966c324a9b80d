"""Jobs -> Kubernetes manifests, of a JobSet or of Kubeflow's PyTorchJob."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from framework.core.problems import Problem, Refused, UserError
from framework.core.settings import setting
from framework.launching.job import Command, NamedJob, Submission
from framework.launching.rendering import render

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SHARED_MEMORY = "shared-memory"


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """Kubernetes: a JobSet, or a PyTorchJob of Kubeflow, for kubectl."""

    kind: Literal["jobset", "pytorchjob"] = "jobset"
    """What the cluster has installed. A JobSet is not started again for a wrong recipe."""
    namespace: str | None = setting(None, not_empty=True)
    """Namespace, kubectl's own otherwise."""
    queue: str | None = setting(None, not_empty=True)
    """Kueue's local queue."""
    secret: str | None = setting(None, not_empty=True)
    """Secret that holds the variables of `pass_environment` under their names."""
    volume_claims: dict[str, str] = field(default_factory=dict)
    """Persistent volume claim -> folder at which pods see it. Recipe, data and `output.dir` have
    to be there, or in the image."""
    cpus_per_node: int | None = setting(None, at_least=1)
    """CPUs of each pod."""
    memory_per_node: str | None = setting(None, not_empty=True)
    """Memory of each pod, such as `200Gi`."""
    shared_memory: str = setting("8Gi", not_empty=True)
    """Size of /dev/shm, through which processes of a pod talk."""
    gpu_resource: str = setting("nvidia.com/gpu", not_empty=True)
    """What the cluster calls a GPU."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that nodes must have."""

    def check(self, cluster: Cluster) -> Iterator[Problem]:
        """See `protocols.Submitter`."""
        if cluster.container is None:
            yield Problem(
                key="container",
                what="is missing, and pods are made of an image",
                hint="write `container: registry/image:tag`",
            )
        if cluster.pass_environment and self.secret is None:
            yield Problem(
                key=".secret",
                what="is missing, and pass_environment needs one",
                hint="make one with `kubectl create secret generic NAME --from-literal=...`, and "
                "write `secret: NAME`",
            )
        for claim in self.volume_claims:
            if not _NAME.fullmatch(claim) or claim == _SHARED_MEMORY:
                yield Problem(key=".volume_claims", what=f"{claim!r} names no claim")

    def submission(self, jobs: Sequence[NamedJob]) -> Submission:
        """See `protocols.Submitter`."""
        files = {f"{one.name}.yaml": self._manifest(one) for one in jobs}
        return Submission(
            files=files,
            commands=tuple(
                Command(arguments=("kubectl", "apply", "--filename", f"{one.folder}/{name}"))
                for one, name in zip(jobs, files, strict=True)
            ),
        )

    def _manifest(self, one: NamedJob) -> str:
        cluster, is_jobset = one.cluster, self.kind == "jobset"
        labels = {} if self.queue is None else {"kueue.x-k8s.io/queue-name": self.queue}
        first = f"{one.name}-node-0-0.{one.name}" if is_jobset else f"{one.name}-master-0"
        meeting = ["--main-address", first, "--port", str(cluster.port)]
        claims = [
            {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
            for claim in self.volume_claims
        ]
        memory = {"medium": "Memory", "sizeLimit": self.shared_memory}
        mounts = {**self.volume_claims, _SHARED_MEMORY: "/dev/shm"}  # noqa: S108
        return render(
            "kubernetes.yaml.jinja",
            target=self,
            cluster=cluster,
            metadata={
                "name": one.name,
                **({} if self.namespace is None else {"namespace": self.namespace}),
                **({"labels": labels} if labels else {}),
            },
            restart_policy="Never" if is_jobset else "OnFailure",
            arguments=[_literal(word) for word in one.launch(*meeting)],
            variables=list(self._variables(one)),
            limits=self._limits(cluster),
            volumes=[*claims, {"name": _SHARED_MEMORY, "emptyDir": memory}],
            mounts=[{"name": name, "mountPath": path} for name, path in mounts.items()],
            hopeless=[UserError.exit_code, Refused.exit_code],
        )

    def _variables(self, one: NamedJob) -> Iterator[dict[str, Any]]:
        for name, value in one.environment.items():
            yield {"name": name, "value": _literal(value)}
        for name in one.cluster.pass_environment:
            place = {"secretKeyRef": {"name": self.secret, "key": name}}
            yield {"name": name, "valueFrom": place}

    def _limits(self, cluster: Cluster) -> dict[str, Any]:
        values = {
            "cpu": self.cpus_per_node,
            "memory": self.memory_per_node,
            self.gpu_resource: cluster.gpus_per_node or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def _literal(text: str) -> str:
    """Text in which Kubernetes puts no variable's value."""
    return text.replace("$(", "$$(")
