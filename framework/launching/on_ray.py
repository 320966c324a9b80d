"""`python -m framework.launching.on_ray job.json`: the runs of a file, by workers of Ray Train.

A worker only has a place and its devices from Ray: what trains is a process of its own, as
`accelerate launch` would start it, so that signals, exit codes and memory are as everywhere.
"""

# pyright: reportMissingImports=false
# Ray is an extra that not every environment has.

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from framework.core.launched import FOLDER
from framework.core.problems import Refused, RunFailed, UserError

HOPELESS = (UserError.exit_code, Refused.exit_code)
"""Exit codes after which the same would only happen again."""


def main() -> None:
    """Runs every job of a file, one after another; ends with the first exit code that isn't 0."""
    if importlib.util.find_spec("ray") is None:
        sys.exit("the package 'ray' is not installed; pip install 'framework[ray]'")
    import ray
    import ray.train

    submitted = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    passed = {name: os.environ[name] for name in submitted["pass_environment"]}
    environment = {**submitted["environment"], **passed}
    ray.init(
        address=None if submitted["address"] == "local" else submitted["address"],
        runtime_env={"env_vars": environment},
    )
    for job in submitted["jobs"]:
        try:
            exit_code = _train(submitted, job)
        except ray.train.TrainingFailedError as error:
            print(f"{job['name']}: {error}", file=sys.stderr)
            exit_code = RunFailed.exit_code
        if exit_code:
            sys.exit(exit_code)


def _train(submitted: dict[str, Any], job: dict[str, Any]) -> int:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory(prefix="framework-ray-") as folder:
        trainer = TorchTrainer(
            run_worker,
            train_loop_config={**job, "working_directory": submitted["working_directory"]},
            scaling_config=ScalingConfig(
                num_workers=submitted["num_workers"],
                use_gpu=submitted["use_gpu"],
                resources_per_worker=submitted["resources_per_worker"],
            ),
            # Only for the workers to find each other; those that train have a group of their own.
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(
                name=job["name"],
                storage_path=submitted["storage_path"] or folder,
                failure_config=FailureConfig(max_failures=submitted["max_restarts"]),
            ),
        )
        return int(trainer.fit().return_value)


def run_worker(job: dict[str, Any]) -> int:
    """What each worker does: one process, told its place among the others; its exit code.

    Raises:
        RuntimeError: it was stopped or has failed; the next attempt goes on.
    """
    import ray.train

    context = ray.train.get_context()
    address, port = _meeting_place(context.get_world_rank())
    with tempfile.TemporaryDirectory(prefix="framework-launch-") as folder:
        place = {
            "RANK": context.get_world_rank(),
            "LOCAL_RANK": context.get_local_rank(),
            "WORLD_SIZE": context.get_world_size(),
            "LOCAL_WORLD_SIZE": context.get_local_world_size(),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            FOLDER: folder,
        }
        of_cpu = {"ACCELERATE_USE_CPU": "true"} if job["device"] == "cpu" else {}
        environment = {**os.environ, **of_cpu, **{name: str(one) for name, one in place.items()}}
        command = [sys.executable, "-m", "framework.train", *job["arguments"]]
        code = subprocess.run(
            command, env=environment, cwd=job["working_directory"], check=False
        ).returncode
    if code and code not in HOPELESS:
        raise RuntimeError(f"rank {context.get_world_rank()} ended with exit code {code}")
    return code


def _meeting_place(rank: int) -> tuple[str, int]:
    """Address of the first worker and a port that is free there; every worker calls it."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    with socket.socket() as probe:
        probe.bind(("", 0))
        here = (ray.util.get_node_ip_address(), probe.getsockname()[1])
    return broadcast_from_rank_zero(here if rank == 0 else None)


if __name__ == "__main__":
    main()
