"""Gradients of matrices -> AdamW updates whose running means are held in few dimensions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMALLEST = torch.finfo(torch.float32).tiny


class LowRankAdamW(Optimizer):
    """AdamW; groups with a true `hidden` keep only a projection of `rank` dimensions of it.

    Matrices whose smaller side isn't above the rank are left to AdamW: projecting them saves
    nothing. All states are float32.

    Shapes: G [m, n], the gradient of a matrix; R [r, n] if m <= n, else [m, r], its projection.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float],
        eps: float,
        rank: int,
        update_interval: int,
    ) -> None:
        """
        Args:
            update_interval: steps that a projection is kept.
        """
        self.rank, self.update_interval = rank, update_interval
        super().__init__([dict(g) for g in groups], {"lr": lr, "betas": betas, "eps": eps})
        everything = [one for group in self.param_groups for one in group["params"]]
        self._numbers = {parameter: number for number, parameter in enumerate(everything)}

    @abstractmethod
    def projected(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The update [m, n] of a matrix, to be scaled by the learning rate."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """W <- W - lr weight_decay W - lr update."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                gradient = parameter.grad.float()
                if group["hidden"] and min(parameter.shape) > self.rank:
                    update = self.projected(parameter, gradient, group)
                else:
                    update = self.adam(parameter, gradient, group)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])

    def adam(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
        """Adam's update, M / (1 - b1^t) over sqrt(V / (1 - b2^t)) + eps, of any `gradient` that
        stands for the parameter's."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        time = state["step"]
        denominator = (square / (1 - beta2**time)).sqrt_().add_(group["eps"])
        return (mean / (1 - beta1**time)).div_(denominator)

    def number(self, parameter: Tensor) -> int:
        """The parameter's place among all."""
        return self._numbers[parameter]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """PyTorch's, but float32 states of 16-bit parameters stay float32."""
        super().load_state_dict(dict(state_dict))
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [one for group in self.param_groups for one in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


class GaLoreAdamW(LowRankAdamW):
    """Adam in the leading singular directions of the gradient (Zhao et al., 2024, algorithm 2)."""

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], lr: float, *, scale: float, **settings: Any
    ) -> None:
        """
        Args:
            scale: what the projected-back update is multiplied with, the paper's alpha.
        """
        self.scale = scale
        super().__init__(groups, lr, **settings)

    def projected(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
        """See `LowRankAdamW`."""
        state = self.state[parameter]
        is_wide = gradient.shape[0] <= gradient.shape[1]
        if (state["step"] - 1) % self.update_interval == 0:
            state["projection"] = self._basis(gradient, state.get("projection"))
        basis = state["projection"]
        if is_wide:  # R = P^T G; alpha P N(R)
            return self.scale * (basis @ self.adam(parameter, basis.T @ gradient, group))
        # R = G P; alpha N(R) P^T
        return self.scale * (self.adam(parameter, gradient @ basis, group) @ basis.T)

    def _basis(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """U[:, :r] [m, r], or V[:, :r] [n, r] of a tall matrix."""
        left, _, right = torch.linalg.svd(gradient, full_matrices=False)
        is_wide = gradient.shape[0] <= gradient.shape[1]
        basis = left[:, : self.rank] if is_wide else right[: self.rank].T
        if before is not None:
            # An SVD leaves signs open. The running means go on in the new basis, so each vector
            # gets the sign in which it is nearer to the one whose place it takes.
            basis = torch.where((basis * before).sum(0) < 0, -basis, basis)
        return basis.contiguous()


class ApolloAdamW(LowRankAdamW):
    """The gradient itself, each channel scaled as Adam scales a random projection of it (Zhu et
    al., 2024, algorithm 1)."""

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        lr: float,
        *,
        scale: float,
        per_channel: bool,
        max_growth: float,
        seed: int,
        **settings: Any,
    ) -> None:
        """
        Args:
            scale: what the update is multiplied with, the paper's alpha.
            per_channel: one factor for each channel of the longer side, rather than for the matrix.
            max_growth: most that an update's norm may be of the one before it.
            seed: of the random projections; no state but the number of steps decides them.
        """
        self.scale, self.per_channel = scale, per_channel
        self.max_growth, self.seed = max_growth, seed
        super().__init__(groups, lr, **settings)

    def projected(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
        """See `LowRankAdamW`."""
        is_wide = gradient.shape[0] <= gradient.shape[1]
        short = min(gradient.shape)
        basis = self.random_projection(parameter, short)  # P [r, m], or P [r, n] for tall matrices
        low = basis @ gradient if is_wide else gradient @ basis.T
        adam = self.adam(parameter, low, group)
        # s_j = |N(R)[:, j]| / |R[:, j]|, over the r dimensions; or one s of the whole.
        axes = ((0,) if is_wide else (1,)) if self.per_channel else (0, 1)
        size = torch.linalg.vector_norm(low, dim=axes, keepdim=True).clamp_(min=SMALLEST)
        factor = torch.linalg.vector_norm(adam, dim=axes, keepdim=True) / size
        return self._limited(parameter, self.scale * gradient * factor)

    def _limited(self, parameter: Tensor, update: Tensor) -> Tensor:
        """The update, no larger than `max_growth` times the one before it (equation 4)."""
        state = self.state[parameter]
        norm = torch.linalg.vector_norm(update)
        if "update_norm" in state:
            most = self.max_growth * state["update_norm"]
            factor = (most / norm.clamp(min=SMALLEST)).clamp(max=1.0)
            update, norm = update * factor, norm * factor
        # A first update of nothing would hold back all that follow.
        if norm > 0:
            state["update_norm"] = norm
        return update

    def random_projection(self, parameter: Tensor, short: int) -> Tensor:
        """N(0, 1/r), the same for `update_interval` steps, another one for each parameter."""
        period = (self.state[parameter]["step"] - 1) // self.update_interval
        seed = ((self.seed * 1_000_003) + self.number(parameter)) * 1_000_003 + period
        generator = torch.Generator(parameter.device).manual_seed(seed & (1 << 63) - 1)
        drawn = torch.randn(self.rank, short, generator=generator, device=parameter.device)
        return drawn / self.rank**0.5
