"""A conversation that is too long -> several, each of whole exchanges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from framework.core.batch import Features
from framework.core.over_length import Shortened, answers_without_prompt
from framework.core.problems import Problem
from framework.core.samples import (
    Completion,
    Conversation,
    Document,
    Message,
    Sample,
    Tokenized,
    TooLong,
)

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Split:
    """Makes several conversations of it, each with the system message and whole exchanges.

    An exchange that is too long by itself is left out, counted and listed.
    """

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Every answer must be trained in one document, and there must be turns to split at."""
        if recipe.data.turns != "all":
            yield Problem(
                key="data.over_length",
                what=f"`split` would train other answers than `data.turns: {recipe.data.turns}`",
                hint="write turns: all, or over_length: {type: truncate, side: left}",
            )
        yield from answers_without_prompt(recipe, "split")
        for part, datasets in (("train", recipe.data.train), ("eval", recipe.data.eval)):
            for index, dataset in enumerate(datasets):
                if dataset.format.produces in {Completion, Document, Tokenized}:
                    yield Problem(
                        key="data.over_length",
                        what=f"`split` needs turns, and data.{part}[{index}] has none",
                        hint="write over_length: windows, truncate or drop",
                    )

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """As few conversations as hold all exchanges in order.

        Raises:
            TooLong: it is no conversation.
        """
        if not isinstance(sample, Conversation):
            raise TooLong(
                f"becomes {features.num_tokens:,} tokens, data.max_length is {max_length:,}, and "
                "has no turns to split at",
                hint="write data.over_length: drop, truncate or windows",
                num_tokens=features.num_tokens,
            )
        splitting = _Splitting(sample, max_length, encode)
        splitting.run()
        return Shortened(features=tuple(splitting.features), dropped=tuple(splitting.dropped))


class _Splitting:
    """The parts of one conversation, as they are found."""

    def __init__(
        self,
        sample: Conversation,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> None:
        self.features: list[Features] = []
        self.dropped: list[str] = []
        self._sample, self._max_length, self._encode = sample, max_length, encode
        roles = [message.role for message in sample.messages]
        self._num_system = next((at for at, role in enumerate(roles) if role != "system"), 0)

    def run(self) -> None:
        """Puts one exchange after the other into a part until the next no longer fits."""
        begin = self._num_system
        fitting: Features | None = None
        for start, stop in _exchanges(self._sample.messages, self._num_system):
            if fitting is not None:
                longer = self._part(begin, stop)
                if longer.num_tokens <= self._max_length:
                    fitting = longer
                    continue
                self.features.append(fitting)
            alone = self._part(start, stop)
            begin, fitting = start, alone
            if alone.num_tokens > self._max_length:
                length = f"{alone.num_tokens:,} tokens"
                self.dropped.append(f"messages {start + 1} to {stop} ({length})")
                fitting = None
        if fitting is not None:
            self.features.append(fitting)

    def _part(self, start: int, stop: int) -> Features:
        """The system message and messages `start` to `stop` - 1."""
        system = self._sample.messages[: self._num_system]
        if start > self._num_system:
            # It is trained, if at all, in the first part.
            system = tuple(replace(message, train=False) for message in system)
        messages = (*system, *self._sample.messages[start:stop])
        (features,) = self._encode(replace(self._sample, messages=messages))
        return features


def _exchanges(messages: Sequence[Message], first: int) -> Iterator[tuple[int, int]]:
    """(First message, message after the last) of each request with all that answers it.

    What nobody answers belongs to the exchange before it.
    """
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    last_answer = answers[-1] if answers else 0
    starts = [first] + [
        at
        for at in range(first + 1, last_answer)
        if messages[at].role == "user" and messages[at - 1].role != "user"
    ]
    yield from zip(starts, [*starts[1:], len(messages)], strict=True)
