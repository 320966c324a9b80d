"""`framework replay`: a run's lock -> the same run again, held against the first step by step."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framework.arguments import (
    AllowedEnvironment,
    AllowedUrls,
    AsJson,
    Overrides,
    PeerTimeout,
    RunPath,
)
from framework.core.problems import Problem, Refused, UserError, reading
from framework.core.world import World
from framework.distributed.peers import DEFAULT_TIMEOUT_SECONDS
from framework.runs.rehearsal import Rehearsal

if TYPE_CHECKING:
    from framework.planning.plan import Plan
    from framework.runs.lock_differences import Difference
    from framework.runs.run_directory import RunDirectory

TOLERANCE = 1e-3
"""Relative, of losses and gradient norms on other packages or hardware."""
_UNWATCHED = ("tracking.trackers=[]", "trainer.time_limit_minutes=null")
"""A replay shows up in no tracker and takes the time that it takes."""


def run(
    run_dir: RunPath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; new. By default RUN_DIR-replay."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Only so many optimizer steps.")] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="Relative difference of losses and gradient norms that is the same on other "
            "packages or hardware; on the same, numbers are compared bit for bit.",
        ),
    ] = TOLERANCE,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    peer_timeout: PeerTimeout = DEFAULT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Run a run's lock again; say that it is the same, or stop at the first difference and name it
    and its cause.

    Ends with 0 if it is the same and 1 if not. key=value is for what has to be otherwise here, such
    as a path.
    """
    from framework.runs.lock_differences import read_lock
    from framework.runs.replay import RunningComparison, compare_runs, last_step
    from framework.runs.run_directory import RunDirectory

    world = World.from_env()
    folder = output or run_dir.with_name(f"{run_dir.resolve().name}-replay")
    with reading(run_dir, "what the run did"):
        lock = read_lock(run_dir)
        _refuse_other_processes(world, lock, run_dir, folder)
        done = last_step(run_dir)
    if not done:
        raise UserError(
            Problem(file=str(run_dir), what="no step was done", hint="give a run that trained")
        )
    if world.is_main and folder.exists() and any(folder.iterdir()):
        raise Refused(f"{str(folder)!r} is not empty", hint="write another folder after -o")
    finished = (run_dir / "final").is_dir()
    wanted = steps if steps is not None and (steps < done or not finished) else None
    if wanted is None and not finished:
        wanted = done
    known: list[Difference] = []
    running: list[RunningComparison] = []

    def before_training(plan: Plan, directory: RunDirectory) -> None:
        if directory.is_main:
            known.extend(_known(run_dir, lock, plan, directory, quiet=as_json))
            running.append(RunningComparison(run_dir, directory.path, known, tolerance))

    def has_differed() -> bool:
        return running[0].has_differed()

    last = None if wanted is None else min(wanted, done)
    _train(
        run_dir,
        lock,
        (*(overrides or ()), *_UNWATCHED, f"output.dir={folder}"),
        (allow_env or (), allow_url or (), peer_timeout),
        Rehearsal(
            before_training=before_training,
            last_step=last,
            has_differed=has_differed,
        ),
    )
    if not world.is_main:
        return
    with reading(run_dir, "what the run did"):
        found = compare_runs(run_dir, folder, known, tolerance, last)
    RunDirectory(folder, is_main=True).write("replay.json", found.as_json())
    print(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.lines()))
    if not found.same:
        raise typer.Exit(1)


def _known(
    run_dir: Path, lock: Mapping[str, Any], plan: Plan, directory: RunDirectory, *, quiet: bool
) -> list[Difference]:
    """What is known to differ before anything is trained; shown, unless `quiet`."""
    from framework.runs.lock_differences import changed_later, differences

    with reading(run_dir, "what the run was"):
        found = differences(run_dir, directory.path, plan.recipe)
    if not quiet:
        for one in found:
            print(f"before training: {one}", flush=True)
        if not found:
            print("before training: recipe, data, model, packages and hardware are the same")
        for start in lock["later_starts"]:
            changed = "; ".join(changed_later(lock, start)) or "nothing"
            print(f"the run was interrupted and went on; what had changed then: {changed}")
    return found


def _train(
    run_dir: Path,
    lock: Mapping[str, Any],
    overrides: tuple[str, ...],
    allowed: tuple[Any, Any, float],
    rehearsal: Rehearsal,
) -> None:
    from omegaconf import OmegaConf

    from framework.train import run as train

    with tempfile.TemporaryDirectory(prefix="framework-replay-") as temporary:
        recipe = Path(temporary) / "recipe.yaml"
        with reading(run_dir, "the recipe"):
            text = OmegaConf.to_yaml(OmegaConf.create(dict(lock["recipe"])))
        recipe.write_text(text, encoding="utf-8")
        train(recipe, overrides, *allowed, rehearsal)


def _refuse_other_processes(
    world: World, lock: Mapping[str, Any], run_dir: Path, folder: Path
) -> None:
    """Ends with the command that starts as many processes as the run had."""
    from framework.launching.accelerate_command import accelerate_command, shown
    from framework.launching.job import Job, Node

    hardware = lock["hardware"]
    wanted, nodes = hardware["num_processes"], hardware["num_nodes"]
    if world.num_processes == wanted:
        return
    what = f"the run had {wanted} process{'es' * (wanted > 1)}, this is {world.num_processes}"
    if wanted == 1:
        raise UserError(what, hint=f"start `framework replay {run_dir}` without a launcher")
    job = Job(
        recipe=str(run_dir),
        overrides=("--output", str(folder)),
        processes_per_node=wanted,
        device=world.device,
    )
    threads = {"OMP_NUM_THREADS": hardware["omp_num_threads"]}
    environment = {name: value for name, value in threads.items() if value}
    command = shown(accelerate_command(job, Node(), environment, ("framework", "replay")))
    on = f", as many on each of {nodes} nodes as the run had" if nodes > 1 else ""
    raise UserError(what, hint=f"start it so{on}: {command}")
