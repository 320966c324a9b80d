"""Folder of a trained LoRA adapter -> what it holds, and how it differs from what a recipe asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.adapting.adapter_folder import (
    CONFIG,
    FOR_THE_MODEL_AS_IT_IS,
    WEIGHTS,
    read_config,
)
from framework.adapting.targets import ALL_LINEAR, Names, as_tuple, fitting, values_by_path
from framework.core.atomic import file_sha256
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import OnHub
from framework.core.registries import registry
from framework.recipe.document import read_document

if TYPE_CHECKING:
    from peft import PeftModel

    from framework.core.protocols.models import ModelSource

PREFIX = "base_model.model."
ROUTER = ".router."
"""Part of the names of what mixes adapters."""
MOST_SHOWN = 3
PLAIN: Mapping[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
"""Settings of an adapter that is nothing but updates of whole layers."""
HUB_CACHE = re.compile(r".*/models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]+/?")
"""Where the Hub's own cache keeps `owner/name`."""


@dataclass(frozen=True)
class TrainedAdapter:
    """A folder that peft wrote."""

    folder: Path
    config: Mapping[str, Any]
    """Of its adapter_config.json."""
    modules: tuple[str, ...]
    """Paths of the modules with an update, sorted."""

    @staticmethod
    def open(folder: Path, key: str) -> TrainedAdapter:
        """
        Args:
            key: where the recipe names it, for messages.

        Raises:
            UserError: the folder holds no LoRA adapter, or not all of it.
        """
        from safetensors import SafetensorError, safe_open

        if not (folder / CONFIG).is_file():
            raise UserError(_not_there(folder, key))
        try:
            config = read_config(folder, key)
            kind = config.get("peft_type")
            with safe_open(folder / WEIGHTS, framework="numpy") as file:
                names = list(file.keys())
        except (OSError, ValueError, AttributeError, SafetensorError) as error:
            raise UserError(
                Problem(
                    key=key,
                    what=f"the adapter in {str(folder)!r} can't be read: {error}",
                    hint=f"it must hold {CONFIG} and {WEIGHTS}, both whole",
                )
            ) from error
        if kind != "LORA":
            raise UserError(
                Problem(
                    key=key,
                    what=f"{str(folder)!r} holds an adapter of the kind {kind}, not LORA",
                    hint="name the folder of a LoRA adapter",
                )
            )
        start = config.get("init_lora_weights", True)
        if start not in FOR_THE_MODEL_AS_IT_IS:
            raise UserError(
                Problem(
                    key=key,
                    what=f"the adapter in {str(folder)!r} was saved for a model that its start "
                    f"{start!r} had changed, not for the model as it is",
                    hint="save it again with peft's `path_initial_model_for_weight_conversion`",
                )
            )
        paths = {name.split(".lora_")[0].removeprefix(PREFIX) for name in names if ".lora_" in name}
        return TrainedAdapter(folder, config, tuple(sorted(paths)))

    @property
    def _place(self) -> str:
        return repr(str(self.folder))

    @property
    def run(self) -> Path | None:
        """The run that it was trained in, as far as that is still around it."""
        return self.folder.parent if (self.folder.parent / "resolved.yaml").is_file() else None

    def fingerprint(self) -> str:
        """Hash of its weights."""
        return file_sha256(self.folder / WEIGHTS)

    def beside_the_update(self) -> Iterator[tuple[str, Any]]:
        """(setting, value) of everything that it has besides updates of layers."""
        for name, plain in PLAIN.items():
            value = self.config.get(name) or plain
            if value != plain:
                yield name, value

    def differing(self, asked: Mapping[str, Any]) -> Iterator[Problem]:
        """A problem for every setting whose value is another one than the adapter was trained with.

        Args:
            asked: name of a setting, in peft's words -> the recipe's value.
        """
        for name, value in asked.items():
            trained = self.config.get(name)
            if self._means(trained) != self._means(value):
                yield Problem(
                    key=f".{name}",
                    what=f"is {value}, and the adapter in {self._place} was trained with {trained}",
                    hint=f"write `{name}: {json.dumps(trained)}`",
                )

    def _means(self, value: Any) -> Any:
        """Ranks by patterns as ranks of modules: different patterns can say the same."""
        if isinstance(value, dict):
            value = values_by_path(value, self.modules)
        return value or None

    def elsewhere(self, targets: Names, excluded: Names) -> Iterator[Problem]:
        """Problems where the adapter has updates in other modules than the names say, as far as
        the names alone can tell."""
        if targets != ALL_LINEAR:
            for name in as_tuple(targets):
                if not fitting(targets, name, self.modules):
                    what = f"{name!r} fits no module that the adapter in {self._place} adapts"
                    yield self._elsewhere(what, ".target_modules")
            yield from self._left_out(set(self.modules) - self._fitting(targets), ".target_modules")
        yield from self._left_out(self._fitting(excluded), ".exclude_modules")

    def _fitting(self, names: Names) -> set[str]:
        return {path for name in as_tuple(names) for path in fitting(names, name, self.modules)}

    def _left_out(self, paths: set[str], key: str) -> Iterator[Problem]:
        if paths:
            what = f"leaves out {_listed(sorted(paths))}, which the adapter in {self._place} adapts"
            yield self._elsewhere(what, key)

    def _elsewhere(self, what: str, key: str) -> Problem:
        names = sorted({path.rpartition(".")[2] for path in self.modules})
        return Problem(key=key, what=what, hint=f"its modules are: {', '.join(names)}")

    def other_base(self, source: ModelSource, key: str) -> Problem | None:
        """A problem if it was trained over another model than `source`; None also where nothing
        says which one that was."""
        trained = self._base()
        if isinstance(trained, str):
            # Names of the Hub say something anywhere, paths only where they were written.
            named = source.repo if isinstance(source, OnHub) else None
            is_other = bool(trained and named) and named != trained
        else:
            is_other = trained != source and _differ(trained, source)
        if not is_other:
            return None
        return Problem(
            key=key,
            what=f"the adapter in {self._place} was trained over {trained}, and the "
            f"recipe's model is {source}",
            hint="write that model as `model.source`, or name an adapter of this one",
        )

    def _base(self) -> ModelSource | str:
        """The source that its run's recipe has, or a Hub name, empty where there is none."""
        if self.run is not None:
            return _written_source(self.run / "resolved.yaml")
        name = str(self.config.get("base_model_name_or_path") or "")
        cached = HUB_CACHE.fullmatch(name)
        name = f"{cached[1]}/{cached[2]}" if cached else name
        return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""


def _written_source(recipe: Path) -> ModelSource:
    document = read_document(recipe)
    try:
        written = document.values["model"]["source"]
        fields = {name: value for name, value in written.items() if name != "type"}
        return registry("model_sources").get(written["type"])(**fields)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        what = f"says no model that can be read: {error!r}"
        hint = "every run writes this file; name the adapter's folder without it"
        raise UserError(Problem(file=str(recipe), what=what, hint=hint)) from error


def _differ(one: ModelSource, other: ModelSource) -> bool:
    """False also where one of them is not there to be compared."""
    try:
        return one.fingerprint() != other.fingerprint()
    except UserError:
        return False


def put_into(model: PeftModel, name: str, folder: Path, key: str) -> None:
    """Gives the adapter `name` of the model the weights in `folder`.

    Raises:
        UserError: the two have other weights, or weights of other shapes.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    own = get_peft_model_state_dict(model, without_routers(model), name)
    trained = load_file(folder / WEIGHTS)
    problems = tuple(_unlike(own, trained, folder, key))
    if problems:
        raise UserError(problems)
    if any(value.is_meta for value in own.values()):
        return  # A model that is planned with has no numbers.
    set_peft_model_state_dict(model, trained, adapter_name=name)
    now = get_peft_model_state_dict(model, without_routers(model), name)
    assert all(torch.equal(now[one], value.to(now[one])) for one, value in trained.items()), folder


def without_routers(model: PeftModel) -> dict[str, Any]:
    """The weights of a model, but for those that mix its adapters and are part of none."""
    return {name: value for name, value in model.state_dict().items() if ROUTER not in name}


def _unlike(
    own: Mapping[str, Any], trained: Mapping[str, Any], folder: Path, key: str
) -> Iterator[Problem]:
    place = str(folder)
    missing, left_over = sorted(own.keys() - trained.keys()), sorted(trained.keys() - own.keys())
    if missing:
        yield Problem(
            key=key,
            what=f"the adapter in {place!r} lacks {_listed(missing)}, which this recipe's has",
            hint="write the target_modules and modules_to_save that it was trained with",
        )
    if left_over:
        yield Problem(
            key=key,
            what=f"the adapter in {place!r} holds {_listed(left_over)}, for which this recipe's "
            "has no place",
            hint="write the target_modules and modules_to_save that it was trained with, and "
            "its base as `model.source`",
        )
    for name in sorted(own.keys() & trained.keys()):
        ours, theirs = tuple(own[name].shape), tuple(trained[name].shape)
        if ours != theirs:
            yield Problem(
                key=key,
                what=f"{name} has the shape {theirs} in {place!r}, and {ours} in this recipe's "
                "adapter",
                hint="write the rank that it was trained with, and its base as `model.source`",
            )
            return


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _not_there(folder: Path, key: str) -> Problem:
    inner = folder / "final"
    if (inner / CONFIG).is_file():
        return Problem(
            key=key,
            what=f"{str(folder)!r} is the folder of a run",
            hint=f"write the adapter's own: `{inner}`",
        )
    what = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
    return Problem(
        key=key,
        what=f"adapter folder {str(folder)!r} {what}",
        hint="write a folder that a run's adapter was saved in, such as `./runs/first/final`",
    )
