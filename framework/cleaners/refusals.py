"""Rows whose assistant declines or talks of being a model -> dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from framework.cleaning.sample_texts import texts
from framework.core.cleaning import Excerpt, Finding
from framework.core.samples import NumberedSample

PHRASES = (
    "as an ai language model",
    "as an ai assistant, i",
    "as an ai model",
    "as an ai developed by",
    "as an ai, i",
    "as an artificial intelligence",
    "as a language model",
    "as a large language model",
    "i am an ai language model",
    "i'm an ai language model",
    "i'm just an ai",
    "i am just an ai",
    "i'm only an ai",
    "i can't assist with that",
    "i cannot assist with that",
    "i can't help with that request",
    "i cannot help with that request",
    "i'm unable to assist with",
    "i am unable to assist with",
    "i'm not able to assist with",
    "i can't fulfill",
    "i cannot fulfill",
    "i can't comply with",
    "i cannot comply with",
    "i can't provide assistance with",
    "i cannot provide assistance with",
    "sorry, but i can't assist",
    "sorry, but i cannot",
    "sorry, i can't assist",
    "it is not appropriate for me to",
    "goes against my programming",
    "my knowledge cutoff",
    "my training data only goes up to",
)
"""What only a model says of itself, or a model that declines."""
_QUOTES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u00b4": "'", "`": "'"})
_CONTEXT = 30
"""Characters before a phrase that are listed with it."""


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """Answers such as "As an AI language model ..." or "I cannot assist with that"."""

    phrases: tuple[str, ...] = ()
    """Further phrases, looked for in any capitals and as whole words."""
    builtin_phrases: bool = True
    """Look for the phrases that the cleaner brings, in English, besides `phrases`."""
    action: Literal["drop", "report"] = "drop"
    """What becomes of such a row."""

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        written = [phrase.translate(_QUOTES) for phrase in self.phrases if phrase.split()]
        every = (PHRASES if self.builtin_phrases else ()) + tuple(written)
        escaped = (r"\s+".join(map(re.escape, phrase.split())) for phrase in every)
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(escaped) or '(?!)'})(?!\w)", re.IGNORECASE)

        def find(numbered: NumberedSample) -> Finding | None:
            for one in texts(numbered.sample):
                match = pattern.search(one.text.translate(_QUOTES)) if one.is_answer else None
                if match is not None:
                    shown = one.text[max(0, match.start() - _CONTEXT) :]
                    return Finding(
                        action=self.action,
                        reason=f"the answer says {' '.join(match[0].split())!r}",
                        excerpts=(Excerpt(where=one.where, before=shown),),
                    )
            return None

        return find
