"""A plan -> its run, stopped after a few steps, and where their time and memory went."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from framework.core import atomic
from framework.core.problems import Problem, Refused, UserError
from framework.distributed.peers import Peers
from framework.planning.plan import Plan, Steps, make_steps
from framework.profiling.advice import advise
from framework.profiling.findings import Advice, Findings
from framework.runs.run_directory import RunDirectory

PROFILE, TRACE = "profile.json", "trace.json"
_SCRATCH = ".run-"
"""Folder of the steps' own files, which is gone when they are done."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the main process found."""

    findings: Findings
    advice: tuple[Advice, ...]
    facts: tuple[str, ...]
    """Model, data and devices, in a line each."""
    folder: Path
    """With `profile.json` and `trace.json`."""

    def as_json(self) -> dict[str, Any]:
        """For `profile.json` and `--json`."""
        return {
            **self.findings.as_json(),
            "advice": [asdict(one) for one in self.advice],
            "trace": str(self.folder / TRACE),
        }


def profile(
    plan: Plan,
    peers: Peers,
    consent: AbstractContextManager[None],
    folder: Path,
    num_steps: int,
) -> Profile | None:
    """The run's first steps with its own data, model and processes; nothing of them stays but the
    profile.

    Args:
        consent: while data are read.
        folder: where the profile goes.
        num_steps: that are timed, after one that isn't.

    Returns:
        None on processes other than the main one.

    Raises:
        Refused: the folder holds something else.
        UserError: as training does.
    """
    from framework.data.prepared import prepare_data
    from framework.data.reference import fetch_reference
    from framework.engine.agreement import same_data, same_folder
    from framework.engine.announce import announcement
    from framework.engine.feed import units_per_epoch
    from framework.engine.first_samples import first_batches
    from framework.engine.fit import Run
    from framework.engine.preparation_display import PreparationDisplay
    from framework.models.load import as_loaded, load_bundle
    from framework.profiling.measure import measure
    from framework.tracing.choice import choose_strategy
    from framework.tracing.shortage import shortage_explained

    with _scratch(folder, plan, peers) as directory:
        same_folder(peers, directory)
        with consent, PreparationDisplay() as progress:
            data = prepare_data(plan.recipe, progress=progress)
            fetch_reference(plan.recipe, data)
        same_data(peers, data)
        plan = choose_strategy(plan, data.model_path, peers)
        steps = make_steps(plan.recipe, units_per_epoch(data, plan.recipe.trainer))
        plan = _long_enough(replace(plan, output_dir=directory.path), steps, num_steps)
        begin = partial(first_batches, plan, data)
        with shortage_explained(plan, data.model_path):
            bundle = load_bundle(plan, data.model_path, data.tokenizer, begin)
            plan = as_loaded(plan, bundle)
            run = Run(plan, data, bundle, directory, peers, time.monotonic())
            try:
                say = (
                    partial(print, "profiling:", file=sys.stderr) if directory.is_main else _silent
                )
                trace = folder / TRACE if directory.is_main else None
                findings = measure(run, num_steps, steps.checkpoint_every, trace, say)
            finally:
                run.passes.close()
        if not directory.is_main:
            return None
        facts = announcement(plan, data, bundle, steps, run.groups)
        found = Profile(
            findings=findings, advice=advise(findings, plan), facts=tuple(facts), folder=folder
        )
        atomic.write_file(folder / PROFILE, json.dumps(found.as_json(), indent=2))
        return found


def _silent(text: str) -> None:
    """What other processes than the main one say."""


def _long_enough(plan: Plan, steps: Steps, num_steps: int) -> Plan:
    """With as many steps as are profiled, where the run itself has fewer."""
    from framework.profiling.measure import NUM_OTHER_STEPS

    needed = num_steps + NUM_OTHER_STEPS
    if steps.num_steps >= needed:
        return plan
    recipe = plan.recipe
    trainer = replace(recipe.trainer, max_steps=needed, num_train_epochs=None)
    return replace(plan, recipe=replace(recipe, trainer=trainer))


@contextmanager
def _scratch(folder: Path, plan: Plan, peers: Peers) -> Iterator[RunDirectory]:
    """A run directory inside of the folder that no later run finds."""
    if not plan.world.is_main:
        yield RunDirectory(Path(peers.from_main("scratch", "")), is_main=False)
        return
    _refuse_foreign(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    except OSError as error:
        raise UserError(
            f"{str(folder)!r} can't be written: {error.strerror}",
            hint="write another folder after -o",
        ) from error
    try:
        yield RunDirectory(Path(peers.from_main("scratch", str(path))), is_main=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    """Before anything is written: only an earlier profile may stand there, and no run around it
    may take it for its own."""
    inside = next((one for one in folder.parents if (one / "settings.json").is_file()), None)
    if inside is not None:
        raise Refused(
            Problem(
                what=f"{str(folder)!r} is inside of the run {str(inside)!r}",
                hint="write a folder beside it after -o",
            )
        )
    known = {PROFILE, TRACE}
    if folder.is_dir() and any(
        one.name not in known and not one.name.startswith(_SCRATCH) for one in folder.iterdir()
    ):
        raise Refused(
            f"{str(folder)!r} holds files that are not from a profile",
            hint="write another folder after -o",
        )
