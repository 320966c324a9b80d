"""A cleaner that asks a model -> its pass: samples in order, several questions under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.cleaning import Finding
from framework.core.problems import Problem
from framework.core.protocols.data import Deciding
from framework.core.samples import NumberedSample
from framework.endpoints.chat_client import ChatClient
from framework.endpoints.endpoint import Endpoint
from framework.endpoints.questions import SHOWN_SAMPLES

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

OnFailure = Literal["error", "keep", "drop"]

WARMEST_RETRY = 0.5
"""Lowest temperature of a second attempt: at 0 it would be the first one again."""


@dataclass(frozen=True)
class Failure:
    """The model gave nothing that could be used."""

    reason: str


Outcome = Finding | Failure | None


class StagePass:
    """One pass of a cleaner that asks an endpoint about each sample; see `protocols.PassAhead`."""

    def __init__(
        self,
        endpoint: Endpoint,
        work: Callable[[ChatClient, NumberedSample], Outcome],
        on_failure: OnFailure,
    ) -> None:
        self._client = ChatClient(endpoint)
        self._work = work
        self._on_failure = on_failure
        self._num_failures = 0

    def __call__(
        self, samples: Iterator[NumberedSample]
    ) -> Iterator[tuple[NumberedSample, Finding | None]]:
        """Every sample in its order with what was found in it."""
        for numbered, outcome in self._client.each(samples, self._ask):
            if isinstance(outcome, Failure):
                self._num_failures += 1
                yield numbered, self._failed(outcome)
            else:
                yield numbered, outcome

    def tally(self) -> Mapping[str, int]:
        """What was asked, and how often in vain."""
        return {**self._client.tally(), "num_failures": self._num_failures}

    def _ask(self, numbered: NumberedSample) -> Outcome:
        return self._work(self._client, numbered)

    def _failed(self, failure: Failure) -> Finding:
        if self._on_failure == "error":
            hint = "write on_failure: keep or drop to go on with the other rows"
            return Finding(action="refuse", reason=failure.reason, hint=hint)
        action = "report" if self._on_failure == "keep" else "drop"
        return Finding(action=action, reason=failure.reason)


def again(endpoint: Endpoint, attempt: int) -> dict[str, Any]:
    """Keys of the request that make attempt 1, 2 ... differ from the first, which is 0."""
    if attempt == 0:
        return {}
    further: dict[str, Any] = {}
    if endpoint.seed is not None:
        further["seed"] = endpoint.seed + attempt
    if endpoint.temperature is not None:
        further["temperature"] = max(endpoint.temperature, WARMEST_RETRY)
    return further


def shown_formats(recipe: Recipe, name: str) -> Iterator[Problem]:
    """A problem for every dataset whose samples can't be put into a prompt."""
    for index, dataset in enumerate(recipe.data.train):
        produces = dataset.format.produces
        # A format that is found by the rows is seen with them.
        if not isinstance(dataset.format, Deciding) and produces not in SHOWN_SAMPLES:
            known = ", ".join(kind.__name__ for kind in SHOWN_SAMPLES)
            yield Problem(
                key=f"data.train[{index}].format",
                what=f"makes {produces.__name__} samples, which the cleaner {name} can't ask about",
                hint=f"it can ask about {known}",
            )
