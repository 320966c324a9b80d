"""Jobs -> workers of Ray Train's TorchTrainer, on a cluster of Ray or on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.settings import setting
from framework.launching.job import Command, NamedJob, Submission

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster

_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Ray: TorchTrainer on a cluster; the runs of a sweep one after another."""

    address: str = setting("auto", not_empty=True)
    """Cluster to join: `auto` is the one that this machine belongs to, `ray://host:10001` one
    further away, `local` a new one on this machine alone."""
    cpus_per_process: int = setting(1, at_least=1)
    """CPUs of each process."""
    storage_path: str | None = setting(None, not_empty=True)
    """Folder or bucket that all nodes see, for Ray's own notes; several nodes need one."""

    def check(self, cluster: Cluster) -> Iterator[Problem]:
        """See `protocols.Submitter`."""
        for key in ("container", "virtual_environment", "time_limit_minutes"):
            if vars(cluster)[key] is not None:
                yield Problem(
                    key=key,
                    what="is nothing that Ray Train can be told",
                    hint="leave it out; Ray's workers run in the environment that Ray runs in",
                )
        if cluster.num_nodes > 1 and self.storage_path is None:
            yield Problem(
                key=".storage_path",
                what=f"is missing, and {cluster.num_nodes} nodes need one",
                hint="write a folder that all nodes see",
            )

    def submission(self, jobs: Sequence[NamedJob]) -> Submission:
        """See `protocols.Submitter`."""
        first = jobs[0]
        resources = {"CPU": self.cpus_per_process}
        use_gpu = first.job.device != "cpu"
        written = {
            "address": self.address,
            "num_workers": first.job.num_processes,
            "use_gpu": use_gpu,
            "resources_per_worker": {**resources, **({"GPU": 1} if use_gpu else {})},
            "storage_path": self.storage_path,
            "max_restarts": first.cluster.max_restarts,
            "working_directory": first.cluster.working_directory,
            "environment": first.environment,
            "pass_environment": list(first.cluster.pass_environment),
            "jobs": [
                {"name": one.name, "device": one.job.device, "arguments": list(one.job.arguments)}
                for one in jobs
            ],
        }
        run = (sys.executable, "-m", "framework.launching.on_ray", f"{first.folder}/{_FILE}")
        return Submission(
            files={_FILE: json.dumps(written, indent=2) + "\n"},
            commands=(Command(arguments=run),),
        )
