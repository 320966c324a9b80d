"""All datasets -> many equal stages, each with every dataset in its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from framework.core.mixing import Stage
from framework.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class Interleave:
    """Shuffles all datasets together, and keeps their shares in every piece of an epoch.

    `shuffle` leaves them to chance: after a tenth of the run a small dataset may have come more
    often or less.
    """

    num_stages: int = setting(20, at_least=2)
    """Equal pieces, one after the other; after each of them the shares so far are the asked ones.
    With packing a piece is packed by itself, so it should hold many packs."""

    def stages(self, weights: Mapping[str, float]) -> Sequence[Stage]:
        """`num_stages` equal stages."""
        return (Stage(share=1 / self.num_stages, weights=weights),) * self.num_stages
