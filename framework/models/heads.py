"""Heads of numbers: how a model with one is loaded, begins, and is read.

Shapes: T tokens in the row, L labels, C outputs of the head.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationMixin,
    PreTrainedModel,
)

from framework.attention.sequence_parallel import SequenceGroup
from framework.core.batch import Batch
from framework.core.heads import HEAD_NAMES, Head
from framework.core.problems import Problem, UserError
from framework.core.protocols.training import Noisy
from framework.models.policy import CausalPolicy, plain_model
from framework.recipe.heads import untrained_head
from framework.recipe.sharing import shares_prefixes

if TYPE_CHECKING:
    from framework.planning.plan import Plan


def auto_class(head: Head | None) -> Any:
    """The class of transformers that loads a model with this head; None: a language model."""
    if head is None:
        return AutoModelForCausalLM
    return AutoModelForTokenClassification if head.per_token else AutoModelForSequenceClassification


def head_arguments(head: Head | None) -> dict[str, Any]:
    """What that class is given besides."""
    if head is None:
        return {}
    names = head.classes or tuple(f"LABEL_{at}" for at in range(head.num_outputs))
    return {
        "num_labels": head.num_outputs,
        "id2label": dict(enumerate(names)),
        "label2id": {name: at for at, name in enumerate(names)},
    }


def unexplained(names: Iterable[str], head: Head | None) -> list[str]:
    """Of weights that a checkpoint lacks or has too many, those that another head doesn't
    explain."""
    own = (*HEAD_NAMES, "lm_head")
    return [name for name in names if head is None or name.split(".", 1)[0] not in own]


def prepare_head(model: PreTrainedModel, seed: int | None) -> None:
    """A new head is drawn from the seed: normal, with the model's own standard deviation; biases
    are 0.

    The dropout that transformers puts before the head of a token classification model, 0.1 where
    its configuration says nothing, is taken out: no recipe asks for it.

    Args:
        seed: None for a head that the checkpoint has.

    Raises:
        UserError: the architecture's head is not one linear layer.
    """
    layer = head_layer(model)
    for child in model.children():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
            model.config.classifier_dropout = 0.0
    if seed is None:
        return
    generator = torch.Generator().manual_seed(seed)
    deviation = float(model.config.get_text_config().to_dict().get("initializer_range", 0.02))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
        if layer.bias is not None:
            layer.bias.zero_()


def check_classes(head: Head, folder: Path) -> None:
    """
    Raises:
        UserError: the checkpoint's head stands for other classes, or for the same in another order.
    """
    config = _configuration(folder)
    written = config.get("id2label") or {}
    names = tuple(str(written[number]) for number in sorted(written, key=int))
    # `LABEL_0`: what transformers writes where nobody named them.
    named = any(name != f"LABEL_{at}" for at, name in enumerate(names))
    if _has_classes(config) and head.classes and named and names != head.classes:
        raise UserError(
            Problem(
                key="trainer.labels",
                what=f"the checkpoint's head stands for {', '.join(names)}, in this order",
                hint=f"write labels: [{', '.join(names)}]",
            )
        )


def _configuration(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _has_classes(config: dict[str, Any]) -> bool:
    return any("Classification" in name for name in config.get("architectures") or ())


def head_note(head: Head, folder: Path) -> str:
    """What the announcement says of the head."""
    has_one = _has_classes(_configuration(folder))
    names = f" ({', '.join(head.classes)})" if head.classes else ""
    origin = "as the checkpoint has it" if has_one else "new, drawn from trainer.seed"
    return f"head: {head.num_outputs} output{'s' * (head.num_outputs > 1)}{names}, {origin}"


def check_head_is_trained(model: Module) -> None:
    """
    Raises:
        UserError: the adapter leaves it as it is.
    """
    if not any(one.requires_grad for one in _head_within(model).parameters()):
        raise UserError(untrained_head())


def _head_within(model: Module) -> Module:
    """The head, with what an adapter put around it."""
    children = dict(plain_model(model).named_children())
    return next(children[name] for name in HEAD_NAMES if name in children)


def head_layer(model: PreTrainedModel) -> nn.Linear:
    """The head itself.

    Raises:
        UserError: the architecture's head is not one linear layer.
    """
    children = dict(model.named_children())
    for name in HEAD_NAMES:
        if isinstance(children.get(name), nn.Linear):
            return children[name]  # pyright: ignore[reportReturnType]
    raise UserError(
        Problem(
            key="model.source",
            what=f"{type(model).__name__} has no head that is one linear layer",
            hint="choose a model whose classification model in transformers is a decoder with "
            "such a head, as Llama's and Qwen's are",
        )
    )


def has_head(model: Module) -> bool:
    """Whether the model gives numbers instead of tokens."""
    return not isinstance(plain_model(model), GenerationMixin)


def task_type(model: PreTrainedModel) -> str:
    """What peft calls the model's task; it then trains and saves a head along with an adapter."""
    if not has_head(model):
        return "CAUSAL_LM"
    # Token classification models say so: their head is read at every token.
    return "TOKEN_CLS" if "TokenClassification" in type(model).__name__ else "SEQ_CLS"


class ScorePolicy(CausalPolicy):
    """A model with a head, read at the trained tokens of a flat batch.

    transformers reads a sequence classification model at the last token of the row alone; here
    what its head says of every token is taken as it passes.
    """

    def __init__(
        self,
        model: Module,
        autocast_dtype: str | None = None,
        noise_alpha: float | None = None,
        *,
        shares: bool = False,
        sequence: SequenceGroup | None = None,
    ) -> None:
        super().__init__(model, autocast_dtype, noise_alpha, shares=shares, sequence=sequence)
        self._head = _head_within(model)

    def logits(self, batch: Batch) -> Tensor:
        """[L, C]: the head's outputs at the trained tokens."""
        said: list[Tensor] = []

        def listen(module: Module, inputs: Any, output: Tensor) -> None:
            said.append(output)

        # Not longer than it is needed: peft copies the head with whatever its hooks refer to.
        hook = self._head.register_forward_hook(listen)
        try:
            self.forward(batch)
        finally:
            hook.remove()
        (output,) = said
        own = self.own_labels(batch, batch.label_positions + 1)
        return own.of_all(output[0].index_select(0, own.rows))

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """There is none."""
        raise AssertionError("a model with a head of numbers knows no probabilities of tokens")


def policy_of(
    model: Module,
    autocast_dtype: str | None = None,
    noise_alpha: float | None = None,
    logits_bytes: int | None = None,
    *,
    shares: bool = False,
    sequence: SequenceGroup | None = None,
) -> CausalPolicy:
    """The policy that fits the model; see `CausalPolicy`."""
    if has_head(model):
        return ScorePolicy(model, autocast_dtype, noise_alpha, shares=shares, sequence=sequence)
    return CausalPolicy(
        model, autocast_dtype, noise_alpha, logits_bytes, shares=shares, sequence=sequence
    )


def trained_policy(
    model: Module, plan: Plan, sequence: SequenceGroup | None = None
) -> CausalPolicy:
    """The policy of the model that is trained by the plan; see `CausalPolicy`."""
    method = plan.recipe.trainer.method
    return policy_of(
        model,
        plan.autocast_dtype,
        method.neftune_noise_alpha if isinstance(method, Noisy) else None,
        plan.logits_bytes,
        shares=shares_prefixes(plan.recipe),
        sequence=sequence,
    )
