"""Plan and model -> the frozen policy that a trainer compares with, if it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module

from framework.attention.sequence_parallel import SequenceGroup
from framework.core.batch import Batch, Policy
from framework.core.protocols.models import AltersWeights
from framework.core.protocols.training import Comparing
from framework.core.spans import span
from framework.data.prepared import PreparedData
from framework.engine.precomputed import precomputed, reference_key
from framework.engine.teacher import open_teacher
from framework.models.load import Bundle, fit_embeddings, load_weights
from framework.models.peft_models import is_peft_model
from framework.models.policy import CausalPolicy
from framework.planning.plan import Plan
from framework.recipe.sharing import shares_prefixes


@dataclass(frozen=True, kw_only=True)
class References:
    """What `loss` is given as its reference."""

    train: Policy | None = None
    eval: Policy | None = None
    """On held-out data, whose sample ids may be those of training data."""


def open_references(
    plan: Plan,
    data: PreparedData,
    bundle: Bundle,
    accelerator: Accelerator,
    say: Callable[[str], None],
    sequence: SequenceGroup | None = None,
) -> References:
    """A teacher, or the trained model as it is before training; nothing where nothing is compared.

    Called before any weight has changed, and before those of a checkpoint are put back. An adapter
    is switched off, so that no second copy of the weights is held.

    Args:
        say: told where the reference comes from.
        sequence: processes that compute rows together, the reference's too; a teacher's aren't.
    """
    method = plan.recipe.trainer.method
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if comparison is None:
        return References()
    if comparison.source is not None:
        teacher = open_teacher(plan, data, bundle, accelerator, comparison, say)
        return References(train=teacher, eval=teacher)
    if not comparison.precompute:
        policy = _kept(plan, data, bundle, accelerator, say, sequence)
        return References(train=policy, eval=policy)
    altered = (
        isinstance(plan.recipe.adapter, AltersWeights) and plan.recipe.adapter.alters_weights()
    )
    policy = FrozenPolicy(
        bundle.model,
        plan.autocast_dtype,
        plan.logits_bytes,
        adapter_off=not altered,
        shares=shares_prefixes(plan.recipe),
        sequence=sequence,
    )
    found: dict[str, Policy] = {}
    for part, store in (("train", data.train), ("eval", data.eval)):
        if store is not None:
            key = reference_key(plan, store, bundle.attention.name, with_adapter=altered)
            found[part] = precomputed(key, store, policy, accelerator, plan.pass_size, say)
    return References(train=found["train"], eval=found.get("eval"))


def _kept(
    plan: Plan,
    data: PreparedData,
    bundle: Bundle,
    accelerator: Accelerator,
    say: Callable[[str], None],
    sequence: SequenceGroup | None,
) -> Policy:
    """A reference that is asked in every step."""
    shares = shares_prefixes(plan.recipe)
    if is_peft_model(bundle.model):
        say("reference: the model with its adapter switched off, no second copy")
        return FrozenPolicy(
            bundle.model, plan.autocast_dtype, plan.logits_bytes, shares=shares, sequence=sequence
        )
    model = load_weights(
        data.model_path,
        dtype=plan.weights_dtype,
        attention=bundle.attention.name,
        quantizer=bundle.quantizer,
        compute_dtype=plan.autocast_dtype or plan.weights_dtype,
        device=plan.world.torch_device,
        rope_scaling=plan.recipe.model.rope_scaling,
    )
    fit_embeddings(model, data.tokenizer, plan.recipe.tokenizer.add_tokens)
    model.requires_grad_(False).to(accelerator.device)  # pyright: ignore[reportArgumentType]
    num_bytes = sum(one.numel() * one.element_size() for one in model.parameters())
    say(
        f"reference: a second copy of the model, frozen, {num_bytes / 2**30:.2f} GiB in "
        f"{plan.weights_dtype}"
    )
    return FrozenPolicy(model, plan.autocast_dtype, plan.logits_bytes, shares=shares)


def separate_model(reference: Policy | None, trained: Module) -> Module | None:
    """The reference's model, None where there is no reference or it is the trained one."""
    if not isinstance(reference, FrozenPolicy) or reference.model is trained:
        return None
    return reference.model


class FrozenPolicy:
    """A model without gradients and dropout, its adapter switched off if it has one.

    Args:
        logits_bytes: see `CausalPolicy`.
        adapter_off: False keeps an adapter as it is.
        shares: see `CausalPolicy`.
        sequence: see `CausalPolicy`.
    """

    def __init__(
        self,
        model: Module,
        autocast_dtype: str | None,
        logits_bytes: int | None = None,
        *,
        adapter_off: bool = True,
        shares: bool = False,
        sequence: SequenceGroup | None = None,
    ) -> None:
        self.model = model
        self._policy = CausalPolicy(
            model, autocast_dtype, logits_bytes=logits_bytes, shares=shares, sequence=sequence
        )
        self._adapter_off = adapter_off

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """See `Policy`."""
        with self._frozen():
            return self._policy.negative_log_likelihood(batch)

    def logits(self, batch: Batch) -> Tensor:
        """See `Policy`."""
        with self._frozen():
            return self._policy.logits(batch)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with span("reference"), torch.no_grad():
                if self._adapter_off and is_peft_model(self.model):
                    with self.model.disable_adapter():
                        yield
                else:
                    yield
        finally:
            self.model.train(was_training)
