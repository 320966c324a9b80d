"""`framework submit`: a recipe, or a sweep over it, as a job of a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, Overrides, RecipePath
from framework.core import atomic
from framework.core.problems import Problem, RunFailed, UserError
from framework.core.protocols.submitting import Submitter
from framework.core.registries import registry
from framework.core.world import Device, World
from framework.launching.accelerate_command import shown
from framework.launching.cluster import Cluster, read_cluster
from framework.launching.job import Job, NamedJob, Submission
from framework.launching.sweep import read_sweep
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins

_JOBS = "jobs"


def run(
    target: Annotated[str, typer.Argument(help="Kind of cluster; `framework list submitters`.")],
    recipe: RecipePath,
    overrides: Overrides = None,
    cluster: Annotated[
        Path | None, typer.Option(help="YAML file that says where; one CPU node without it.")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="YAML file with the overrides of several runs.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the job, the recipe's by default.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for what is submitted; jobs/NAME by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the files and the commands.")
    ] = False,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
) -> None:
    """Train on a cluster; a job that is stopped goes on by itself."""
    where = read_cluster(cluster) if cluster else Cluster()
    submitter = _submitter(target, where, cluster)
    variants = read_sweep(sweep).runs if sweep else ((),)
    device: Device = "cuda" if where.gpus_per_node else "cpu"
    jobs = [
        Job(
            recipe=str(recipe),
            overrides=(*(overrides or ()), *variant),
            allowed_environment=tuple(allow_env or ()),
            allowed_urls=tuple(allow_url or ()),
            num_nodes=where.num_nodes,
            processes_per_node=where.processes_per_node or where.gpus_per_node or 1,
            device=device,
        )
        for variant in variants
    ]
    _refuse_wrong_runs(jobs)
    named = _name(name or recipe.stem)
    folder = output or Path(_JOBS) / named
    submission = submitter.submission(
        [
            NamedJob(
                name=named if len(jobs) == 1 else f"{named}-{number}",
                job=job,
                cluster=where,
                folder=str(folder),
            )
            for number, job in enumerate(jobs)
        ]
    )
    if dry_run:
        _show(submission)
        return
    _refuse_unset(where)
    _submit(submission, folder)


def _submitter(target: str, where: Cluster, file: Path | None) -> Submitter:
    """The target's settings of the cluster file, or its defaults."""
    kind = registry("submitters").get(target)
    written = next((one for one in where.submitters if type(one) is kind), None)
    if written is not None:
        return written
    submitter: Submitter = kind()
    problems = [
        Problem(
            file=str(file or ""),
            key=problem.key.removeprefix("."),
            what=problem.what,
            hint=problem.hint,
        )
        for problem in submitter.check(where)
    ]
    if problems:
        raise UserError(problems)
    return submitter


def _refuse_wrong_runs(jobs: list[Job]) -> None:
    """Every run is good by itself, and has a directory of its own."""
    problems: list[Problem] = []
    runs: dict[str, int] = {}
    for number, job in enumerate(jobs):
        try:
            resolved = resolve_with_origins(job.recipe, job.overrides, job.allowed_environment)
            plan = make_plan(resolved, World(num_processes=job.num_processes, device=job.device))
        except UserError as error:
            problems += error.problems
            continue
        directory = str(plan.output_dir)
        if directory in runs:
            problems.append(
                Problem(
                    key=f"runs[{number}]",
                    what=f"has the output.dir of runs[{runs[directory]}], {directory!r}",
                    hint=f"add output.dir={directory}-{number}",
                )
            )
        runs.setdefault(directory, number)
    if problems:
        raise UserError(dict.fromkeys(problems))


def _refuse_unset(where: Cluster) -> None:
    unset = [name for name in where.pass_environment if name not in os.environ]
    if unset:
        raise UserError(
            Problem(key="pass_environment", what=f"{one} is not set here", hint=f"export {one}=...")
            for one in unset
        )


def _name(text: str) -> str:
    """A name that every cluster takes: a DNS label."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    if not name or not name[0].isalpha():
        name = f"run-{name}".strip("-")
    return name


def _show(submission: Submission) -> None:
    for line in _lines(submission):
        print(line)


def _lines(submission: Submission) -> Iterator[str]:
    for name, text in submission.files.items():
        yield f"# ---- {name}"
        yield text.rstrip("\n")
    yield "# ---- commands"
    yield from (shown(command) for command in submission.commands)


def _submit(submission: Submission, folder: Path) -> None:
    for name, text in submission.files.items():
        atomic.write_file(folder / name, text)
    for command in submission.commands:
        print(shown(command), flush=True)
        try:
            done = subprocess.run(
                command.arguments, env={**os.environ, **command.environment}, check=False
            )
        except FileNotFoundError as error:
            raise RunFailed(
                f"{command.arguments[0]!r} is not installed here",
                hint=f"run it where it is: the files are in {str(folder)!r}",
            ) from error
        if done.returncode:
            sys.exit(done.returncode)
