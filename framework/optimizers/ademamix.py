"""AdEMAMix of bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class AdEMAMix:
    """AdEMAMix: AdamW with a second, slow mean of gradients (Pagliardini et al., 2024);
    bitsandbytes."""

    beta1: float = setting(0.9, above=0, below=1)
    """Decay of the fast mean of gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of squared gradients."""
    beta3: float = setting(0.9999, above=0, below=1)
    """Decay of the slow mean of gradients."""
    alpha: float = setting(5.0, at_least=0)
    """Weight of the slow mean beside the fast one."""
    num_alpha_warmup_steps: int | None = setting(None, at_least=1)
    """Steps in which `alpha` grows from 0; None: at once."""
    num_beta3_warmup_steps: int | None = setting(None, at_least=1)
    """Steps in which `beta3` grows from `beta1`; None: at once."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""
    optim_bits: Literal[8, 32] = 32
    """Bits of each state."""
    paged: bool = False
    """States leave a full GPU for host memory; no difference on a CPU."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """bitsandbytes must be installed."""
        return missing_extra("bitsandbytes", "bitsandbytes", key="trainer.optimizer")

    def state_bytes(self, num_numbers: int) -> int:
        """See `protocols.StateSized`; small parameters keep float32 states."""
        from framework.update_rules.state_sizes import blockwise_bytes

        return blockwise_bytes(num_numbers, num_states=3, bits=self.optim_bits)

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from bitsandbytes.optim.ademamix import AdEMAMix as BitsAndBytesAdEMAMix

        return BitsAndBytesAdEMAMix(
            [dict(group) for group in groups],  # pyright: ignore[reportArgumentType]
            lr=learning_rate,
            betas=(self.beta1, self.beta2, self.beta3),
            alpha=self.alpha,
            t_alpha=self.num_alpha_warmup_steps,
            t_beta3=self.num_beta3_warmup_steps,
            eps=self.epsilon,
            optim_bits=self.optim_bits,
            is_paged=self.paged,
        )
