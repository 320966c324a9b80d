"""The run's folder: who owns it, and the files in it that others read."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core import atomic
from framework.core.json_lines import cut_after, read_rows, rows_after
from framework.core.problems import Problem, Refused, RunFailed, UserError
from framework.recipe.resolve import RESOLVED
from framework.runs.changed_settings import ChangedSetting, changed_settings
from framework.runs.model_files import LOCK, ChangedFile, changed_model_files, locked_keys, way_back
from framework.runs.other_passes import MICRO_BATCH_SIZE, rounds_otherwise_alone
from framework.runs.versions import PACKAGES

if TYPE_CHECKING:
    from framework.planning.plan import Plan
    from framework.recipe.schema import Recipe

_FREE_TO_CHANGE = (
    "checkpoint.",
    "evaluation.",
    "tracking.",
    "output.",
    "strategy",
    "tokenizer.backend",
    "model.gradient_checkpointing",
    "trainer.time_limit_minutes",
    "trainer.on_nan",
    "trainer.loss_spike",
)
"""What says what is watched and kept, how long, on what devices, or what is to be done about a
fault, and what is computed again: a checkpoint is read by any number of processes and any strategy,
and every tokenizer backend gives the same ids. A resumed run may change it."""


_HELD_OUT = ("data.eval", "data.test")
"""What a run may go on without, should its rows be lost: what depends on them asks for them."""
LOCK_FILE = ".lock"
"""Held while a run goes on in the folder."""
_PLAIN = re.compile(r"[\w./+-]+")
"""A value that YAML reads as it is shown."""
_LEFT_BY_STEPS = ("samples.jsonl", "metrics.jsonl", "checkpoints", "final")
_OWN = ("output.dir", "model.source.type", "trainer.max_steps", "trainer.seed")
"""Keys that the settings of every run have."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths and appending writers; only the main process writes."""

    path: Path
    is_main: bool

    def write(self, name: str, value: object) -> None:
        """Replaces a JSON file."""
        if self.is_main:
            atomic.write_file(self.path / name, json.dumps(value, indent=2, ensure_ascii=False))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds a line to a JSON Lines file."""
        if self.is_main:
            with (self.path / name).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read(self, name: str) -> Any:
        """A JSON file's value, None when it has not been written."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSON Lines file that can't do without one of them.

        Raises:
            UserError: a line can't be read.
        """
        rows, broken = read_rows(self.path / name)
        if broken:
            raise UserError(
                Problem(
                    file=str(self.path / name),
                    line=broken[0],
                    what="can't be read, and decides what the run does",
                    hint="put the file back as it was, or write another output.dir",
                )
            )
        return rows

    def rows_after(self, name: str, step: int) -> list[dict[str, Any]]:
        """The rows of later steps in a JSON Lines file; what of them can't be read is left out."""
        return rows_after(self.path / name, step)

    def forget_after(self, step: int) -> None:
        """Takes rows of steps that will be done again out of the JSON Lines files."""
        if not self.is_main:
            return
        for name in ("metrics.jsonl", "samples.jsonl", "generations.jsonl", "answers.jsonl"):
            if (self.path / name).is_file():
                cut_after(self.path / name, step)


@contextmanager
def open_run(
    plan: Plan, consent: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[RunDirectory]:
    """The run's folder, held by this run alone while the context lasts.

    Args:
        consent: what of the user's word the recipe's models may be fetched with.

    Raises:
        Refused: the folder belongs to another run, or one is running in it.
        RunFailed: the folder can't be written.
    """
    from filelock import FileLock, Timeout

    directory = RunDirectory(plan.output_dir, plan.world.is_main)
    if not plan.world.is_main:
        with _unwritable_told(plan.output_dir):
            yield directory
        return
    _refuse_foreign(plan.output_dir)
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plan.output_dir / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise Refused(
            f"another process is running in {str(plan.output_dir)!r}",
            hint="wait for it, or write another output.dir",
        ) from None
    except OSError as error:
        raise UserError(
            Problem(
                key="output.dir",
                what=f"{str(plan.output_dir)!r} can't be written: {error.strerror}",
                hint="write another output.dir",
            )
        ) from error
    try:
        with _unwritable_told(plan.output_dir):
            with consent():
                _claim(directory, plan)
            yield directory
    finally:
        lock.release()


def is_going_on(folder: Path) -> bool:
    """Whether a run holds its folder, as far as this machine can tell."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def _unwritable_told(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunFailed(
            f"{str(folder)!r} can't be written: {error}",
            hint="the newest complete checkpoint is kept; free space and start the same command",
        ) from error


def _refuse_foreign(folder: Path) -> None:
    """Before anything is written: a folder with files in it must be a run's, and lie where it
    seems to."""
    if not folder.is_dir():
        return
    entries = list(folder.iterdir())
    links = sorted(entry.name for entry in entries if entry.is_symlink())
    if links:
        raise Refused(
            f"{str(folder)!r} holds the link {links[0]!r}, and a run would write to where it leads",
            hint="write the folder itself as output.dir",
        )
    if _is_run(folder / "settings.json"):
        return
    # What a start leaves that was killed before it had written the settings.
    own = (LOCK_FILE, ".settings.json.")
    if not all(entry.name.startswith(own) for entry in entries):
        raise Refused(
            f"{str(folder)!r} holds files that are not from a run of this recipe",
            hint="write another output.dir, or empty this one",
        )


def _is_run(settings: Path) -> bool:
    """Editors have settings of the same name."""
    try:
        written = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(written, dict) and all(isinstance(written.get(key), str) for key in _OWN)


def _claim(directory: RunDirectory, plan: Plan) -> None:
    """Writes down what this run is, or finds that the folder belongs to another one.

    What ended before its first step left nothing that a corrected recipe could go on with wrongly.
    """
    from framework.recipe.explain import explain_all

    explained = explain_all(plan.resolved)
    settings = {one.key: one.value for one in explained}
    earlier = directory.read("settings.json")
    if earlier is not None and any((directory.path / name).exists() for name in _LEFT_BY_STEPS):
        _refuse_other_run(directory, plan.recipe, earlier, settings)
    directory.write("settings.json", settings)
    directory.write("provenance.json", [vars(one) for one in explained])
    directory.write("environment.json", describe_environment(plan))
    _write_recipes(directory.path, plan)


def _refuse_other_run(
    directory: RunDirectory, recipe: Recipe, earlier: Mapping[str, str], settings: Mapping[str, str]
) -> None:
    """What a model is called, and where it is, may change as long as its files are the same."""
    lock = directory.read(LOCK)
    changed = changed_settings(earlier, settings)
    foreign = [one for one in changed if not _is_free(one, recipe)]
    moved: list[ChangedSetting] = []
    if lock is not None:
        # What an earlier start went on without may be there again.
        first = [one.key for one in changed_settings(lock["settings"], settings)]
        foreign = [one for one in foreign if any(_is_in(key, one.key) for key in first)]
        places = locked_keys(lock)
        moved = [one for one in foreign if any(_is_in(one.key, place) for place in places)]
        foreign = [one for one in foreign if one not in moved]
    problems = [_other_run(directory.path, one) for one in foreign]
    if lock is not None and not problems:
        others = [
            _other_model(lock, one)
            for one in changed_model_files(lock, recipe)
            if one.decides and not one.key.startswith(_FREE_TO_CHANGE)
        ]
        problems = [*(_other_run(directory.path, one) for one in moved), *others] if others else []
    if problems:
        raise Refused(problems)


def _is_free(changed: ChangedSetting, recipe: Recipe) -> bool:
    """Whether a run that goes on may have it otherwise."""
    if changed.key == MICRO_BATCH_SIZE:
        return rounds_otherwise_alone(changed, recipe)
    goes = changed.key in _HELD_OUT and changed.now == "[]"
    return goes or changed.key.startswith(_FREE_TO_CHANGE)


def _is_in(key: str, place: str) -> bool:
    return key == place or key.startswith((f"{place}.", f"{place}["))


def _write_recipes(folder: Path, plan: Plan) -> None:
    """`resolved.yaml` runs by itself; `recipe.yaml` is what was written, file after file."""
    from omegaconf import OmegaConf

    from framework.recipe.dump import recipe_values

    text = OmegaConf.to_yaml(OmegaConf.create(recipe_values(plan.resolved)))
    atomic.write_file(folder / RESOLVED, text)
    files = dict.fromkeys(
        origin.file for origin in plan.resolved.origins.values() if origin.kind == "file"
    )
    texts = [f"# {name}\n{Path(name).read_text(encoding='utf-8')}" for name in files]
    atomic.write_file(folder / "recipe.yaml", "\n---\n".join(texts))


def _other_run(folder: Path, changed: ChangedSetting) -> Problem:
    if changed.was == "none":
        is_item = changed.key.endswith("]")
        back = "leave it out" if is_item else f"write `{changed.key}: null`"
    elif _PLAIN.fullmatch(changed.was):
        back = f"write `{changed.key}: {changed.was}`"
    else:
        back = f"write it as {str(folder / RESOLVED)!r} has it"
    return Problem(
        key=changed.key,
        what=f"is {changed.now}, the run in {str(folder)!r} was started with {changed.was}",
        hint=f"{back} to go on with it, or another output.dir for another run",
    )


def _other_model(lock: Mapping[str, Any], changed: ChangedFile) -> Problem:
    back = way_back(lock, changed)
    hint = f"{back} to go on with the run, or another output.dir for another run"
    return Problem(key=changed.key, what=changed.what, hint=hint)


def describe_environment(plan: Plan) -> dict[str, Any]:
    """What the run ran on, for the report."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": plan.world.device,
        "num_processes": plan.world.num_processes,
        "weights_dtype": plan.weights_dtype,
        "autocast_dtype": plan.autocast_dtype,
        "rss_at_start_bytes": resident_bytes(),
        "command": " ".join(sys.argv),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def resident_bytes() -> int | None:
    """What this process holds in memory now; None where the system doesn't say."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
