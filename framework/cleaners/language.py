"""Rows in another language than those wanted -> dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.cleaning.sample_texts import Text, texts
from framework.core.cleaning import Excerpt, Finding
from framework.core.extras import missing_extra
from framework.core.problems import Problem, did_you_mean
from framework.core.samples import NumberedSample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_JUDGED = 4000
"""Characters of a row that are judged; more take time and tell no more."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """Rows in a language that is not wanted, as py3langid recognises it."""

    keep: tuple[str, ...] = setting(not_empty=True)
    """ISO 639-1 codes of the languages that stay, such as `[en, de]`."""
    of: Literal["sample", "answer"] = "sample"
    """What is judged: all texts but the system's, or the answers alone."""
    min_confidence: float = setting(0.5, at_least=0, at_most=1)
    """A row is taken out only if its language is recognised with at least this probability."""
    min_characters: int = setting(40, at_least=1)
    """Shorter rows are not judged, and stay: they tell too little."""
    action: Literal["drop", "report"] = "drop"
    """What becomes of a row in another language."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there, and know the languages."""
        missing = missing_extra("py3langid", "cleaning", key=".type")
        yield from missing
        known = [] if missing else _identifier().labels
        for code in self.keep if known else ():
            if code not in known:
                hint = did_you_mean(code, known)
                yield Problem(key=".keep", what=f"{code!r} is not a known language", hint=hint)

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        identifier = _identifier()

        def find(numbered: NumberedSample) -> Finding | None:
            judged = [one for one in texts(numbered.sample) if self._is_judged(one)]
            text = "\n".join(one.text for one in judged)
            if len(text) < self.min_characters:
                return None
            language, confidence = identifier.classify(text[:_JUDGED])
            if language in self.keep or confidence < self.min_confidence:
                return None
            return Finding(
                action=self.action,
                reason=f"language {language}, probability {confidence:.2f}",
                excerpts=(Excerpt(where=judged[0].where, before=judged[0].text),),
            )

        return find

    def _is_judged(self, one: Text) -> bool:
        return one.is_answer if self.of == "answer" else one.is_own


def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
