"""Muon of PyTorch for hidden matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.problems import Problem, UserError
from framework.core.settings import setting
from framework.recipe.optimization import matrices_inside_layers

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon: orthogonalised momentum of matrices inside layers, AdamW for the rest (Jordan, 2024).

    The rest are embeddings, the output layer, norms, biases, experts that are held as one tensor,
    and whatever has a side of length 1. Matrices of LoRA count as matrices.
    """

    momentum: float = setting(0.95, at_least=0, below=1)
    """Decay of the running mean of a matrix's gradients."""
    nesterov: bool = True
    """Nesterov's momentum."""
    num_iterations: int = setting(5, at_least=1, below=100)
    """Newton-Schulz iterations that orthogonalise."""
    scale: Literal["match_adamw", "original"] = "match_adamw"
    """How large an update of A x B is. `match_adamw`: 0.2 sqrt(max(A, B)) times an orthogonal
    matrix, so that learning rate and weight decay are AdamW's (Liu et al., 2025). `original`:
    sqrt(max(1, A / B)) times, which needs a rate of about 0.02 for matrices, and with
    `parameter_groups` a smaller one for the rest."""
    beta1: float = setting(0.9, at_least=0, below=1)
    """AdamW's decay of the running mean of gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """AdamW's decay of the running mean of squared gradients."""
    epsilon: float = setting(1e-8, above=0)
    """Added to AdamW's denominator."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """It is for matrices inside layers."""
        return matrices_inside_layers(recipe, "muon")

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`.

        Raises:
            UserError: no matrix inside a layer is trained.
        """
        from framework.update_rules.muon_adamw import MuonAdamW

        if not any(group["hidden"] for group in groups):
            raise UserError(
                Problem(
                    key="trainer.optimizer",
                    what="muon has nothing to do: no matrix inside a layer is trained",
                    hint="write `optimizer: adamw`",
                )
            )
        adjusted = "match_rms_adamw" if self.scale == "match_adamw" else "original"
        return MuonAdamW(
            groups,
            learning_rate,
            muon={
                "momentum": self.momentum,
                "nesterov": self.nesterov,
                "ns_steps": self.num_iterations,
                "adjust_lr_fn": adjusted,
            },
            adamw={"betas": (self.beta1, self.beta2), "eps": self.epsilon, "fused": True},
        )
