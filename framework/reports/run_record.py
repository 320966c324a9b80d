"""Run directory -> what it records, as far as it is there and can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from framework.core.evaluation import Answer, Evaluation
from framework.core.json_lines import left_out_lines, read_rows

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the recipe."""

    key: str
    value: str
    origin: str
    documentation: str


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What the model said to a held-out row on the way."""

    step: int
    row: int
    answer: str


@dataclass(frozen=True, kw_only=True)
class DatasetCounts:
    """What became of one dataset's rows; see `framework.data.counts.Counts`."""

    name: str
    num_rows: int
    num_samples: int
    num_tokens: int
    num_trained_tokens: int
    num_skipped_rows: int
    num_over_length_rows: int
    num_untrained_rows: int
    skipped_rows: tuple[str, ...]
    over_length_rows: tuple[str, ...]
    untrained_rows: tuple[str, ...]
    num_cut_rows: int
    num_split_rows: int
    num_dropped_rows: int
    num_cut_answers: int
    num_lost_trained_tokens: int
    dropped_rows: tuple[str, ...]
    cut_answer_rows: tuple[str, ...]
    dropped_parts: tuple[str, ...]

    @property
    def trained_share(self) -> float:
        """Trained tokens per token."""
        return self.num_trained_tokens / max(self.num_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class MixedDataset:
    """What one dataset is of an epoch; see `framework.data.mix.Realised`."""

    name: str
    asked: float | None
    realised: float
    num_samples: int
    num_unused_samples: int
    passes: float


@dataclass(frozen=True, kw_only=True)
class SplitDataset:
    """Rows of a dataset on each side of `data.split`."""

    name: str
    num_train_rows: int
    num_eval_rows: int
    num_test_rows: int


@dataclass(frozen=True, kw_only=True)
class PreparedPart:
    """The numbers of `data.train` or `data.eval`."""

    name: str
    datasets: tuple[DatasetCounts, ...]
    packing_efficiency: float | None
    num_shared_tokens: int
    """In common with others of a pack, which computes them once."""
    edges: tuple[float, ...]
    """Lengths in tokens, one more than `counts`; empty when no histogram was written."""
    counts: tuple[float, ...]
    mixing_unit: str
    """What the shares of `mixed` are shares of."""
    mixed: tuple[MixedDataset, ...]
    """Empty where every sample stands once in an epoch."""
    splits: tuple[SplitDataset, ...]
    """Datasets of which `data.split` holds out a part."""


@dataclass(frozen=True, kw_only=True)
class OptimizerGroup:
    """Parameters that share a rate and a weight decay."""

    name: str
    learning_rate: float
    weight_decay: float
    num_tensors: int
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class SeenSamples:
    """The samples of one optimizer step."""

    ids: tuple[str, ...] = ()
    losses: tuple[float | None, ...] | None = None
    """Of each of them, None for one that was no number; None: the trainer has no such losses, or
    the run was made before they were written down."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that a run wrote about itself. What is not there is empty, or None."""

    path: Path
    metrics: tuple[Mapping[str, Any], ...]
    """Rows of training steps and of evaluations, in order."""
    settings: tuple[Setting, ...]
    environment: Mapping[str, Any]
    parts: tuple[PreparedPart, ...]
    groups: tuple[OptimizerGroup, ...]
    """Of `plan.json`; empty where it lists none."""
    planned_bytes: int | None
    """What `plan.json` says that a process holds at most; None where nothing is planned."""
    planned_step_seconds: tuple[float, float] | None
    """From a good run to a poor one, as `plan.json` says; None where nothing is planned."""
    before: tuple[Evaluation, ...]
    after: tuple[Evaluation, ...]
    generations: tuple[Generation, ...]
    result: Mapping[str, Any]
    faults: tuple[str, ...]
    """Files, or lines of them, that are there and can't be read."""

    def value(self, key: str) -> str:
        """A recipe key's value, empty when the run did not write it down."""
        return next((setting.value for setting in self.settings if setting.key == key), "")

    def number(self, name: str) -> float | None:
        """A number of `result.json`, None when it has none of this name."""
        value = self.result.get(name)
        return value if isinstance(value, (int, float)) else None

    def samples(self, steps: set[int] | None = None) -> dict[int, SeenSamples]:
        """Which samples these steps saw, or all; read when asked, since the file is long."""
        found, _ = read_rows(self.path / "samples.jsonl")
        return {
            row["step"]: SeenSamples(
                ids=tuple(str(one) for one in row.get("ids", ())),
                losses=None if row.get("losses") is None else tuple(row["losses"]),
            )
            for row in found
            if steps is None or row.get("step") in steps
        }


def read_run(path: Path) -> RunRecord:
    """The record of the run in folder `path`; a missing or broken file never raises."""
    reader = _Reader(path)
    return RunRecord(
        path=path,
        metrics=reader.rows("metrics.jsonl", dict),
        settings=reader.items("provenance.json", _setting),
        environment=reader.value("environment.json", dict, {}),
        parts=reader.value("preparation.json", _parts, ()),
        groups=reader.value("plan.json", _groups, ()),
        planned_bytes=reader.value("plan.json", _planned_bytes, None),
        planned_step_seconds=reader.value("plan.json", _planned_step_seconds, None),
        before=reader.items("evaluations_before.json", _evaluation),
        after=reader.items("evaluations_after.json", _evaluation),
        generations=reader.rows("generations.jsonl", _generation),
        result=reader.value("result.json", dict, {}),
        faults=tuple(reader.faults),
    )


def _planned_bytes(plan: Mapping[str, Any]) -> int | None:
    planned = plan.get("planned_memory")
    return None if planned is None else int(planned["peak_bytes_per_device"])


_WRONG = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading a file ends in that is not as a run wrote it."""


def _planned_step_seconds(plan: Mapping[str, Any]) -> tuple[float, float] | None:
    planned = plan.get("planned_time")
    if planned is None:
        return None
    fast, slow = planned["step_seconds"]
    return float(fast), float(slow)


@dataclass(frozen=True)
class _Reader:
    folder: Path
    faults: list[str] = field(default_factory=list)

    def value(self, name: str, make: Callable[[Any], T], missing: T) -> T:
        """A JSON file's content as `make` reads it."""
        path = self.folder / name
        if not path.is_file():
            return missing
        try:
            return make(json.loads(path.read_text(encoding="utf-8")))
        except _WRONG as error:
            self.faults.append(f"{name} can't be read: {error!r}")
            return missing

    def items(self, name: str, make: Callable[[Any], T]) -> tuple[T, ...]:
        """A JSON file that holds a list."""
        return self.value(name, lambda written: tuple(make(item) for item in written), ())

    def rows(self, name: str, make: Callable[[Any], T]) -> tuple[T, ...]:
        """A JSON Lines file."""
        found, broken = read_rows(self.folder / name)
        self.faults.extend(left_out_lines(self.folder / name, broken))
        try:
            return tuple(make(row) for row in found)
        except _WRONG as error:
            self.faults.append(f"{name} can't be read: {error!r}")
            return ()


def _setting(written: Mapping[str, Any]) -> Setting:
    setting = Setting(**{name: str(value) for name, value in written.items()})
    if "${oc.env:" in setting.origin:
        # A report is passed around; what came from the environment may be a secret.
        return Setting(
            key=setting.key,
            value="(from the environment, not shown)",
            origin=setting.origin,
            documentation=setting.documentation,
        )
    return setting


def _evaluation(written: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        metric=str(written["metric"]),
        value=float(written["value"]),
        answers=tuple(
            Answer(
                prompt=str(answer["prompt"]),
                expected=str(answer["expected"]),
                answer=str(answer["answer"]),
                correct=bool(answer["correct"]),
            )
            for answer in written["answers"]
        ),
        evaluator=written.get("evaluator"),
    )


def _generation(written: Mapping[str, Any]) -> Generation:
    return Generation(
        step=int(written["step"]), row=int(written["row"]), answer=str(written["answer"])
    )


def _groups(written: Mapping[str, Any]) -> tuple[OptimizerGroup, ...]:
    return tuple(
        OptimizerGroup(
            name=str(one["name"]),
            learning_rate=float(one["learning_rate"]),
            weight_decay=float(one["weight_decay"]),
            num_tensors=int(one["num_tensors"]),
            num_parameters=int(one["num_parameters"]),
        )
        for one in written.get("parameter_groups", ())
    )


def _parts(written: Mapping[str, Any]) -> tuple[PreparedPart, ...]:
    return tuple(_part(name, details) for name, details in written.items() if details is not None)


def _part(name: str, details: Mapping[str, Any]) -> PreparedPart:
    efficiency = details.get("packing_efficiency")
    histogram = details.get("length_histogram") or {"edges": (), "counts": ()}
    mixing = details.get("mixing") or {"unit": "", "datasets": ()}
    mixed = tuple(_mixed(one) for one in mixing["datasets"])
    return PreparedPart(
        name=name,
        datasets=tuple(_counts(dataset) for dataset in details["datasets"]),
        packing_efficiency=None if efficiency is None else float(efficiency),
        num_shared_tokens=int(details.get("num_shared_tokens") or 0),
        edges=tuple(float(edge) for edge in histogram["edges"]),
        counts=tuple(float(count) for count in histogram["counts"]),
        mixing_unit=str(mixing["unit"]).replace("_", " "),
        mixed=mixed if any(one.asked is not None or one.passes != 1.0 for one in mixed) else (),
        splits=tuple(
            _split(source, numbers)
            for source, numbers in (details.get("sources") or {}).items()
            if name == "train" and "num_eval_rows" in numbers
        ),
    )


def _split(name: str, numbers: Mapping[str, Any]) -> SplitDataset:
    return SplitDataset(
        name=name,
        num_train_rows=int(numbers["num_train_rows"]),
        num_eval_rows=int(numbers["num_eval_rows"]),
        num_test_rows=int(numbers["num_test_rows"]),
    )


def _mixed(written: Mapping[str, Any]) -> MixedDataset:
    asked = written["asked"]
    return MixedDataset(
        name=str(written["name"]),
        asked=None if asked is None else float(asked),
        realised=float(written["realised"]),
        num_samples=int(written["num_samples"]),
        num_unused_samples=int(written["num_unused_samples"]),
        passes=float(written["passes"]),
    )


def _counts(written: Mapping[str, Any]) -> DatasetCounts:
    return DatasetCounts(
        name=str(written["name"]),
        num_rows=int(written["num_rows"]),
        num_samples=int(written["num_samples"]),
        num_tokens=int(written["num_tokens"]),
        num_trained_tokens=int(written["num_trained_tokens"]),
        num_skipped_rows=int(written["num_skipped_rows"]),
        num_over_length_rows=int(written["num_over_length_rows"]),
        num_untrained_rows=int(written["num_untrained_rows"]),
        skipped_rows=tuple(map(str, written["skipped_rows"])),
        over_length_rows=tuple(map(str, written["over_length_rows"])),
        untrained_rows=tuple(map(str, written["untrained_rows"])),
        num_cut_rows=int(written.get("num_cut_rows", 0)),
        num_split_rows=int(written.get("num_split_rows", 0)),
        num_dropped_rows=int(written.get("num_dropped_rows", 0)),
        num_cut_answers=int(written.get("num_cut_answers", 0)),
        num_lost_trained_tokens=int(written.get("num_lost_trained_tokens", 0)),
        dropped_rows=tuple(map(str, written.get("dropped_rows", ()))),
        cut_answer_rows=tuple(map(str, written.get("cut_answer_rows", ()))),
        dropped_parts=tuple(map(str, written.get("dropped_parts", ()))),
    )
