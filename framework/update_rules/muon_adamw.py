"""Parameter groups -> one optimizer that steps hidden matrices by Muon and the rest by AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """PyTorch's Muon and AdamW as one, so that schedules, clipping and saving see one optimizer.

    The two share this optimizer's groups and state; they hold none of their own.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        lr: float,
        *,
        muon: Mapping[str, Any],
        adamw: Mapping[str, Any],
    ) -> None:
        """
        Args:
            groups: those with a true `hidden` are stepped by Muon.
            muon: further settings of `torch.optim.Muon`.
            adamw: further settings of `torch.optim.AdamW`.
        """
        hidden = [dict(group) for group in groups if group["hidden"]]
        rest = [dict(group) for group in groups if not group["hidden"]]
        self._muon = Muon(hidden, lr=lr, **muon) if hidden else None
        self._adamw = AdamW(rest, lr=lr, **adamw) if rest else None
        parts = [one for one in (self._muon, self._adamw) if one is not None]
        super().__init__([group for one in parts for group in one.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both."""
        assert closure is None
        for one, hidden in ((self._muon, True), (self._adamw, False)):
            if one is not None:
                # Loading a state replaces both, so they are handed over at every step.
                one.param_groups = [g for g in self.param_groups if g["hidden"] is hidden]
                one.state = self.state
                one.step()
