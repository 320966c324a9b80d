"""Model -> the list of its layers, and which weights belong to each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.nn import Module, ModuleList, Parameter

from framework.core.problems import Problem, UserError


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers that a model runs one after the other."""

    path: str
    """Name of the list in the model, such as `model.layers`."""
    modules: tuple[Module, ...]

    def number_of(self, name: str) -> int | None:
        """The layer, from 0, that a weight of this name is in; None outside of layers."""
        if not name.startswith(f"{self.path}."):
            return None
        return int(name[len(self.path) + 1 :].split(".", 1)[0])


def layers_of(model: Module, key: str) -> Layers:
    """The longest list of modules; lists inside of layers, such as experts, don't count.

    Args:
        key: the setting that asks, for the message.

    Raises:
        UserError: the model has no such list.
    """
    found: list[Layers] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{one.path}.") for one in found)
        if isinstance(module, ModuleList) and not inside:
            found.append(Layers(path=path, modules=tuple(module)))
    if not found:
        raise UserError(
            Problem(
                key=key,
                what=f"{type(model).__name__} has no list of layers",
                hint="remove it: this architecture can't be taken layer by layer",
            )
        )
    return max(found, key=lambda one: len(one.modules))


def own_weights(model: Module) -> Iterator[tuple[tuple[str, ...], Parameter]]:
    """(all names of a weight, the weight); a weight that is tied to another has two."""
    names: dict[int, list[str]] = {}
    weights: dict[int, Parameter] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
        weights[id(weight)] = weight
    for key, weight in weights.items():
        yield tuple(names[key]), weight


def share_trained(model: Module) -> str:
    """`N of M parameters (P%)`, by what has `requires_grad` now."""
    weights = list(model.parameters())
    trained = sum(one.numel() for one in weights if one.requires_grad)
    total = sum(one.numel() for one in weights)
    return f"{trained:,} of {total:,} parameters ({trained / total:.1%})"
