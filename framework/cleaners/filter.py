"""Rows that don't meet a condition of the recipe -> dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.cleaning.expressions import ExpressionError, compile_expression
from framework.cleaning.sample_texts import beginning, prompt_of, texts
from framework.core.cleaning import Finding
from framework.core.problems import Problem
from framework.core.samples import Conversation, NumberedSample, PromptOnly
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

NAMES: Mapping[str, str] = {
    "text": "text",
    "prompt": "text",
    "answer": "text",
    "system": "text",
    "num_characters": "number",
    "num_words": "number",
    "num_turns": "number",
    "dataset": "text",
    "row": "number",
    "columns": "columns",
}
"""What an expression can name, and of which kind it is."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Rows for which a condition of yours is false, such as `num_words > 5 and 'http' not in text`.

    The condition is written in Jinja's grammar and computed here: it can't call, read or change
    anything. It has comparisons, `and`, `or`, `not`, `in`, `+ - * /` on numbers, lists, and the
    functions `len`, `lower`, `upper`, `strip`, `startswith`, `endswith`, `count` and
    `matches(text, 'regular expression')`.
    """

    keep: str = setting(not_empty=True)
    """Rows for which it is true stay. Names: `text` (all but the system's words), `prompt`,
    `answer`, `system`; `num_characters` and `num_words` of `text`; `num_turns`; `dataset`, `row`;
    `columns.NAME` for a row's further columns, where its format keeps them."""
    action: Literal["drop", "report"] = "drop"
    """What becomes of a row for which it is false."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The condition must be one."""
        try:
            compile_expression(self.keep, NAMES)
        except ExpressionError as error:
            yield Problem(
                key=".keep",
                what=f"{error.what}, at character {error.column} of {self.keep!r}",
                hint=error.hint,
            )

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        keeps = compile_expression(self.keep, NAMES)

        def find(numbered: NumberedSample) -> Finding | None:
            try:
                if keeps(_facts(numbered)):
                    return None
            except (TypeError, ArithmeticError, TimeoutError, LookupError) as error:
                return self._uncomputable(numbered, error)
            return Finding(
                action=self.action,
                reason=f"not {self.keep}",
                excerpts=beginning(numbered.sample),
            )

        return find

    def _uncomputable(self, numbered: NumberedSample, error: Exception) -> Finding:
        what = f"the condition {self.keep!r} can't be computed: {error}"
        hint = "write another `keep` for the cleaner filter: every row must answer it"
        if isinstance(error, LookupError) and not isinstance(numbered.sample, PromptOnly):
            made = type(numbered.sample).__name__
            what += (
                f": the format of {numbered.dataset} makes {made} samples, which keep no further "
                "columns"
            )
            hint = (
                "only formats that make PromptOnly samples keep them, such as prompt_only; choose "
                "the rows of the file by that column before"
            )
        return Finding(action="refuse", reason=what, hint=hint)


def _facts(numbered: NumberedSample) -> dict[str, Any]:
    parts = list(texts(numbered.sample))
    text = "\n".join(one.text for one in parts if one.is_own)
    messages = numbered.sample.messages if isinstance(numbered.sample, Conversation) else ()
    return {
        "text": text,
        "prompt": prompt_of(numbered.sample),
        "answer": "\n".join(one.text for one in parts if one.is_answer),
        "system": "\n".join(one.text for one in parts if one.role == "system"),
        "num_characters": len(text),
        "num_words": len(text.split()),
        "num_turns": sum(message.role != "system" for message in messages),
        "dataset": numbered.dataset,
        "row": numbered.row,
        "columns": numbered.sample.columns if isinstance(numbered.sample, PromptOnly) else {},
    }
