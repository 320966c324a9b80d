"""Samples -> those that a model gives a score of at least a threshold."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.cleaning import Excerpt, Finding
from framework.core.problems import Problem
from framework.core.samples import NumberedSample, RowError
from framework.core.settings import setting
from framework.endpoints.answers import Answer
from framework.endpoints.chat_client import ChatClient, Unanswered
from framework.endpoints.endpoint import Endpoint
from framework.endpoints.questions import render, sample_template_problems, sample_variables
from framework.endpoints.stages import Failure, Outcome, StagePass, again, shown_formats

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

RUBRIC = """\
You judge an example from which an assistant will learn.
{% if prompt %}
# What was said before
{{ prompt }}
{% endif %}
# The answer to judge
{{ answer }}

# Scores
1: wrong or harmful, or no answer to what was asked
2: wrong in the main, or hardly of use
3: right in the main, with gaps or faults
4: right and of use, with small faults
5: right, complete and clear; nothing to improve
"""

LEAST_SHARE = 0.1
"""Probability of all scores together from which on their mean is a score."""

_REPLY = {
    "text": "Say in one sentence why. Then end with a line of the form `Score: N`.",
    "json": 'Reply with JSON: {"reason": "one sentence", "score": N}',
    "probabilities": "Reply with the number of the score alone.",
}
_WRITTEN = re.compile(r"score\W{0,5}([1-5](?:\.\d+)?)(?![\d.]*\d)", re.IGNORECASE)
_ALONE = re.compile(r"([1-5](?:\.\d+)?)(?:\s*(?:/|out of)\s*5)?\.?")
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgement",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
            },
            "required": ["reason", "score"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Lets a model score every sample from 1 to 5, and drops those below a threshold."""

    endpoint: Endpoint
    """The server that is asked."""
    threshold: float = setting(3.0, at_least=1, at_most=5)
    """Lowest score of a sample that stays."""
    rubric: str = setting(RUBRIC, not_empty=True)
    """What is asked, in Jinja with `{{ prompt }}`, `{{ answer }}` and `{{ text }}` (both). How to
    write the score is added to it."""
    answer: Literal["text", "json", "probabilities"] = "text"
    """How the score is read. `text`: from a line `Score: N`. `json`: from an object that the server
    must hold the model to (`response_format`). `probabilities`: the mean of 1 to 5 by the
    probabilities of the model's first token (`logprobs`)."""
    max_attempts: int = setting(3, at_least=1)
    """Times that a sample is asked about until an answer has a score, each with another seed and,
    from the second on, a temperature of at least 0.5."""
    on_failure: Literal["error", "keep", "drop"] = "error"
    """What becomes of a sample that gets no score; it is counted and listed."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The rubric must be a template that shows the sample."""
        yield from sample_template_problems(self.rubric, ".rubric")
        yield from shown_formats(recipe, "judge")

    def start_ahead(self, held_out: Callable[[], Iterator[NumberedSample]]) -> StagePass:
        """See `protocols.CleanerAhead`."""
        return StagePass(self.endpoint, self._score, self.on_failure)

    def _score(self, client: ChatClient, numbered: NumberedSample) -> Outcome:
        try:
            question = render(self.rubric, sample_variables(numbered.sample))
            request = f"{question.rstrip()}\n\n{_REPLY[self.answer]}"
            reason = ""
            for attempt in range(self.max_attempts):
                answer = client.ask([{"role": "user", "content": request}], **self._asked(attempt))
                score = self._read(answer)
                if score is not None:
                    return self._finding(score, answer)
                reason = f"the judge gave no score: {answer.words[:200]!r}"
        except (Unanswered, RowError) as error:
            reason = f"the judge gave no score: {error}"
        return Failure(reason)

    def _asked(self, attempt: int) -> Mapping[str, Any]:
        further = again(self.endpoint, attempt)
        if self.answer == "json":
            return {**further, "response_format": _SCHEMA}
        if self.answer == "probabilities":
            return {**further, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        return further

    def _read(self, answer: Answer) -> float | None:
        if self.answer == "text":
            return written_score(answer.words)
        if self.answer == "probabilities":
            return mean_score(answer.first_token)
        try:
            score = json.loads(answer.words)["score"]
        except (ValueError, LookupError, TypeError):
            return None
        fits = isinstance(score, (int, float)) and not isinstance(score, bool) and 1 <= score <= 5
        return float(score) if fits else None

    def _finding(self, score: float, answer: Answer) -> Finding:
        low = score < self.threshold
        reason = f"score {score:.4g}" + (f" is below {self.threshold:g}" if low else "")
        said = "" if self.answer == "probabilities" else answer.words
        return Finding(
            action="drop" if low else "report",
            reason=reason,
            score=score,
            excerpts=(Excerpt(where="the judge's answer", before=said),) if said else (),
        )


def written_score(text: str) -> float | None:
    """The score that an answer names: the last `Score: N`, or a number that is all of it."""
    found = _WRITTEN.findall(text)
    alone = _ALONE.fullmatch(text.strip())
    written = found[-1] if found else alone.group(1) if alone else None
    score = float(written) if written else None
    return score if score is not None and score <= 5 else None


def mean_score(first_token: Mapping[str, float]) -> float | None:
    """The mean of the scores by their probabilities; None when less than a tenth of what the model
    would say first is a score.

    Args:
        first_token: token -> log probability. Several tokens may be one score, as "4" and " 4".
    """
    weights = {str(score): 0.0 for score in range(1, 6)}
    for token, log_probability in first_token.items():
        if token.strip() in weights:
            weights[token.strip()] += math.exp(log_probability)
    total = sum(weights.values())
    if total < LEAST_SHARE:
        return None
    return sum(int(score) * weight for score, weight in weights.items()) / total
