"""HQQ: refused, until transformers can load weights that it quantises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.problems import Problem

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class HQQ:
    """Refused with the reason: transformers 5 can't load weights that HQQ quantises yet."""

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = ""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Always one problem."""
        yield Problem(
            key="model.quantization",
            what="HQQ can't be used: transformers 5 does not load its weights yet "
            '("not available yet and will be supported soon", 5.23)',
            hint="write `quantization: bitsandbytes_4bit`",
        )
