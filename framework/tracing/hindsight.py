"""Run directory -> what would have been planned for it, beside what it took."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from framework.core import atomic
from framework.core.problems import Problem, UserError, warn
from framework.core.world import World
from framework.planning.memory import peak_memory
from framework.planning.plan import Plan, make_plan
from framework.recipe.resolve import resolve_run
from framework.runs.run_directory import is_going_on

PLAN, ENVIRONMENT, LOCK = "plan.json", "environment.json", "lock.json"


def plan_again(run: Path, allowed_environment: Collection[str] = ()) -> None:
    """Writes `planned_memory` and `planned_time` into the run's plan.json, for its report; the time
    is None where the speed of what it ran on is not known, and not there yet where that would have
    to be measured beside the run.

    A run that can't be planned any more, or that has not come so far, is left as it is; of the
    first, a warning says why.

    Args:
        allowed_environment: see `resolve_run`.
    """
    written, environment = _read(run / PLAN), _read(run / ENVIRONMENT)
    if written is None or environment is None or "planned_time" in written:
        return
    going_on = is_going_on(run)
    from framework.tracing.lengths import lengths_of
    from framework.tracing.outlook import config_folder, outlook_of
    from framework.tracing.peak import Traces
    from framework.tracing.speed import cluster_of_run

    try:
        plan = _plan_of(run, written, environment, allowed_environment)
        folder = config_folder(plan.recipe)
        lengths = lengths_of(plan, folder)
        hardware = (_read(run / LOCK) or {}).get("hardware") or {}
        cluster = cluster_of_run(plan, hardware, may_measure=not going_on)
        outlook = outlook_of(plan, cluster, lengths, Traces(folder), folder)
    except UserError as error:
        whys = "; ".join(one.what for one in error.problems)
        warn([Problem(file=str(run), what=f"its memory can't be planned any more: {whys}")])
        return
    # Tensors alone, as `peak_device_bytes` counts them.
    memory = peak_memory(outlook.trace.memory, outlook.shares)
    planned: dict[str, Any] = {
        "planned_memory": {
            "peak_bytes_per_device": memory.peak,
            "memory": memory.kinds(),
            "lengths": {"exact": lengths.exact, "origin": lengths.origin},
        }
    }
    known = outlook.cost.step_seconds is not None
    if known or not going_on:
        time = {
            "device": cluster.device_name,
            "peak_tflops": cluster.device.peak_tflops,
            "step_seconds": outlook.cost.step_seconds,
        }
        planned["planned_time"] = time if known else None
    text = json.dumps({**written, **planned}, indent=2)
    atomic.write_file(run / PLAN, text)


def _plan_of(
    run: Path,
    written: dict[str, Any],
    environment: dict[str, Any],
    allowed_environment: Collection[str],
) -> Plan:
    """With the processes, the strategy and the dtypes that it ran with, wherever this is."""
    world = World(num_processes=environment["num_processes"], device=environment["device"])
    keys = {"strategy": "strategy", "gradient_checkpointing": "model.gradient_checkpointing"}
    chosen = [f"{key}={json.dumps(written[name])}" for name, key in keys.items() if name in written]
    plan = make_plan(resolve_run(run, chosen, allowed_environment), world)
    return replace(
        plan,
        weights_dtype=environment["weights_dtype"],
        autocast_dtype=environment["autocast_dtype"],
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
