"""Low-rank updates whose ranks are moved to the layers that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import (
    QUANTIZED_LINEAR,
    as_peft,
    unreadable_patterns,
    untrained_tokens,
)
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class AdaLoRA:
    """Trains low-rank updates and moves rank to where it matters (AdaLoRA, Zhang et al. 2023)."""

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR
    changes_trained_parameters: ClassVar[bool] = False

    init_r: int = setting(12, at_least=2)
    """Rank of every update at first."""
    target_r: int = setting(8, at_least=1)
    """Mean rank of the updates in the end; must be below `init_r`."""
    lora_alpha: int = setting(32, at_least=1)
    """The update is scaled by `lora_alpha` divided by its rank."""
    lora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout of the update's input."""
    tinit_ratio: float = setting(0.1, at_least=0, below=1)
    """Share of the steps before ranks are taken away."""
    tfinal_ratio: float = setting(0.3, at_least=0, below=1)
    """Share of the steps, at the end, in which ranks stay."""
    delta_t: int = setting(1, at_least=1)
    """Steps between two decisions about ranks."""
    beta1: float = setting(0.85, above=0, below=1)
    """How slowly the importance of a rank follows its gradient."""
    beta2: float = setting(0.85, above=0, below=1)
    """How slowly the uncertainty about it does."""
    orth_reg_weight: float = setting(0.5, at_least=0)
    """Weight, in the loss, of how far the update's matrices are from orthogonal."""
    target_modules: str | tuple[str, ...] = setting("all-linear", not_empty=True)
    """Modules that are adapted: names, one pattern, or `all-linear` for every linear layer but the
    output layer."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that are left alone after all."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside the update, such as `[embed_tokens, lm_head]`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, self.modules_to_save)
        if self.target_r >= self.init_r:
            yield Problem(
                key=".target_r",
                what=f"{self.target_r} is not below init_r {self.init_r}: no rank could move",
                hint=f"write `init_r: {self.target_r * 3 // 2 + 1}`",
            )
        if self.tinit_ratio + self.tfinal_ratio >= 1:
            yield Problem(
                key=".tfinal_ratio",
                what=f"with tinit_ratio {self.tinit_ratio:g} no step is left in which ranks move",
                hint="write `tinit_ratio: 0.1` and `tfinal_ratio: 0.3`",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with updates that are zero, all of rank `init_r`.

        Raises:
            UserError: a name or pattern fits no module of this model.
        """
        from peft import AdaLoraConfig

        config = AdaLoraConfig(
            task_type="CAUSAL_LM",
            init_r=self.init_r,
            target_r=self.target_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            deltaT=self.delta_t,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orth_reg_weight,
            total_step=1,  # until `before_step` knows it
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the update added to its weights."""
        return merged(model)

    def before_step(self, model: Module, step: int, num_steps: int, seed: int) -> None:
        """Tells peft how long the run is."""
        config = _tuner(model).rankallocator.peft_config
        config.total_step = num_steps
        config.tinit = int(self.tinit_ratio * num_steps)
        config.tfinal = int(self.tfinal_ratio * num_steps)

    def after_step(self, model: Module, step: int, num_steps: int) -> None:
        """Measures how much each rank matters, and takes away those that matter least."""
        tuner = _tuner(model)
        first_of_all = (
            not tuner.rankallocator.ipt and not tuner.rankallocator.peft_config.rank_pattern
        )
        if first_of_all and step + 1 == num_steps:
            return  # a run of one step has measured nothing by which it could decide
        # peft counts steps from 1: so the last one leaves the ranks as they were decided.
        tuner.update_and_allocate(step + 1)

    def penalty(self, model: Module) -> Tensor:
        """Distance of the update's matrices from orthogonal ones (equation 4 of the paper)."""
        import torch

        distances: list[Tensor] = []
        for name, matrix in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                product = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
                identity = torch.eye(len(product), device=product.device, dtype=product.dtype)
                distances.append(torch.linalg.matrix_norm(product - identity))
        return self.orth_reg_weight * torch.stack(distances).mean()

    def state(self, model: Module) -> Mapping[str, Tensor]:
        """The measured importance of every rank, and which ranks are left."""
        import torch

        allocator = _tuner(model).rankallocator
        measured = {
            "ipt": allocator.ipt,
            "mean": allocator.exp_avg_ipt,
            "spread": allocator.exp_avg_unc,
        }
        left = allocator.peft_config.rank_pattern or {}
        return {
            **{
                f"{kind}/{key}": value for kind, of in measured.items() for key, value in of.items()
            },
            **{f"left/{name}": torch.tensor(kept) for name, kept in left.items()},
        }

    def restore(self, model: Module, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        allocator = _tuner(model).rankallocator
        found: dict[str, dict[str, Any]] = {"ipt": {}, "mean": {}, "spread": {}, "left": {}}
        for path, value in state.items():
            kind, name = path.split("/", 1)
            found[kind][name] = value.tolist() if kind == "left" else value
        allocator.ipt, allocator.exp_avg_ipt = found["ipt"], found["mean"]
        allocator.exp_avg_unc = found["spread"]
        allocator.peft_config.rank_pattern = found["left"] or None


def _tuner(model: Module) -> Any:
    from peft import PeftModel
    from peft.tuners.adalora import AdaLoraModel

    assert isinstance(model, PeftModel), type(model).__name__
    assert isinstance(model.base_model, AdaLoraModel), type(model.base_model).__name__
    return model.base_model
