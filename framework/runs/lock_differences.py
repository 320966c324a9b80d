"""Two locks -> what differs between the starts of their runs, the likeliest cause first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.core.problems import Problem, UserError
from framework.data.row_hashes import read_row_hashes
from framework.runs.lock import ROWS
from framework.runs.model_files import LOCK
from framework.runs.row_differences import row_differences

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

Kind = Literal["setting", "row", "model", "template", "file", "package", "hardware"]
NUMERICS: tuple[Kind, ...] = ("package", "hardware")
"""What may change the last digits of every number and nothing else."""

_WATCHED = ("checkpoint.", "evaluation.", "tracking.", "output.", "trainer.time_limit_minutes")
"""Settings that say what is watched and kept."""
_CHOSEN = ("strategy", "model.gradient_checkpointing")
"""Settings in whose place `strategy: auto` puts others."""
_PLACES = ("data.train[", "data.eval[", "data.test[", "model.source.", "tokenizer.chat_template")
"""What their settings name is compared by content, wherever it is."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it was."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def read_lock(run: Path) -> dict[str, Any]:
    """The lock of a run.

    Raises:
        UserError: it has none.
    """
    path = run / LOCK
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = "there is none" if isinstance(error, OSError) else f"can't be read: {error}"
        hint = "give the `output.dir` of a recipe that was trained; every run writes one"
        raise UserError(Problem(file=str(path), what=what, hint=hint)) from error


def differences(run: Path, replay: Path, recipe: Recipe) -> list[Difference]:
    """What is not in the replay as it was in the run, by their locks.

    Args:
        recipe: the replay's.
    """
    old, new = read_lock(run), read_lock(replay)
    return [
        *_settings(run, old, new),
        *_rows(run, replay, recipe, old, new),
        *_files_of_model(old["model"], new["model"], "model file"),
        *_other_files(old, new),
        *_template(old, new),
        *_files_of_data(old, new),
        *_facts("package", old["packages"], new["packages"]),
        *_facts("hardware", old["hardware"], new["hardware"]),
    ]


def changed_later(lock: Mapping[str, Any], start: Mapping[str, Any]) -> Iterator[str]:
    """What was not as at the run's beginning when it was started again.

    Args:
        start: one of the lock's `later_starts`.
    """
    for key, one in start.get("settings", {}).items():
        yield f"setting {key}: was {one['was']}, is {one['is']}"
    for path, how in start.get("files", {}).items():
        yield f"file {path}: {how}"
    for part, called in (("packages", "package"), ("hardware", "hardware"), ("git", "git")):
        for name, now in start.get(part, {}).items():
            before = (lock[part] or {}).get(name)
            yield f"{called} {name}: was {_said(before)}, is {_said(now)}"


def _settings(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    written = run / "settings.json"
    trained = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    places = (*_PLACES, *(old.get("other_files", {}).keys() & new["other_files"].keys()))
    for key in dict.fromkeys((*old["settings"], *new["settings"])):
        before = old["settings"].get(key)
        if not key.startswith(_CHOSEN):
            # What the run itself wrote down is what it trained with, should its lock say otherwise;
            # of these, the lock has what was chosen for `auto`.
            before = trained.get(key, before)
        now = new["settings"].get(key)
        if before != now and not key.startswith(_WATCHED) and not _is_place(key, places):
            yield Difference(kind="setting", text=f"setting {key}: was {before}, is {now}")


def _is_place(key: str, places: tuple[str, ...]) -> bool:
    return key.startswith(places) and not (key.startswith("data.") and ".source" not in key)


def _rows(
    run: Path, replay: Path, recipe: Recipe, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Difference]:
    for part, prepared in old["data"]["parts"].items():
        same = new["data"]["parts"].get(part, {})
        if same.get("fingerprint") == prepared["fingerprint"] or not (run / ROWS).is_file():
            continue
        before, now = (read_row_hashes(folder / ROWS, part) for folder in (run, replay))
        if before is None or now is None:
            continue
        for text in row_differences(recipe, part, before, now):
            yield Difference(kind="row", text=text)


def _other_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    """Of teachers, reward models, adapters that training starts from, and the like."""
    for key, before in old.get("other_files", {}).items():
        if key in new["other_files"]:
            yield from _files_of_model(before, new["other_files"][key], f"{key}: file")


def _files_of_model(
    old: Mapping[str, Any], new: Mapping[str, Any], called: str
) -> Iterator[Difference]:
    before = {one["name"]: one["sha256"] for one in old["files"]}
    now = {one["name"]: one["sha256"] for one in new["files"]}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            how = "is changed" if name in before and name in now else "is new"
            how = how if name in now else "is missing"
            yield Difference(kind="model", text=f"{called} {Path(new['path']) / name} {how}")


def _template(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    if old["chat_template_sha256"] != new["chat_template_sha256"]:
        yield Difference(kind="template", text="the chat template is changed")


def _files_of_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    before = {one["key"]: one for one in old["data"]["datasets"]}
    for now in new["data"]["datasets"]:
        was = before.get(now["key"])
        if was is None:
            continue
        pairs = list(zip(was["files"], now["files"], strict=False))
        for one, other in pairs:
            if (one["size_bytes"], one["sha256"]) != (other["size_bytes"], other["sha256"]):
                text = f"data file {other['path']} of {now['name']} is changed"
                yield Difference(kind="file", text=text)
        if len(was["files"]) != len(now["files"]):
            text = f"{now['name']} had {len(was['files'])} files, has {len(now['files'])}"
            yield Difference(kind="file", text=text)
        if not pairs and was["fingerprint"] != now["fingerprint"]:
            text = f"{now['name']}: was {was['fingerprint']}, is {now['fingerprint']}"
            yield Difference(kind="file", text=text)
    if old["data"]["stream"] != new["data"]["stream"]:
        text = "the first rows of the stream, or its description, are changed"
        yield Difference(kind="file", text=text)


def _facts(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            before, now = (_said(one.get(name)) for one in (old, new))
            yield Difference(kind=kind, text=f"{kind} {name}: was {before}, is {now}")


def _said(value: Any) -> str:
    return "absent" if value is None else str(value)
