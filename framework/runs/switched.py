"""Trained adapters of one base -> one model that answers with any of them, or with none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.adapting.adapter_folder import with_trained_adapter
from framework.adapting.trained_adapter import TrainedAdapter
from framework.core.problems import Problem, UserError, did_you_mean
from framework.models.quiet import quiet

if TYPE_CHECKING:
    from torch import dtype as torch_dtype

    from framework.runs.trained import FinishedRun

NONE = "none"
"""What the base alone is called."""


@dataclass(kw_only=True)
class SwitchedModel:
    """A base with adapters, of which one at a time changes it."""

    model: Any
    names: tuple[str, ...]
    chosen: str
    """One of the names, or `none`."""

    def switch(self, name: str) -> None:
        """
        Raises:
            UserError: no adapter is called so.
        """
        if name not in (*self.names, NONE):
            hint = did_you_mean(name, (*self.names, NONE))
            raise UserError(f"no adapter is called {name!r}", hint=hint)
        if name != NONE:
            self.model.set_adapter(_in_peft(self.names.index(name)), inference_mode=True)
        self.chosen = name

    @contextmanager
    def answering(self) -> Iterator[Any]:
        """The model as it was chosen."""
        if self.chosen != NONE:
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model


def adapter_folder(path: Path) -> Path:
    """`RUN/final` of a run, any other folder as it is."""
    return path / "final" if (path / "resolved.yaml").is_file() else path


def load_switched(
    run: FinishedRun, folders: Sequence[Path], dtype: torch_dtype, device: str
) -> SwitchedModel:
    """The base of `run` with the adapters in the folders, the first of them chosen.

    Raises:
        UserError: a folder holds no LoRA adapter, or one of another base.
    """
    adapters = tuple(_opened(run, folders))
    names = _names(adapters)
    model: Any = run.base_model(dtype, device)
    for number, adapter in enumerate(adapters):
        with quiet():
            model = with_trained_adapter(model, adapter.folder, _in_peft(number))
    return SwitchedModel(model=model.eval(), names=names, chosen=names[0])


def _opened(run: FinishedRun, folders: Sequence[Path]) -> Iterator[TrainedAdapter]:
    problems: list[Problem] = []
    for folder in folders:
        try:
            adapter = TrainedAdapter.open(folder, "--adapter")
        except UserError as error:
            problems += error.problems
            continue
        other_base = adapter.other_base(run.recipe.model.source, "--adapter")
        problems += [other_base] if other_base else []
        yield adapter
    if problems:
        raise UserError(problems)


def _in_peft(number: int) -> str:
    """A name of which no other one, and no part of a parameter's name, is a part."""
    return f"switched{number:03d}"


def _names(adapters: Sequence[TrainedAdapter]) -> tuple[str, ...]:
    """Of its run, or of its folder; numbered where several have the same."""
    names: list[str] = []
    for adapter in adapters:
        name = (adapter.run or adapter.folder).resolve().name
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return tuple(names)
