"""Plan, data and machine -> `lock.json`: all that decides what a run computes, as it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from framework.core.atomic import known_sha256
from framework.core.problems import Problem, Refused, reading
from framework.core.protocols.data import Filed
from framework.data.prepared import PreparedData
from framework.data.row_hashes import RowHashes, read_row_hashes, write_row_hashes
from framework.data.store import Store
from framework.planning.plan import Plan
from framework.recipe.dump import recipe_values
from framework.recipe.explain import explain_all
from framework.recipe.schema import Part, Recipe, default_name
from framework.runs.changed_settings import changed_settings
from framework.runs.git_state import git_state
from framework.runs.model_files import LOCK, changed_model_files, locked_models
from framework.runs.row_differences import row_differences
from framework.runs.run_directory import RunDirectory
from framework.runs.versions import OPTIONAL, PACKAGES, package_versions

ROWS = "rows.npz"
"""Beside the lock: a hash of each row as it is trained."""

_SEED = re.compile(r"(^|[._])seed$")


def write_lock(plan: Plan, data: PreparedData, directory: RunDirectory) -> Sequence[str]:
    """Writes the run's lock, or, where a run goes on, what of its settings and surroundings has
    changed since it was started.

    Returns:
        What a person has to know of that, on the main process.

    Raises:
        UserError: a run would go on with other rows, or nothing says which it had.
        OSError: it can't be written.
    """
    if not directory.is_main:
        return ()
    settings = {one.key: one.value for one in explain_all(plan.resolved)}
    surroundings = {
        "packages": package_versions((*PACKAGES, *OPTIONAL)),
        "hardware": describe_hardware(plan),
        "git": git_state(_recipe_files(plan)),
    }
    earlier = directory.read(LOCK)
    if earlier is not None and any((directory.path / "checkpoints").glob("step-*")):
        _refuse_other_rows(plan, data, directory, earlier["data"]["parts"])
        changed = changed_settings(earlier["settings"], settings)
        start = _changed(earlier, surroundings)
        if changed:
            start["settings"] = {one.key: {"was": one.was, "is": one.now} for one in changed}
        files = changed_model_files(earlier, plan.recipe)
        if files:
            start["files"] = {str(one.path): one.how for one in files}
        directory.write(LOCK, {**earlier, "later_starts": [*earlier["later_starts"], start]})
        return [str(one) for one in (*changed, *files)]
    write_row_hashes(directory.path / ROWS, _parts(data))
    lock = {
        "recipe": recipe_values(plan.resolved),
        "settings": settings,
        "seeds": {key: value for key, value in settings.items() if _SEED.search(key)},
        "data": _described_data(plan, data),
        **locked_models(plan.recipe, data.model_path),
        "chat_template_sha256": _template_hash(data),
        **surroundings,
        "later_starts": [],
    }
    directory.write(LOCK, lock)
    return ()


def describe_hardware(plan: Plan) -> dict[str, Any]:
    """What computes, and how PyTorch was told to."""
    gpus = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus if plan.world.device == "cuda" else [],
        "device": plan.world.device,
        "num_processes": plan.world.num_processes,
        "num_nodes": plan.world.num_nodes,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "torch_num_threads": torch.get_num_threads(),
        "weights_dtype": plan.weights_dtype,
        "autocast_dtype": plan.autocast_dtype,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What of the surroundings is no longer as at the first start."""
    changed: dict[str, Any] = {}
    for kind, facts in now.items():
        before = earlier[kind] or {}
        different = {
            name: value for name, value in (facts or {}).items() if before.get(name) != value
        }
        if different:
            changed[kind] = different
    return changed


def _refuse_other_rows(
    plan: Plan, data: PreparedData, directory: RunDirectory, earlier: Mapping[str, Any]
) -> None:
    """Ends a start whose rows are not those of the run: it would learn something else, or hold
    losses of other rows against each other.

    Args:
        earlier: what the lock says of the parts of the data.
    """
    path, problems = directory.path / ROWS, list[Problem]()
    hint = (
        "put the rows back, or the template, tokenizer or version that reads them otherwise now, "
        "or write another output.dir for another run"
    )
    for part, store in _parts(data).items():
        if part not in earlier or earlier[part]["fingerprint"] == store.fingerprint:
            continue
        # Another version may have packed the same rows otherwise.
        with reading(path, "the rows of the run"):
            before = read_row_hashes(path, part)
        if before is not None:
            found = row_differences(plan.recipe, part, before, RowHashes.of(store))
            without = _way_without(plan.recipe) if part == "eval" else ""
            problems += (
                Problem(key=f"data.{part}", what=text, hint=hint + without) for text in found
            )
    if problems:
        raise Refused(problems)


def _way_without(recipe: Recipe) -> str:
    """What to write where held-out rows are lost for good, empty where there is no such way."""
    data, evaluation = recipe.data, recipe.evaluation
    if data.split is not None and data.split.eval:
        return ""
    dependent = {
        "evaluation.early_stopping=null": evaluation.early_stopping is not None,
        "evaluation.every_steps=null": evaluation.every_steps is not None and not data.test,
        "evaluation.every_epochs=null": evaluation.every_epochs is not None and not data.test,
        "checkpoint.keep_best=null": recipe.checkpoint.keep_best is not None,
        "output.final=last": recipe.output.final == "best",
    }
    words = " ".join(["data.eval=[]", *(text for text, is_so in dependent.items() if is_so)])
    return f"; if they are lost for good, go on without them: add `{words}` to the command"


def _recipe_files(plan: Plan) -> list[Path]:
    origins = plan.resolved.origins.values()
    names = dict.fromkeys(origin.file for origin in origins if origin.kind == "file")
    return [Path(name) for name in names]


# ---- data


def _parts(data: PreparedData) -> dict[Part, Store]:
    return {"train": data.train} if data.eval is None else {"train": data.train, "eval": data.eval}


def _described_data(plan: Plan, data: PreparedData) -> dict[str, Any]:
    return {
        "datasets": list(_datasets(plan)),
        "parts": {
            name: {"fingerprint": store.fingerprint, "arrays": store.file_hashes}
            for name, store in _parts(data).items()
        },
        "stream": None if data.stream is None else data.stream.fingerprint,
    }


def _datasets(plan: Plan) -> Iterator[dict[str, Any]]:
    """Every dataset of the recipe with its files; the bytes of streamed ones are not read."""
    recipe = plan.recipe
    for part, datasets in (
        ("train", recipe.data.train),
        ("eval", recipe.data.eval),
        ("test", recipe.data.test),
    ):
        streamed = part == "train" and recipe.data.streaming is not None
        for index, dataset in enumerate(datasets):
            key, source = f"data.{part}[{index}]", dataset.source
            filed = isinstance(source, Filed)
            yield {
                "key": key,
                "name": dataset.name or default_name(key),
                "fingerprint": None if streamed and filed else source.fingerprint(),
                "files": [_described_file(file, read=not streamed) for file in source.files()]
                if filed
                else [],
            }


def _described_file(file: Path, *, read: bool) -> dict[str, Any]:
    state = file.stat()
    return {
        "path": str(file.absolute()),
        "size_bytes": state.st_size,
        "sha256": known_sha256(file) if read else None,
    }


# ---- template and hardware


def _template_hash(data: PreparedData) -> str | None:
    template = data.lazy_chat.unchecked_chat.template
    if template is None:
        return None
    whole = json.dumps([template.text, template.text_with_tools])
    return hashlib.sha256(whole.encode()).hexdigest()


def cpu_model() -> str:
    """What this machine's CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
