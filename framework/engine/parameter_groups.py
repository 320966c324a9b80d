"""Trained parameters -> optimizer groups: rate, weight decay and kind of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.nn import Embedding, Module, ModuleList, Parameter

from framework.core.linear_pattern import find_in_names
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import Adapter, RatingParameters
from framework.recipe.schema import ParameterGroup, Trainer

NUM_NAMES_SHOWN = 4


def parameter_groups(model: Module, trainer: Trainer, adapter: Adapter) -> list[dict[str, Any]]:
    """Groups as PyTorch's optimizers take them, each with `params`, `lr`, `weight_decay`, and

    - `name`: what it is called in reports,
    - `hidden`: whether all of it are matrices inside layers, which some optimizers treat apart.

    Matrices decay; norms, biases and embeddings don't, where no pattern says otherwise. A weight
    that is tied to another stands once, under the name that comes first.

    Raises:
        UserError: a pattern fits no trained parameter, or there are no layers to tell apart.
    """
    trained = tuple(_trained(model))
    layers = _layers(model)
    names = tuple(one.name for one in trained)
    matches = _matches(names, trainer.parameter_groups)
    problems = [*_unmatched(names, trainer.parameter_groups, matches)]
    if trainer.layer_decay is not None and layers is None:
        problems.append(_no_layers(model))
    if problems:
        raise UserError(problems)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in trained:
        index = matches.get(one.name)
        written = None if index is None else trainer.parameter_groups[index]
        group = _group_of(one, written, layers, trainer, adapter)
        found = groups.setdefault(tuple(group.values()), {**group, "params": []})
        found["params"].append(one.parameter)
    return list(groups.values())


def described_groups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each group is, without its parameters: for `plan.json` and the report."""
    return [
        {
            "name": group["name"],
            "learning_rate": float(group["lr"]),
            "weight_decay": group["weight_decay"],
            "num_tensors": len(group["params"]),
            "num_parameters": sum(one.numel() for one in group["params"]),
        }
        for group in groups
    ]


@dataclass(frozen=True, kw_only=True)
class _Trained:
    name: str
    parameter: Parameter
    in_embedding: bool


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """The list of the model's layers."""

    path: str
    number: int

    def depth(self, one: _Trained) -> int:
        """0: embeddings; 1: the first layer; one more than layers: what follows them."""
        if one.name.startswith(f"{self.path}."):
            return 1 + int(one.name[len(self.path) + 1 :].split(".", 1)[0])
        return 0 if one.in_embedding else self.number + 1


def _trained(model: Module) -> Iterator[_Trained]:
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield _Trained(
                    name=f"{path}.{name}" if path else name,
                    parameter=parameter,
                    in_embedding=isinstance(module, Embedding),
                )


def _layers(model: Module) -> _Layers | None:
    """The longest list of modules; lists inside of layers, such as experts, don't count."""
    found: list[_Layers] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{one.path}.") for one in found)
        if isinstance(module, ModuleList) and not inside:
            found.append(_Layers(path=path, number=len(module)))
    return max(found, key=lambda one: one.number, default=None)


def _group_of(
    one: _Trained,
    written: ParameterGroup | None,
    layers: _Layers | None,
    trainer: Trainer,
    adapter: Adapter,
) -> dict[str, Any]:
    """Everything that the parameter's group has besides parameters.

    Args:
        written: the recipe's first group whose pattern fits.
    """
    is_matrix = one.parameter.ndim >= 2 and not one.in_embedding
    depth = 0 if layers is None else layers.depth(one)
    inside = layers is not None and 1 <= depth <= layers.number
    # A vector that is held as a matrix of one row has nothing to orthogonalise or to project.
    hidden = inside and one.parameter.ndim == 2 and min(one.parameter.shape) > 1 and is_matrix
    if is_matrix:
        words = ["hidden matrices" if hidden else "other matrices"]
    else:
        words = ["norms, biases and embeddings"]
    ratio = 1.0
    if isinstance(adapter, RatingParameters):
        ratio = adapter.learning_rate_ratio(one.name)
        words += [f"rate x {ratio:g}"] if ratio != 1 else []
    if trainer.layer_decay is not None and layers is not None:
        ratio *= trainer.layer_decay ** (layers.number + 1 - depth)
        words.insert(0, f"layer {depth - 1}" if inside else "outside of layers")
    rate, decay = trainer.learning_rate * ratio, trainer.weight_decay if is_matrix else 0.0
    if written is not None:
        words.insert(0, f"/{written.pattern}/")
        rate *= written.learning_rate_ratio or 1.0
        rate = rate if written.learning_rate is None else written.learning_rate
        decay = decay if written.weight_decay is None else written.weight_decay
    return {"lr": rate, "weight_decay": decay, "name": ", ".join(words), "hidden": hidden}


def _key(index: int) -> str:
    return f"trainer.parameter_groups[{index}].pattern"


def _matches(names: tuple[str, ...], groups: Sequence[ParameterGroup]) -> dict[str, int]:
    """Name -> the first group whose pattern fits it."""
    found: dict[str, int] = {}
    for index, group in enumerate(groups):
        try:
            fitting = find_in_names(group.pattern, names)
        except UserError as error:
            raise UserError([replace(one, key=_key(index)) for one in error.problems]) from error
        for name in fitting:
            found.setdefault(name, index)
    return found


def _unmatched(
    names: tuple[str, ...], groups: Sequence[ParameterGroup], matches: Mapping[str, int]
) -> Iterator[Problem]:
    """Patterns that would do nothing: they fit no parameter, or only those of earlier patterns."""
    taken = set(matches.values())
    for index, group in enumerate(groups):
        if index in taken:
            continue
        fitting = find_in_names(group.pattern, names)
        if fitting:
            shown = _shown([name for name in names if name in fitting])
            yield Problem(
                key=_key(index),
                what=f"{group.pattern!r} fits only parameters that an earlier pattern took: "
                f"{shown}",
                hint="write it before that one: the first pattern that fits counts",
            )
        else:
            yield Problem(
                key=_key(index),
                what=f"{group.pattern!r} fits none of the {len(names)} trained parameters",
                hint=f"they are called {_shown(names)}; of tied weights the first name counts",
            )


def _shown(names: Sequence[str]) -> str:
    if len(names) <= NUM_NAMES_SHOWN:
        return ", ".join(names)
    step = (len(names) - 1) // (NUM_NAMES_SHOWN - 1)
    chosen = [names[0], names[step], names[2 * step], names[-1]]
    return ", ".join(chosen) + ", ..."


def _no_layers(model: Module) -> Problem:
    return Problem(
        key="trainer.layer_decay",
        what=f"{type(model).__name__} has no list of layers",
        hint="remove it, and write `parameter_groups` with patterns",
    )
