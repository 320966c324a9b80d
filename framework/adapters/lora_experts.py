"""Several LoRA experts beside frozen weights, and routers that mix them for every token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.targets import (
    QUANTIZED_LINEAR,
    as_peft,
    unreadable_patterns,
    untrained_tokens,
)
from framework.adapting.trained_adapter import TrainedAdapter, put_into
from framework.core.heads import head_of
from framework.core.problems import Problem, UserError
from framework.core.settings import setting

if TYPE_CHECKING:
    from peft.tuners.lora import LoraConfig
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class LoRAExperts:
    """Mixes several LoRA updates by a router in every adapted layer (MoLE, Wu et al. 2024).

    Every layer weighs its experts anew for every token, by a softmax over a linear map of what goes
    into it (as X-LoRA, Buehler & Buehler 2024, but in one pass). Every expert is computed for every
    token, also where `top_k` leaves it out. The mixture can't be merged; each expert is saved as a
    LoRA adapter of its own.
    """

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR
    how_to_load: ClassVar[str] = (
        "Plain peft can't load the mixture: `framework chat RUN` can, and so can\n"
        "`framework.runs.trained.FinishedRun.open(RUN).trained_model(dtype)`. Each `expert_...` "
        "folder\nis a LoRA adapter that plain peft loads alone; `router.safetensors` holds, for "
        "each layer, the\nmatrix [experts, inputs] whose softmax weighs them.\n"
    )

    experts: tuple[str, ...] = setting((), path=True)
    """Folders of trained LoRA adapters (`runs/first/final`) of the recipe's model."""
    num_new_experts: int = setting(0, at_least=0)
    """Experts that start from nothing, beside them."""
    train_experts: bool = False
    """Train also the experts that come from folders; new ones always are."""
    top_k: int | None = setting(None, at_least=1)
    """How many experts count for a token, those with the highest weights. None: all."""
    r: int = setting(16, at_least=1)
    """Rank of new experts."""
    lora_alpha: int = setting(32, at_least=1)
    """New experts are scaled by `lora_alpha / r`."""
    lora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout of the input of experts that are trained."""
    target_modules: str | tuple[str, ...] = setting("all-linear", not_empty=True)
    """Modules that new experts adapt: names, one pattern, or `all-linear` for every linear layer
    but the output layer."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that they leave alone after all."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, saves_modules=False)
        yield from self._check_numbers()
        for number, folder in enumerate(self.experts):
            yield from _check_expert(folder, f".experts[{number}]", recipe)
        if head_of(recipe) is not None:
            yield Problem(
                key="adapter",
                what="lora_experts trains no head of numbers beside the experts",
                hint="write adapter: lora",
            )

    def _check_numbers(self) -> Iterator[Problem]:
        num_experts = len(self.experts) + self.num_new_experts
        if not num_experts:
            yield Problem(
                key=".experts",
                what="there are no experts",
                hint="write `num_new_experts: 4`, or folders: `experts: [runs/first/final]`",
            )
        elif self.top_k is not None and self.top_k > num_experts:
            yield Problem(
                key=".top_k",
                what=f"is {self.top_k}, and there are {num_experts} experts",
                hint=f"write a number up to {num_experts}, or leave it out for all",
            )

    def started_from(self) -> tuple[Path, ...]:
        """The folders of trained experts."""
        return tuple(map(Path, self.experts))

    def alters_weights(self) -> bool:
        """Whether the model without the experts is another one than training began with."""
        return bool(self.experts)

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its experts, first those from folders, all of them alike to begin with; of
        `top_k`, with small differences.

        Raises:
            UserError: an expert doesn't fit this model, or a name fits nothing in it.
        """
        from framework.adapting.expert_router import (
            expert_name,
            freeze_experts,
            lora_config,
            with_experts,
        )

        folders = {expert_name(at): folder for at, folder in enumerate(self.started_from())}
        dropout = self.lora_dropout if self.train_experts else 0.0
        configs = {name: lora_config(model, folder, dropout) for name, folder in folders.items()}
        for number in range(self.num_new_experts):
            configs[expert_name(len(folders) + number)] = self._new_expert()
        mixture = with_experts(model, configs, self, self.top_k)
        for name, folder in folders.items():
            put_into(mixture, name, folder, "adapter.experts")
        if not self.train_experts:
            freeze_experts(mixture, tuple(folders))
        return mixture

    def announced(self, model: Module) -> Iterable[str]:
        """How many experts there are, and what the routers are made of."""
        from framework.adapting.expert_router import routed_layers

        layers = routed_layers(model)
        num_weights = sum(layer.router.weight.numel() for layer in layers.values())
        trained = "trained" if self.train_experts else "frozen"
        yield (
            f"experts: {len(self.experts)} from folders, {trained}, {self.num_new_experts} new; "
            f"routers in {len(layers)} layers, {num_weights:,} parameters"
        )

    def save(self, model: Module, folder: Path) -> None:
        """The experts, as plain peft loads each of them, and the routers."""
        from framework.adapting.expert_router import save_experts

        save_experts(model, folder)

    def load(self, model: PreTrainedModel, folder: Path) -> Module:
        """The mixture that `save` wrote."""
        from framework.adapting.expert_router import load_experts

        return load_experts(model, folder, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """
        Raises:
            UserError: always.
        """
        from framework.adapting.expert_router import no_merge

        raise no_merge()

    def _new_expert(self) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
        )


def _check_expert(folder: str, key: str, recipe: Recipe) -> Iterator[Problem]:
    try:
        expert = TrainedAdapter.open(Path(folder), key)
    except UserError as error:
        yield from error.problems
        return
    for name, value in expert.beside_the_update():
        yield Problem(
            key=key,
            what=f"the adapter in {folder!r} has {name} {value!r}, which can't be mixed",
            hint="name adapters that are updates of linear layers alone",
        )
    other_base = expert.other_base(recipe.model.source, key)
    if other_base is not None:
        yield other_base
