"""Some of the model's own weights are trained, the others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.targets import EMBEDDINGS, in_setting, unreadable_pattern
from framework.core.heads import HEAD_NAMES, head_of
from framework.core.linear_pattern import find_in_names
from framework.core.problems import Problem, UserError
from framework.core.settings import setting
from framework.recipe.heads import untrained_head

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe

NUM_NAMES_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Trains some of the model's own weights, by name, and freezes the others.

    A pattern is a regular expression for one or several whole parts of a weight's name:
    `layers.1` is `model.layers.1.mlp.up_proj.weight`, but not a weight of layer 10; `.*norm` is
    every normalisation.
    """

    trains_all_weights: ClassVar[bool] = True
    quantized_layers: ClassVar[frozenset[str]] = frozenset({"fake_quantized"})

    trainable: tuple[str, ...] = ()
    """Patterns of the weights that are trained. Neither these nor `last_layers`: all but
    `frozen`."""
    last_layers: int | None = setting(None, at_least=1)
    """So many layers, from the last, are trained too."""
    frozen: tuple[str, ...] = ()
    """Patterns of weights that are taken out of what the other two choose."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Patterns that can't be read, or settings that choose nothing."""
        unreadable = list(self._unreadable())
        yield from unreadable
        if not (self.trainable or self.frozen or self.last_layers):
            yield Problem(
                key="adapter",
                what="freeze doesn't say what is trained",
                hint="write `trainable: [lm_head]`, `last_layers: 2` or `frozen: [embed_tokens]`, "
                "or `adapter: full` to train everything",
            )
        if unreadable:
            return
        if head_of(recipe) is not None and not self._trains_any(HEAD_NAMES):
            yield untrained_head()
        added = recipe.tokenizer.add_tokens
        if added and not self._trains_embeddings():
            yield Problem(
                key=".trainable",
                what=f"tokenizer.add_tokens adds {len(added)} tokens, but their embeddings are "
                "frozen",
                hint=f"write `trainable: [{', '.join((*self.trainable, 'embed_tokens', 'lm_head'))}"
                "]`, and no pattern for them in `frozen`",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model itself, with gradients for what was chosen.

        Raises:
            UserError: a pattern fits no weight, there are fewer layers, or nothing is left to
                train.
        """
        from framework.models.layers import layers_of, own_weights

        weights = list(own_weights(model))
        names = tuple(name for several, _ in weights for name in several)
        problems = list(self._unmatched(names))
        layers = layers_of(model, "adapter.last_layers") if self.last_layers else None
        if layers and self.last_layers and self.last_layers > len(layers.modules):
            problems.append(
                Problem(
                    key="adapter.last_layers",
                    what=f"is {self.last_layers}, the model has {len(layers.modules)} layers",
                    hint=f"write a number up to {len(layers.modules)}",
                )
            )
        if problems:
            raise UserError(problems)
        first = len(layers.modules) - (self.last_layers or 0) if layers else None
        for several, weight in weights:
            numbers = [layers.number_of(name) for name in several] if layers else []
            in_last = any(one is not None and first is not None and one >= first for one in numbers)
            weight.requires_grad_(self._chooses(several, names, in_last))
        if not any(weight.requires_grad for _, weight in weights):
            raise UserError(
                Problem(
                    key="adapter.frozen",
                    what="freezes everything that is chosen: nothing is left to train",
                    hint="leave out a pattern of `frozen`",
                )
            )
        return model

    def merge(self, model: Module) -> PreTrainedModel:
        """The model itself."""
        from transformers import PreTrainedModel

        assert isinstance(model, PreTrainedModel), type(model).__name__
        return model

    def announced(self, model: Module) -> Iterator[str]:
        """What is trained, by name."""
        from framework.models.layers import own_weights, share_trained

        trained = ["=".join(names) for names, weight in own_weights(model) if weight.requires_grad]
        yield (
            f"freeze: {share_trained(model)} are trained, {len(trained)} weights: {_shown(trained)}"
        )

    def _chooses(self, own: tuple[str, ...], names: tuple[str, ...], in_last_layers: bool) -> bool:
        """Whether a weight is trained, whichever of its own names a pattern means.

        Args:
            names: of all weights.
        """
        chosen = in_last_layers or any(_fit(p, names).intersection(own) for p in self.trainable)
        everything = not self.trainable and self.last_layers is None
        taken_out = any(_fit(pattern, names).intersection(own) for pattern in self.frozen)
        return (chosen or everything) and not taken_out

    def _unmatched(self, names: tuple[str, ...]) -> Iterator[Problem]:
        for key, patterns in (("trainable", self.trainable), ("frozen", self.frozen)):
            for pattern in patterns:
                with in_setting(key):
                    found = _fit(pattern, names)
                if not found:
                    yield Problem(
                        key=f"adapter.{key}",
                        what=f"{pattern!r} fits no weight of the model",
                        hint=f"it has: {_shown(names)}",
                    )

    def _unreadable(self) -> Iterator[Problem]:
        for key, patterns in (("trainable", self.trainable), ("frozen", self.frozen)):
            for index, pattern in enumerate(patterns):
                yield from unreadable_pattern(f".{key}[{index}]", pattern)

    def _trains_embeddings(self) -> bool:
        """Going by the names that embeddings have in the models that transformers has."""
        names = [f"model.{name}.weight" for name in EMBEDDINGS]
        if any(_fit(pattern, (name,)) for pattern in self.frozen for name in names):
            return False
        return self._trains_any(EMBEDDINGS)

    def _trains_any(self, modules: Sequence[str]) -> bool:
        """Whether the weight of one of them is chosen."""
        names = [f"model.{name}.weight" for name in modules]
        return any(self._chooses((name,), (name,), in_last_layers=False) for name in names)


def _fit(pattern: str, names: tuple[str, ...]) -> frozenset[str]:
    return find_in_names(rf"(?:.*\.)?(?:{pattern})(?:\..*)?", names, whole=True)


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NUM_NAMES_SHOWN
    return ", ".join(names[:NUM_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
