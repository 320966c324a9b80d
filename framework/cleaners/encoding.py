"""Text that was decoded with the wrong encoding -> repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.cleaning.sample_texts import Text, with_texts
from framework.core.cleaning import Excerpt, Finding
from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.samples import NumberedSample

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_CONTEXT = 20
"""Characters before the first difference that are listed with it."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Mojibake such as `cafÃ©`, which ftfy turns back into `café`."""

    action: Literal["fix", "drop", "report"] = "fix"
    """`fix` repairs the text; what can't be repaired for certain stays as it is."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there."""
        return missing_extra("ftfy", "cleaning", key=".type")

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        from ftfy import fix_encoding

        def find(numbered: NumberedSample) -> Finding | None:
            excerpts: list[Excerpt] = []

            def fix(one: Text) -> str:
                fixed = one.text if one.text.isascii() else fix_encoding(one.text)
                if fixed != one.text:
                    excerpts.append(_difference(one, fixed))
                return fixed

            sample = with_texts(numbered.sample, fix)
            if not excerpts:
                return None
            return Finding(
                action="change" if self.action == "fix" else self.action,
                reason="text decoded with the wrong encoding",
                excerpts=tuple(excerpts),
                sample=sample,
            )

        return find


def _difference(one: Text, fixed: str) -> Excerpt:
    pairs = enumerate(zip(one.text, fixed, strict=False))
    first = next((at for at, (old, new) in pairs if old != new), min(len(one.text), len(fixed)))
    begin = max(0, first - _CONTEXT)
    return Excerpt(where=one.where, before=one.text[begin:], after=fixed[begin:])
