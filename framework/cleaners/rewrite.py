"""Samples -> the same with the answer, or the prompt, in a model's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.core.cleaning import Excerpt, Finding
from framework.core.problems import Problem
from framework.core.samples import NumberedSample, RowError
from framework.core.settings import setting
from framework.endpoints.answers import Answer
from framework.endpoints.chat_client import ChatClient, Unanswered
from framework.endpoints.endpoint import Endpoint
from framework.endpoints.questions import (
    Target,
    part_of,
    render,
    sample_template_problems,
    sample_variables,
    with_part,
)
from framework.endpoints.stages import Failure, Outcome, StagePass, again, shown_formats

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

PROMPT = """\
{{ instruction }}
{% if prompt %}
# What was said before
{{ prompt }}
{% endif %}
# The text to rewrite
{{ target }}

Reply with the new text alone.
"""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Lets a model rewrite the last answer, or the last prompt, of every sample."""

    endpoint: Endpoint
    """The server that is asked."""
    instruction: str = setting(not_empty=True)
    """What to do with the text, such as `Make it half as long, and keep every fact.`"""
    target: Literal["answer", "prompt"] = "answer"
    """What is rewritten: the text of the last assistant or, with `prompt`, of the last user; of
    raw text, all of it."""
    prompt: str = setting(PROMPT, not_empty=True)
    """What is asked, in Jinja with `{{ instruction }}`, `{{ target }}` (the text to rewrite),
    `{{ prompt }}` (what stands before the last answer), `{{ answer }}` and `{{ text }}` (both)."""
    max_attempts: int = setting(3, at_least=1)
    """Times that a sample is asked about until an answer is neither empty nor cut, each with
    another seed and, from the second on, a temperature of at least 0.5."""
    on_failure: Literal["error", "keep", "drop"] = "error"
    """What becomes of a sample that is not rewritten; it is counted and listed."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The prompt must be a template that shows the text."""
        yield from sample_template_problems(self.prompt, ".prompt", ("instruction", "target"))
        yield from shown_formats(recipe, "rewrite")

    def start_ahead(self, held_out: Callable[[], Iterator[NumberedSample]]) -> StagePass:
        """See `protocols.CleanerAhead`."""
        return StagePass(self.endpoint, self._rewrite, self.on_failure)

    def _rewrite(self, client: ChatClient, numbered: NumberedSample) -> Outcome:
        try:
            old = part_of(numbered.sample, self.target)
            if not old.strip():
                return Finding(action="report", reason=f"has no {self.target} to rewrite")
            request = render(self.prompt, self._variables(numbered, old))
            reason = ""
            for attempt in range(self.max_attempts):
                message = {"role": "user", "content": request}
                answer = client.ask([message], **again(self.endpoint, attempt))
                reason = unusable(answer)
                if not reason:
                    return _finding(numbered, self.target, old, answer.words.strip())
        except (Unanswered, RowError) as error:
            reason = str(error)
        return Failure(f"the {self.target} is not rewritten: {reason}")

    def _variables(self, numbered: NumberedSample, old: str) -> dict[str, str]:
        variables = sample_variables(numbered.sample)
        if self.target == "prompt":
            variables["prompt"] = ""  # the text to rewrite would stand there twice
        return {**variables, "target": old, "instruction": self.instruction}


def unusable(answer: Answer) -> str:
    """Why an answer can't take a text's place, empty when it can."""
    if answer.finish_reason == "length":
        return f"the model's answer is cut at max_tokens: {answer.words[-80:]!r}"
    return "" if answer.words.strip() else "the model's answer is empty"


def _finding(numbered: NumberedSample, target: Target, old: str, new: str) -> Finding | None:
    if new == old:
        return None
    return Finding(
        action="change",
        reason=f"the {target} in a model's words",
        excerpts=(Excerpt(where=target, before=old, after=new, whole=True),),
        sample=with_part(numbered.sample, target, new),
    )
