"""LoRA adapters of several runs -> one adapter in a folder that is used like a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from framework.adapting.adapter_folder import read_config, with_trained_adapter
from framework.adapting.trained_adapter import PLAIN
from framework.core import atomic
from framework.core.problems import Problem, Refused, UserError
from framework.models.quiet import quiet
from framework.runs.trained import FinishedRun

EXACT = ("cat",)
"""Methods whose update is the weighted sum of the others."""
TOLERANCE = 1e-5
"""Largest distance of an exact method from the sum, as a share of it: float32's rounding."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """What was combined, and how well the result is the weighted sum of the updates."""

    method: str
    sources: tuple[str, ...]
    weights: tuple[float, ...]
    rank: int
    """Of the new update."""
    distance_from_sum: float
    """|| update - sum of the weighted updates || / || that sum ||, over all layers."""


def combine(
    runs: Sequence[FinishedRun],
    output: Path,
    *,
    method: str,
    weights: Sequence[float],
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Combination:
    """Writes the combined adapter to `output`, which must not exist.

    Args:
        method: one of peft's combination types.
        weights: what each update is multiplied with.
        rank: of the new update; None: the method's own. For methods that end in `svd`.
        density: part of the numbers that `ties`, `dare` and `magnitude_prune` keep.
        seed: of what `dare` leaves out.

    Raises:
        UserError: the runs have no LoRA adapters of one base, or the method can't combine them.
        Refused: an exact method did not give the sum.
    """
    problems = tuple(_problems(runs, output, weights))
    if problems:
        raise UserError(problems)
    names = [f"part{number}" for number in range(len(runs))]
    model = _with_adapters(runs, names)
    torch.manual_seed(seed)
    try:
        model.base_model.add_weighted_adapter(
            names,
            list(weights),
            "default",
            combination_type=method,
            svd_rank=rank,
            density=density,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"the adapters can't be combined by {method!r}: {error}",
            hint="ranks that differ need --method cat or svd",
        ) from error
    found = Combination(
        method=method,
        sources=tuple(str(run.path) for run in runs),
        weights=tuple(weights),
        rank=model.peft_config["default"].r,
        distance_from_sum=_distance_from_sum(model, names, weights),
    )
    if method in EXACT and found.distance_from_sum > TOLERANCE:
        raise Refused(
            f"the combination is not the sum of the updates: it is {found.distance_from_sum:.2g} "
            "of it away",
            hint="report this as a bug",
        )
    atomic.write_folder(output, lambda folder: _write(model, runs[0], found, folder))
    return found


def _problems(
    runs: Sequence[FinishedRun], output: Path, weights: Sequence[float]
) -> Iterator[Problem]:
    if output.exists():
        yield Problem(file=str(output), what="exists", hint="name a new folder")
    if len(runs) < 2:
        yield Problem(what="there is one adapter", hint="give two runs, or more")
    if len(weights) != len(runs):
        yield Problem(
            what=f"{len(weights)} weights for {len(runs)} adapters", hint="give one for each"
        )
    for run in runs:
        config = read_config(run.final) if run.has_adapter else {}
        if config.get("peft_type") != "LORA":
            yield Problem(
                file=str(run.path),
                what=f"holds {config.get('peft_type', 'a whole model')}, and only LoRA adapters "
                "can be combined",
                hint="merge each into its base, and combine the models by other means",
            )
        for name, value in PLAIN.items():
            if (config.get(name) or value) != value:
                yield Problem(
                    file=str(run.path),
                    what=f"its adapter has {name} {config[name]!r}, which would be left out",
                    hint="merge it into its base instead",
                )
    first = runs[0]
    for run in runs[1:]:
        if _base_of(run) != _base_of(first):
            yield Problem(
                file=str(run.path),
                what=f"was trained from another model, or with other tokens, than {first.path}",
                hint="combine adapters of one base",
            )


def _base_of(run: FinishedRun) -> tuple[object, ...]:
    source = run.recipe.model.source
    return source.fingerprint(), run.recipe.tokenizer.add_tokens


def _with_adapters(runs: Sequence[FinishedRun], names: Sequence[str]) -> Any:
    model: Any = runs[0].whole_model(torch.float32)
    with quiet():
        for run, name in zip(runs, names, strict=True):
            model = with_trained_adapter(model, run.final, name)
            # The combination takes these over, and must neither be scaled again nor start anew.
            config: Any = model.peft_config[name]
            config.use_rslora = False
            config.init_lora_weights = True
    return model


def _distance_from_sum(model: Any, names: Sequence[str], weights: Sequence[float]) -> float:
    from peft.tuners.lora import LoraLayer

    squares = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        layers: list[Any] = [one for one in model.modules() if isinstance(one, LoraLayer)]
        for layer in layers:
            parts: list[Any] = [
                weight * layer.get_delta_weight(name)
                for name, weight in zip(names, weights, strict=True)
                if name in layer.scaling
            ]
            wanted = torch.stack(parts).sum(0)
            off = layer.get_delta_weight("default") - wanted
            squares += torch.stack([off.double().square().sum(), wanted.double().square().sum()])
    return float((squares[0] / squares[1].clamp_min(1e-30)).sqrt())


def _write(model: Any, run: FinishedRun, found: Combination, folder: Path) -> None:
    final = folder / "final"
    with quiet():
        model.save_pretrained(str(final), selected_adapters=["default"], safe_serialization=True)
    run.tokenizer.save_pretrained(final)
    shutil.copy(run.final / "generation_config.json", final)
    # The recipe of the first run says which base and tokenizer it stands on.
    shutil.copy(run.path / "resolved.yaml", folder)
    shutil.copy(run.path / "plan.json", folder)
    text = json.dumps(asdict(found), indent=2) + "\n"
    (folder / "combination.json").write_text(text, encoding="utf-8")
