"""A recipe's training datasets -> cleaned files of rows, by a datatrove pipeline in many tasks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.cleaning.sample_rows import FORMATS
from framework.core import atomic
from framework.core.extras import missing_extra
from framework.core.problems import Problem, Refused, RunFailed, UserError
from framework.core.protocols.data import ComparesRows
from framework.core.registries import component_name
from framework.endpoints.endpoint import Endpoint
from framework.reading.parts import named_datasets

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor

    from framework.recipe.schema import Recipe

_KEY = "cleaned.json"
_FINDINGS, _LOGS, _DRY_RUN = "findings", "logs", "dry_run"
"""Folders beside those of the datasets; the last is all that a dry run writes."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the tasks run."""

    executor: Literal["local", "slurm"] = "local"
    tasks: int = 1
    workers: int = -1
    """Tasks at a time; -1: all."""
    time: str = ""
    partition: str = ""
    memory_gigabytes: int = 4


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What became of one dataset, or with `dry_run` would become of it."""

    name: str
    dry_run: bool
    num_rows: int
    num_skipped_rows: int
    num_kept_rows: int
    """A dry run keeps all."""
    cleaners: tuple[tuple[str, dict[str, int]], ...]
    """Each cleaner with the numbers of what it did."""
    format: str
    """What a recipe writes to read the rows."""


def clean_corpus(recipe: Recipe, output: Path, cluster: Cluster) -> tuple[Cleaned, ...]:
    """Runs the tasks and waits for them; with Slurm submits them, and finds nothing yet.

    Started again in the same folder, tasks that are done are not done again.

    Raises:
        UserError: rows don't fit or are refused by a cleaner; or the cleaners can't run in tasks.
        RunFailed: Slurm doesn't take the job.
        Refused: the folder holds something else, or the user did not allow to send rows to an
            address of the recipe.
    """
    if problems := list(_conflicts(recipe, cluster)):
        raise UserError(problems)
    _demand_consent(recipe)
    plain = _without_additions(recipe)
    output = _folder(recipe, output)
    _claim(output, _key(plain, cluster.tasks), is_dry_run=recipe.data.dry_run)
    names = list(named_datasets(plain, "train"))
    for name in names:
        _run(_executor(plain, name, output, cluster))
    if cluster.executor == "slurm":
        return ()
    if problems := [one for name in names for one in _problems(output, name, cluster.tasks)]:
        raise UserError(problems)
    dry_run = recipe.data.dry_run
    return tuple(_cleaned(output, name, cluster.tasks, dry_run=dry_run) for name in names)


def findings_folder(recipe: Recipe, output: Path) -> Path:
    """Where the cleaners' lists go: a folder for each dataset, and in it one for each task."""
    return _folder(recipe, output) / _FINDINGS


def _folder(recipe: Recipe, output: Path) -> Path:
    """A dry run has a folder of its own, so that what it lists is never in the way."""
    return output.absolute() / _DRY_RUN if recipe.data.dry_run else output.absolute()


def _conflicts(recipe: Recipe, cluster: Cluster) -> Iterator[Problem]:
    yield from missing_extra("datatrove", "datatrove", key="")
    if not recipe.data.cleaners:
        yield Problem(
            key="data.cleaners", what="is empty, so there is nothing to do", hint="name a cleaner"
        )
    if recipe.data.split is not None:
        yield Problem(
            key="data.split",
            what="whole datasets are cleaned, so there are no sides",
            hint="leave it out here, and write it in the recipe that trains on the result",
        )
    for name in sorted({_FINDINGS, _LOGS, _DRY_RUN} & set(named_datasets(recipe, "train"))):
        yield Problem(
            key="data.train",
            what=f"a dataset is called {name!r}, as is a folder of lists beside its own",
            hint="write another `name`",
        )
    comparing = [
        component_name(one) or type(one).__name__
        for one in recipe.data.cleaners
        if isinstance(one, ComparesRows) and one.compares_rows
    ]
    if comparing and cluster.tasks > 1:
        yield Problem(
            key="data.cleaners",
            what=f"{' and '.join(comparing)} compare each row with all before it, which no one of "
            f"{cluster.tasks} tasks sees",
            hint="write --tasks 1, or run the tasks without them: they belong into the recipe that "
            "trains on the result",
        )
    if cluster.executor == "slurm":
        if not (cluster.time and cluster.partition):
            yield Problem(
                what="Slurm needs a time limit and a partition",
                hint="write --time 10:00:00 --partition NAME",
            )
        if shutil.which("sbatch") is None:
            yield Problem(
                what="there is no `sbatch` on this machine", hint="start it on a login node"
            )


def _demand_consent(recipe: Recipe) -> None:
    """Passes when rows may be sent wherever sources and cleaners send them, with their keys.

    Raises:
        Refused: the user did not allow it.
        UserError: a variable that holds a key is not set.
    """
    for endpoint in _endpoints((recipe.data.train, recipe.data.cleaners)):
        endpoint.key()


def _endpoints(part: Any) -> Iterator[Endpoint]:
    """Every server that a component names, however deep."""
    if isinstance(part, Endpoint):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _endpoints(one)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _endpoints(vars(part)[field.name])


def _without_additions(recipe: Recipe) -> Recipe:
    """The recipe that reads rows as they are: what it adds to them, it will add when it trains."""
    train = tuple(replace(one, system_prompt=None, task_prefix=None) for one in recipe.data.train)
    return replace(recipe, data=replace(recipe.data, train=train, reasoning="keep"))


def _key(recipe: Recipe, tasks: int) -> str:
    data = recipe.data
    sources = [one.source.fingerprint() for one in (*data.train, *data.eval, *data.test)]
    # Cleaned rows are the same whatever length they are trained with.
    written = [repr(replace(data, max_length=2)), tasks, sources]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def _claim(output: Path, key: str, *, is_dry_run: bool) -> None:
    """Makes the folder this work's own; a dry run takes the place of another one.

    Raises:
        Refused: it holds something else.
    """
    mark = output / _KEY
    written = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
    found = written.get("key")
    if is_dry_run and written.get("dry_run") and found != key:
        shutil.rmtree(output)
        found = None
    output.mkdir(parents=True, exist_ok=True)
    if found != key and any(one.name != _DRY_RUN for one in output.iterdir()):
        raise Refused(
            f"{output} is not empty, and not the beginning of this work",
            hint="write another folder, or remove this one",
        )
    if found is None:
        atomic.write_file(mark, json.dumps({"key": key, "dry_run": is_dry_run}) + "\n")


def _executor(recipe: Recipe, name: str, output: Path, cluster: Cluster) -> PipelineExecutor:
    # What datatrove's logger shows of itself wherever it isn't told; read when it is imported.
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")
    from datatrove.executor import SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep

    from framework.cleaning.corpus_steps import CleanSamples, QuietExecutor, Work, WriteLines

    work = Work(recipe=recipe, name=name, folder=output / _FINDINGS / name)
    pipeline: list[PipelineStep] = [CleanSamples(work)]
    if not recipe.data.dry_run:
        pipeline.append(WriteLines(str(output / name), compression=None))
    logs = str(output / _LOGS / name)
    if cluster.executor == "local":
        return QuietExecutor(
            pipeline, tasks=cluster.tasks, workers=cluster.workers, logging_dir=logs
        )
    return SlurmPipelineExecutor(
        pipeline,
        tasks=cluster.tasks,
        workers=cluster.workers,
        logging_dir=logs,
        slurm_logs_folder=str(output / _LOGS / name / "slurm"),
        time=cluster.time,
        partition=cluster.partition,
        mem_per_cpu_gb=cluster.memory_gigabytes,
        job_name=f"clean-{name}",
        env_command=f"source {Path(sys.prefix) / 'bin' / 'activate'}",
    )


def _run(executor: PipelineExecutor) -> None:
    """Works, or hands the work to Slurm.

    Raises:
        RunFailed: Slurm doesn't take it; what it said stands above.
    """
    try:
        executor.run()
    except subprocess.CalledProcessError as error:
        raise RunFailed(
            f"Slurm does not take the job: `{error.cmd[0]}` ended with {error.returncode}",
            hint="what it printed says why; start the same command again when that is put right",
        ) from error


# ---- what the tasks left


def _found(output: Path, name: str, tasks: int, file: str) -> list[Any]:
    folders = (output / _FINDINGS / name / f"{rank:05d}" for rank in range(tasks))
    return [json.loads((folder / file).read_text(encoding="utf-8")) for folder in folders]


def _problems(output: Path, name: str, tasks: int) -> list[Problem]:
    """What tasks found wrong; those tasks are to be done again."""
    from framework.cleaning.corpus_steps import PROBLEMS

    found: list[Problem] = []
    for rank, problems in enumerate(_found(output, name, tasks, PROBLEMS)):
        if problems:
            done = output / _LOGS / name / "completions" / f"{rank:05d}"
            done.unlink(missing_ok=True)
            found += [Problem(**one) for one in problems]
    return list(dict.fromkeys(found))


def _cleaned(output: Path, name: str, tasks: int, *, dry_run: bool) -> Cleaned:
    from framework.cleaning.corpus_steps import COUNTS

    parts = _found(output, name, tasks, COUNTS)
    kind = next((part["sample_type"] for part in parts if part["sample_type"]), "Conversation")
    return Cleaned(
        name=name,
        dry_run=dry_run,
        num_rows=sum(part["num_rows"] for part in parts),
        num_skipped_rows=sum(part["num_skipped_rows"] for part in parts),
        num_kept_rows=sum(part["num_kept_rows"] for part in parts),
        cleaners=tuple(
            _numbers([part["cleaners"][at] for part in parts])
            for at in range(len(parts[0]["cleaners"]))
        ),
        format=FORMATS[kind],
    )


def _numbers(parts: Sequence[dict[str, Any]]) -> tuple[str, dict[str, int]]:
    """A cleaner's name, and its numbers over all tasks."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update({key: value for key, value in part.items() if key.startswith("num_")})
    return parts[0]["cleaner"], dict(total)
