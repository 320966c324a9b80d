"""A different half of each layer's weights is trained in each round."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Half:
    """Trains half of each layer at a time, and another half in the next round (HFT, Hui et al.
    2024, arXiv 2404.18466).

    Half of the attention's matrices, half of the feed-forward's and half of the norms of every
    layer are drawn; of an odd number one more in every other layer. A second round trains what the
    first left frozen, then halves are drawn anew. What is outside of layers, embeddings and output
    layer among it, is always trained. Frozen weights have no gradients, are not decayed and don't
    move.
    """

    trains_all_weights: ClassVar[bool] = True
    changes_trained_parameters: ClassVar[bool] = True

    round_steps: int | None = setting(100, at_least=1)
    """Optimizer steps of a round. None: the whole run is one round, so that half of the layers'
    weights stay those of the base model."""

    def apply(self, model: PreTrainedModel) -> Module:
        """The model itself, every parameter trainable.

        Raises:
            UserError: the model has no list of layers.
        """
        _units(model)
        return model.requires_grad_(True)

    def merge(self, model: Module) -> PreTrainedModel:
        """The model itself."""
        from transformers import PreTrainedModel

        assert isinstance(model, PreTrainedModel), type(model).__name__
        return model

    def announced(self, model: Module) -> Iterator[str]:
        """How much is trained at a time."""
        units = {unit for several in _units(model).values() for unit in several}
        sizes = {
            path: sum(one.numel() for one in model.get_submodule(path).parameters(recurse=False))
            for path in units
        }
        total = sum(one.numel() for one in model.parameters())
        at_a_time = total - sum(sizes.values()) // 2
        every = f"every {self.round_steps} steps" if self.round_steps else "once"
        yield (
            f"half: half of {len(units)} modules at a time, drawn {every}, and what is outside of "
            f"layers: about {at_a_time:,} of {total:,} parameters ({at_a_time / total:.1%})"
        )

    def before_step(self, model: Module, step: int, num_steps: int, seed: int) -> None:
        """Freezes the half that this step doesn't train."""
        groups = _units(model)
        trained = self.drawn(groups, step, seed)
        for units in groups.values():
            for path in units:
                for weight in model.get_submodule(path).parameters(recurse=False):
                    weight.requires_grad_(path in trained)

    def after_step(self, model: Module, step: int, num_steps: int) -> None:
        """Nothing."""

    def drawn(
        self, groups: Mapping[tuple[int, str], tuple[str, ...]], step: int, seed: int
    ) -> frozenset[str]:
        """Paths of the modules in layers that are trained in a step.

        Args:
            groups: (layer, kind) -> its modules.
        """
        number = 0 if self.round_steps is None else step // self.round_steps
        generator = random.Random(f"half {seed} {number // 2}")  # noqa: S311
        extra = generator.randrange(2)
        chosen: set[str] = set()
        for (layer, _), units in groups.items():
            size = (len(units) + (layer + extra) % 2) // 2
            chosen.update(generator.sample(units, size))
        everything = {unit for units in groups.values() for unit in units}
        return frozenset(everything - chosen if number % 2 else chosen)


def _units(model: Module) -> Mapping[tuple[int, str], tuple[str, ...]]:
    """(layer, kind) -> paths of the modules that hold weights: halves are halves of one kind.

    Vectors alone, as norms have them, are one kind; matrices are of the part of the layer that they
    are in, such as `self_attn`.
    """
    from framework.models.layers import layers_of

    layers = layers_of(model, "adapter")
    found: dict[tuple[int, str], list[str]] = {}
    for number, layer in enumerate(layers.modules):
        for path, module in layer.named_modules():
            weights = list(module.parameters(recurse=False))
            if weights:
                has_matrix = any(one.ndim > 1 for one in weights)
                kind = path.partition(".")[0] if has_matrix else ""
                found.setdefault((number, kind), []).append(f"{layers.path}.{number}.{path}")
    return {key: tuple(units) for key, units in found.items()}
