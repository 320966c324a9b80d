"""Runs that are stopped go on bit for bit: every trainer, every way to feed it, every moment."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from conftest import read_rows, write_rows
from shipped_recipes import DEFAULTS, FOLDER, SLOTS, ShippedRecipe, shipped_recipes
from warm_start import run_group

from framework.core.problems import UserError
from framework.core.registries import registry
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from prove.rows import Row
from prove.runs import differences, listed, resumed_after
from prove.stopped_runs import PLACES, StoppedRun, train

NUM_STEPS, NUM_ROWS = 11, 24
NUM_PROCESSES = 2
"""Of the runs of more than one."""
NUM_ROWS_OF = {
    "classifier": 144,
    "regression": 144,
    "process_reward": 96,
    "grpo": 8,
    "rloo": 8,
    "ppo": 32,
    "pretrain": 16,
}
"""Trainer -> rows of each process with which some steps end an epoch and some don't, where they are
others."""
WAYS = {
    "packed": ["data.packing=true"],
    "unpacked": ["data.packing=false"],
    "streamed": ["data.streaming={buffer_rows: 7}"],
}
SIZES = {"packed": (2, 1), "unpacked": (4, 2), "streamed": (4, 2)}
"""Way -> batch of each process in a step, and in a pass."""
EVERY = [
    "checkpoint={every_steps: 4, keep_last: 2}",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=4",
    "evaluation.early_stopping=null",
    "trainer.lr_scheduler_type=cosine",
    "trainer.warmup_ratio=0.2",
]
ONLINE = ("grpo", "ppo", "rloo")
ONLINE_SIZES = (8, 4)
ONLINE_SETTINGS = [
    "trainer.rewards=[{type: exact_match, compare: starts_with}]",
    "trainer.max_new_tokens=3",
]
SHORT_PACKS = ["data.max_length=160"]
"""So that an epoch has several steps on two processes too."""
OWN_SETTINGS = {
    ("classifier", "packed"): SHORT_PACKS,
    ("regression", "packed"): SHORT_PACKS,
    ("dpo", "streamed"): ["trainer.precompute_reference=false"],
    # Between the steps on one batch of answers nothing is saved.
    ("ppo", "unpacked"): ["trainer.num_iterations=1"],
}
SHORT = ["data.max_length=256"]
"""For the recipe whose documents are longer than the tiny model reads."""
ANSWERS = [list("abcdefghijklm"), list("nopqrstuvwxyz")]
"""Letters that an answer may begin with: so many that a random model finds some."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A trainer, and how its data is fed."""

    trainer: str
    way: str
    recipe: str
    overrides: Sequence[str]

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"{self.trainer}-{self.way}"


def cells(folder: Path, model: Path, num_processes: int = 1) -> Iterator[Cell]:
    """All that no check refuses."""
    for trainer in registry("trainers").names():
        shipped = _shown_by(trainer)
        usual = shipped.overrides(model, Path("unused"), NUM_STEPS)
        usual = [one for one in usual if not one.startswith(("output.", "data."))]
        usual += [*EVERY, *_few_rows(folder, trainer, shipped, num_processes)]
        for way, settings in WAYS.items():
            sizes = ONLINE_SIZES if trainer in ONLINE else SIZES[way]
            overrides = [
                *usual,
                *settings,
                f"trainer.global_batch_size={num_processes * sizes[0]}",
                f"trainer.micro_batch_size={sizes[1]}",
                *(ONLINE_SETTINGS if trainer in ONLINE else ()),
                *([f"data.train.0.rows=:{num_processes * NUM_ROWS}"] if way == "unpacked" else ()),
                *OWN_SETTINGS.get((trainer, way), ()),
            ]
            cell = Cell(trainer=trainer, way=way, recipe=str(shipped.path), overrides=overrides)
            if not _is_refused(cell, num_processes):
                yield cell


def _few_rows(folder: Path, trainer: str, shipped: ShippedRecipe, num_processes: int) -> list[str]:
    """Overrides for the first rows of the recipe's data, in a file of their own."""
    path = folder / f"{trainer}.jsonl"
    num_rows = num_processes * NUM_ROWS_OF.get(trainer, NUM_ROWS)
    if trainer in ONLINE:
        rows = [{"prompt": f"Number {n}", "answer": ANSWERS[n % 2]} for n in range(num_rows)]
        write_rows(path, rows)
    elif trainer == "pretrain":
        text = (FOLDER.parent / "docs" / "concepts.md").read_text(encoding="utf-8")
        texts = folder / trainer
        texts.mkdir()
        for number in range(num_rows):
            piece = text[300 * number : 300 * (number + 1)]
            (texts / f"{number:02}.md").write_text(piece, encoding="utf-8")
        return [f"data.train.0.source.path={texts}/*.md", "evaluation.every_steps=null", *SHORT]
    else:
        datasets = shipped.written("data", "train")
        assert isinstance(datasets, list)
        source = shipped.path.parent / datasets[0]["source"]
        source = source if source.exists() else FOLDER / "quickstart" / "data" / "train.jsonl"
        write_rows(path, read_rows(source)[:num_rows])
    files = [f"data.{name}.0.source={path}" for name in ("train", "eval")]
    return [*files, "data.train.0.rows=null", "data.eval.0.rows=:3"]


def _shown_by(trainer: str) -> ShippedRecipe:
    """The recipe that shows a trainer."""
    recipes = [
        one
        for one in shipped_recipes()
        if (one.component(*SLOTS["trainers"]) or DEFAULTS["trainers"]) == trainer
    ]
    own = [one for one in recipes if str(one) == f"trainers/{trainer}"]
    plain = [one for one in recipes if str(one).startswith("smollm2/")]
    return (own or plain or recipes)[0]


def _is_refused(cell: Cell, num_processes: int) -> bool:
    world = World(num_processes=num_processes)
    try:
        make_plan(resolve_with_origins(cell.recipe, cell.overrides), world)
    except UserError:
        return True
    return False


def stops(run: Path) -> list[tuple[int, str]]:
    """Where a run is stopped: once in each of the places, so that it does some steps between."""
    epochs = [row["epoch"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]
    edges = {
        step
        for step, (before, now) in enumerate(zip([0.0, *epochs], epochs, strict=False), 1)
        if int(now + 1e-9) > int(before + 1e-9)
    }
    steps = set(range(1, len(epochs)))
    middle = min(steps - edges - {1})
    edge = min(step for step in steps & edges if step >= middle + 2)
    window = min(step for step in steps - edges if step >= edge + 2)
    return list(zip((middle, edge, window), PLACES, strict=True))


def run(folder: Path, model: Path, names: Sequence[str] = ()) -> Row:
    """Each cell untouched, and with a stop in every place.

    Args:
        names: the only cells, where not all are.
    """
    return _tried(folder, model, 1, names, "in one process", _wrong)


def run_together(
    folder: Path, model: Path, names: Sequence[str] = (), ways: Collection[str] = tuple(WAYS)
) -> Row:
    """The same on two processes, of which the second is told to stop.

    Args:
        ways: to feed the trainers.
    """
    where = f"on {NUM_PROCESSES} processes"
    return _tried(folder, model, NUM_PROCESSES, names, where, _wrong_together, ways)


def _tried(
    folder: Path,
    model: Path,
    num_processes: int,
    names: Sequence[str],
    where: str,
    wrong_in: Callable[[Cell, Path], list[str]],
    ways: Collection[str] = tuple(WAYS),
) -> Row:
    allowed = (cell for cell in cells(folder, model, num_processes) if cell.way in ways)
    chosen = [cell for cell in allowed if not names or cell.name in names]
    all_of_them = not names and set(ways) == set(WAYS)
    missing = set(registry("trainers").names()) - {cell.trainer for cell in chosen}
    failures = [f"{trainer}: refused in each way" for trainer in sorted(missing) if all_of_them]
    for cell in chosen:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                wrong = wrong_in(cell, folder / cell.name)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        failures += [f"{cell.name}: {one}" for one in wrong]
    num_trainers = len({cell.trainer for cell in chosen})
    return Row(
        f"Stop and go on, {where}: {num_trainers} trainers x {', '.join(ways)} "
        f"({len(chosen)} combinations that are allowed) x {', '.join(PLACES)}: metrics, sample ids "
        "and SHA-256 of the final weights as uninterrupted",
        len(chosen) * len(PLACES),
        len(failures),
        listed(failures),
    )


def _wrong(cell: Cell, whole: Path, rank: int = 0) -> list[str]:
    """What a run that is stopped in every place does otherwise.

    Args:
        rank: of the process that is told to stop.
    """
    cut = whole.with_name(f"{whole.name}-stopped")
    settings = {"recipe": cell.recipe, "overrides": cell.overrides, "rank": rank}
    train(StoppedRun(**settings, output_dir=str(whole)))
    expected = stops(whole)
    ends = train(StoppedRun(**settings, output_dir=str(cut), stops=expected))
    if not World.from_env().is_main:
        return []
    found = differences(cut, whole)
    if ends != [step for step, _ in expected]:
        found.append(f"stopped after {ends}, not {expected}")
    if resumed_after(cut) != ends:
        found.append(f"stopped after {ends}, went on after {resumed_after(cut)}")
    return found


def _wrong_together(cell: Cell, whole: Path) -> list[str]:
    """The same, by a group of processes that do nothing else."""
    asked, answer = whole.with_suffix(".cell.json"), whole.with_suffix(".wrong.json")
    asked.write_text(json.dumps(asdict(cell)), encoding="utf-8")
    arguments = ["--run", __file__, str(asked), str(whole), str(answer)]
    group = run_group(arguments, NUM_PROCESSES)
    # Its exit code is that of the run that it stopped last.
    if not answer.is_file():
        return [f"ended with {group.codes}: {group.output[-300:]}"]
    return json.loads(answer.read_text(encoding="utf-8"))


if __name__ == "__main__":
    asked, whole, answer = map(Path, sys.argv[1:])
    cell = Cell(**json.loads(asked.read_text(encoding="utf-8")))
    wrong = _wrong(cell, whole, rank=1)
    if World.from_env().is_main:
        answer.write_text(json.dumps(wrong), encoding="utf-8")
