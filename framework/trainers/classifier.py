"""Classification: a conversation or a text, and which class it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.heads import Head
from framework.core.problems import Problem, did_you_mean
from framework.core.protocols.training import Chat
from framework.core.samples import Classified, RowError, Sample
from framework.core.settings import setting
from framework.recipe.heads import head_conflicts

if TYPE_CHECKING:
    from torch import Tensor

    from framework.recipe.schema import Recipe

_RIGHT = "rows of the class that were found: "
_NAMED = "rows of the class, and rows that are said to be: "
_COUNTS = (_RIGHT, _NAMED)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Learns which of several classes a conversation or a text belongs to.

    The model's head reads the last token; `final/` is a sequence classification model.
    """

    labels: tuple[str, ...] = setting(not_empty=True)
    """The classes, as rows write them, in the order of the model's outputs."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Part of each label that is spread evenly over the classes."""
    class_weights: dict[str, float] = field(default_factory=dict)
    """How much rows of a class count, 1 where nothing is written: `{rare: 5}`."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Classified,)
    packs: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Classes that are no classes, and what a model with a head can't do."""
        yield from head_conflicts(recipe)
        if len(set(self.labels)) < len(self.labels) or len(self.labels) < 2:
            yield Problem(
                key=".labels",
                what=f"{', '.join(self.labels)} are not two or more different classes",
                hint="write labels: [good, bad]",
            )
        for name, weight in self.class_weights.items():
            if name not in self.labels:
                hint = did_you_mean(name, self.labels)
                yield Problem(key=".class_weights", what=f"{name!r} is no class", hint=hint)
            if not weight > 0:
                yield Problem(
                    key=".class_weights",
                    what=f"the weight of {name} must be above 0, is {weight:g}",
                    hint="leave the rows out to learn nothing from them",
                )

    def head(self) -> Head:
        """One output for each class."""
        return Head(num_outputs=len(self.labels), classes=self.labels)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document, and the number of its class."""
        assert isinstance(sample, Classified)
        name = str(sample.label)
        if name not in self.labels:
            raise RowError(
                f"label {sample.label!r} is none of `trainer.labels`: {', '.join(self.labels)}",
                did_you_mean(name, self.labels),
            )
        documents = chat.read_at_end(sample)
        return [Features(documents=documents, numbers=(self.labels.index(name),))]

    def num_items(self, batch: Batch) -> float:
        """Rows, times the weights of their classes."""
        return float(self._weights(batch).sum())

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """-sum_i w(y_i) log p(y_i | x_i), with smoothed labels where they are asked for."""
        from torch.nn import functional as F

        logits, classes = policy.logits(batch).float(), batch.numbers.long()
        weights = self._weights(batch)
        losses = F.cross_entropy(
            logits, classes, label_smoothing=self.label_smoothing, reduction="none"
        )
        said = logits.argmax(-1)
        right = (said == classes).float()
        metrics = {}
        for number in range(len(self.labels)):
            metrics[f"{_RIGHT}{number}"] = (right * (classes == number)).sum()
            metrics[f"{_NAMED}{number}"] = ((said == number) + (classes == number).long()).sum()
        of_samples = losses.detach()
        return Loss(sum=(weights * losses).sum(), metrics=metrics, of_samples=of_samples)

    def summarised(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """`accuracy`, in which all rows count alike, and `macro_f1`: the mean of
        2 TP / (2 TP + FP + FN) over the classes that occur."""
        numbers = range(len(self.labels))
        right = sum(means[f"{_RIGHT}{number}"] for number in numbers)
        twice_all = sum(means[f"{_NAMED}{number}"] for number in numbers)
        found = [
            2 * means[f"{_RIGHT}{number}"] / means[f"{_NAMED}{number}"]
            for number in numbers
            if means[f"{_NAMED}{number}"]
        ]
        kept = {name: value for name, value in means.items() if not name.startswith(_COUNTS)}
        return {
            **kept,
            "accuracy": 2 * right / (twice_all or 1),
            "macro_f1": sum(found) / (len(found) or 1),
        }

    def _weights(self, batch: Batch) -> Tensor:
        """float32 [S]"""
        of_class = [self.class_weights.get(name, 1.0) for name in self.labels]
        return batch.numbers.new_tensor(of_class)[batch.numbers.long()]
