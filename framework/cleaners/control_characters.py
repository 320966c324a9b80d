"""Characters that nobody sees or that stand for lost ones -> removed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from framework.cleaning.sample_texts import Text, with_texts
from framework.core.cleaning import Excerpt, Finding
from framework.core.samples import NumberedSample
from framework.core.settings import setting

Kind = Literal["control", "invisible", "replacement"]

_PATTERNS: dict[str, str] = {
    # Terminal colours whole, so that no `[31m` is left behind.
    "control": r"\x1b\[[0-9;?]{0,20}[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]",
    # Joiners shape words of many scripts and emoji; between ASCII characters they do nothing.
    # Tag letters make flags behind a black flag, and elsewhere hide text.
    "invisible": r"[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d](?![^\x00-\x7f])"
    r"|(?<![\U0001f3f4\U000e0000-\U000e007f])[\U000e0000-\U000e007f]+",
    "replacement": r"[\ufffd\ufffe\uffff\ud800-\udfff]",
}
_CONTEXT = 20
"""Characters before the first find that are listed with it."""


@dataclass(frozen=True, kw_only=True)
class ControlCharacters:
    """Control characters, invisible characters and replacement characters."""

    kinds: tuple[Kind, ...] = setting(("control", "invisible", "replacement"), not_empty=True)
    """`control`: C0 and C1 but tab and line ends, terminal colours. `invisible`: zero-width spaces,
    direction marks, soft hyphens, hidden tag letters. `replacement`: U+FFFD, which stands for text
    that is lost, and surrogates."""
    action: Literal["remove", "drop", "report"] = "remove"
    """`remove` takes out the characters, `drop` the row."""

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        pattern = re.compile("|".join(_PATTERNS[kind] for kind in self.kinds))

        def find(numbered: NumberedSample) -> Finding | None:
            excerpts: list[Excerpt] = []
            found: Counter[str] = Counter()

            def remove(one: Text) -> str:
                match = None if one.text.isprintable() else pattern.search(one.text)
                if match is None:
                    return one.text
                found.update(part[0] for part in pattern.findall(one.text))
                removed = pattern.sub("", one.text)
                begin = max(0, match.start() - _CONTEXT)
                shown = one.text[begin:].encode("unicode_escape").decode()
                excerpts.append(Excerpt(where=one.where, before=shown, after=removed[begin:]))
                return removed

            sample = with_texts(numbered.sample, remove)
            if not excerpts:
                return None
            return Finding(
                action="change" if self.action == "remove" else self.action,
                reason=", ".join(f"{count} x {_name(one)}" for one, count in found.most_common(5)),
                excerpts=tuple(excerpts),
                sample=sample,
            )

        return find


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
