"""A combination of components -> whether it runs on a tiny model, or why it is refused."""

from __future__ import annotations

import functools
import json
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from quantized_checkpoints import fp8_checkpoint, says
from shipped_recipes import DEFAULTS, SLOTS, ShippedRecipe, shipped_recipes

from framework.core.heads import Scoring
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import Quantizes, ReadsCheckpoint
from framework.core.registries import registry
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import Resolved, resolve_with_origins
from framework.recipe.schema import Recipe

NONE = "none"
"""The quantizer of weights that are whole."""
DEFAULT_STRATEGY: str = vars(Recipe)["strategy"]
NUM_POSITIONS = 1024
"""Of the tiny model: longer than any shipped recipe's rows there, with virtual tokens."""
WITHOUT_EVALUATION = (
    "data.eval=[]",
    "evaluation.every_epochs=null",
    "evaluation.early_stopping=null",
)

Found = tuple[str, ...]
"""`RUNS`, `NEEDS_GPU`, or the reasons for which a cell is refused."""
RUNS: Found = ("runs",)
NEEDS_GPU: Found = ("needs GPU",)
LATE, FAILS = "REFUSED LATE: ", "FAILS: "
"""What the reasons of our own bugs begin with."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination, by the names of its components."""

    trainer: str = DEFAULTS["trainers"]
    adapter: str = "lora"
    quantizer: str = NONE
    optimizer: str = DEFAULTS["optimizers"]
    strategy: str = DEFAULT_STRATEGY


def is_bug(found: Found) -> bool:
    """Whether it is neither run nor refused in time."""
    return any(reason.startswith((LATE, FAILS)) for reason in found)


def make_models(tiny_model: Path, folder: Path) -> None:
    """What `Matrix` tries combinations on: the model, and for each quantizer that reads nothing
    else, the model as if it had been quantised before.

    Args:
        tiny_model: folder of a model in Hugging Face layout.
    """
    whole = shutil.copytree(tiny_model, folder / NONE)
    config = whole / "config.json"
    written = json.loads(config.read_text(encoding="utf-8"))
    written["max_position_embeddings"] = NUM_POSITIONS
    config.write_text(json.dumps(written), encoding="utf-8")
    for name in registry("quantizers").names():
        kind = registry("quantizers").get(name)
        if issubclass(kind, ReadsCheckpoint) and not issubclass(kind, Quantizes):
            quantised = shutil.copytree(whole, folder / name)
            CHECKPOINTS.get(name, functools.partial(says, quant_method=name))(quantised)


class Matrix:
    """Tries combinations on tiny models; in several processes, the same ones in all of them.

    Args:
        folder: with what `make_models` made; recipes and runs are written there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._world = World.from_env()
        self._number = 0
        self._recipes = shipped_recipes()
        self._shown_by: dict[tuple[str, str], ShippedRecipe] = {}

    def outcome(self, cell: Cell, *, is_known_to_run: bool = False) -> Found:
        """What happens to a run of one step, from its recipe to the saved model.

        Args:
            is_known_to_run: if nothing speaks against its recipe, it is not run again.
        """
        self._number += 1
        path, overrides = self._written(cell)
        try:
            resolved = resolve_with_origins(path, overrides)
        except UserError as error:
            return self._reasons(error, cell)
        if is_known_to_run:
            return RUNS
        try:
            _run(resolved, self._world)
        except UserError as error:
            late = self._reasons(error, cell)
            return late if late == NEEDS_GPU else tuple(LATE + reason for reason in late)
        except Exception as error:
            traceback.print_exc()
            return (f"{FAILS}{type(error).__name__}: {error}".split("\n", 1)[0],)
        finally:
            if self._world.is_main:
                shutil.rmtree(self._output, ignore_errors=True)
        return RUNS

    def _written(self, cell: Cell) -> tuple[Path, list[str]]:
        """The recipe of a cell and the overrides that make it small."""
        base = self._shipped("trainers", cell.trainer)
        adapter = self._shipped("adapters", cell.adapter)
        optimizer = self._shipped("optimizers", cell.optimizer)
        # Of a recipe that only happens to have the component, nothing else is meant.
        parts = [
            one for one in (adapter, optimizer) if str(one).startswith(("adapters/", "optimizers/"))
        ]
        others: dict[str, Any] = {
            "adapter": self._adapter(cell, adapter),
            "strategy": self._strategy(cell.strategy),
        }
        if cell.optimizer != DEFAULTS["optimizers"]:
            others["trainer"] = _optimized(optimizer)
        if cell.quantizer != NONE:
            quantizer = self._shipped("quantizers", cell.quantizer)
            parts.append(quantizer)
            others["model"] = {"quantization": quantizer.written("model", "quantization")}
        model = self._folder / cell.quantizer
        path = self._folder / f"cell-{self._world.rank}.yaml"
        path.write_text(yaml.safe_dump({"extends": str(base.path), **others}), encoding="utf-8")
        model = model if model.is_dir() else self._folder / NONE
        overrides = base.overrides(model, self._output, num_steps=1, parts=parts)
        batch = _batch(cell.trainer, self._world.num_processes)
        return path, [*overrides, *WITHOUT_EVALUATION, *batch]

    def _adapter(self, cell: Cell, shipped: ShippedRecipe) -> object:
        written = shipped.written("adapter") or cell.adapter
        has_head = issubclass(registry("trainers").get(cell.trainer), Scoring)
        if has_head and isinstance(written, dict) and "trainable" in written:
            return {**written, "trainable": [*written["trainable"], "score"]}
        return written

    def _strategy(self, name: str) -> object:
        if name == DEFAULT_STRATEGY:
            return name
        having = [one for one in self._recipes if one.component("strategy") == name]
        return having[0].written("strategy") if having else name

    @property
    def _output(self) -> Path:
        return self._folder / f"run-{self._number}"

    def _shipped(self, kind: str, name: str) -> ShippedRecipe:
        """The recipe that shows a component: its own, or the plainest that has it."""
        if (kind, name) not in self._shown_by:
            self._shown_by[kind, name] = self._showing(kind, name, SLOTS[kind])
        return self._shown_by[kind, name]

    def _showing(self, kind: str, name: str, keys: tuple[str, ...]) -> ShippedRecipe:
        own = [one for one in self._recipes if str(one) == f"{kind}/{name}"]
        having = [
            one for one in self._recipes if (one.component(*keys) or DEFAULTS.get(kind)) == name
        ]
        plain = [one for one in having if str(one).startswith("smollm2/")]
        assert own or having, f"no shipped recipe has the {kind} component {name}"
        return (own or plain or having)[0]

    def _reasons(self, error: UserError, cell: Cell) -> Found:
        texts = sorted({self._text(problem, cell) for problem in error.problems})
        return NEEDS_GPU if any("needs a GPU" in text for text in texts) else tuple(texts)

    def _text(self, problem: Problem, cell: Cell) -> str:
        """What is said, in words that are the same for all cells with the same fault."""
        what = problem.what.replace(str(self._folder), "")
        for name, words in (
            (f"`quantization: {cell.quantizer}`", "this quantizer"),
            (f"`{cell.quantizer}`", "this quantizer"),
            (f"`{cell.adapter}`", "this adapter"),
        ):
            what = what.replace(name, words)
        text = f"`{problem.key}` {what}" + (f"; {problem.hint}" if problem.hint else "")
        return " ".join(text.split())


CHECKPOINTS: Mapping[str, Any] = {"fp8": fp8_checkpoint}
"""Quantizer -> what makes a folder of whole weights one of its own; others only say they are."""


def _batch(trainer: str, num_processes: int) -> tuple[str, ...]:
    """Two samples for each process; what learns from its own answers has its own numbers."""
    if hasattr(registry("trainers").get(trainer), "learner"):
        return ()
    return ("trainer.micro_batch_size=2", f"trainer.global_batch_size={2 * num_processes}")


def _optimized(shipped: ShippedRecipe) -> dict[str, Any]:
    """The optimizer of a recipe, with the schedule that it may demand."""
    found = {"optimizer": shipped.written("trainer", "optimizer")}
    schedule = shipped.written("trainer", "lr_scheduler_type")
    return found | ({"lr_scheduler_type": schedule} if schedule else {})


def _run(resolved: Resolved, world: World) -> None:
    from framework.data.prepared import prepare_data
    from framework.data.reference import fetch_reference
    from framework.distributed.peers import Peers
    from framework.engine.first_samples import first_batches
    from framework.engine.fit import fit
    from framework.models.load import load_bundle
    from framework.runs.run_directory import open_run

    plan = make_plan(resolved, world)
    with open_run(plan) as directory:
        data = prepare_data(plan.recipe)
        fetch_reference(plan.recipe, data)
        begin = functools.partial(first_batches, plan, data)
        bundle = load_bundle(plan, data.model_path, data.tokenizer, begin)
        fit(plan, data, bundle, directory, Peers(world, None))
