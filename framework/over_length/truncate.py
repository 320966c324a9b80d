"""A document that is too long -> as much of it as fits: its beginning, its end, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from framework.core.batch import Encoded, Features, slice_document
from framework.core.over_length import Shortened, only_document
from framework.core.problems import Problem
from framework.core.samples import (
    Conversation,
    Document,
    Message,
    Preference,
    Sample,
    UnpairedPreference,
)

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Cuts it to the longest length, at its end, its beginning or in between."""

    side: Literal["right", "left", "middle"] = "right"
    """Where tokens are taken out. `right`: the end; an answer that is cut is trained without the
    token at which to stop, and counted. `left`: the beginning, the system message too. `middle`:
    what stands between the beginning and the last answer, which stays whole; a row whose last
    answer doesn't fit by itself is dropped. Pairs of answers are cut at the left alone: both lose
    the same beginning of their prompt, and a pair that would lose more than that is dropped."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """`middle` keeps the last answer, so there must be one that is trained."""
        if self.side == "middle" and "assistant" not in recipe.data.train_on:
            yield Problem(
                key=".side",
                what="`middle` keeps the last trained answer, and data.train_on has no assistant",
                hint="write side: left, or side: right",
            )
        refused = {"left": (), "right": (Preference,), "middle": (Preference, UnpairedPreference)}
        if any(kind in recipe.trainer.method.consumes for kind in refused[self.side]):
            yield Problem(
                key=".side",
                what=f"`{self.side}` would cut two answers, or their prompt, at different places",
                hint="write side: left, or data.over_length: drop",
            )

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """One document of `max_length` tokens, or a pair with the same cut; or none."""
        if isinstance(sample, Preference) and self.side == "left":
            return _without_beginning(features, max_length)
        document = only_document(features)
        length = len(document.tokens)
        if self.side == "left":
            return _shortened(slice_document(document, length - max_length, length))
        if self.side == "middle":
            if isinstance(sample, Document):
                resume = length - max_length // 2
                return _shortened(
                    _without_middle(document, max_length, resume, length, whole_answers=False)
                )
            return _around_last_answer(sample, document, max_length, encode)
        crossed = document.trained[max_length - 1] and document.trained[max_length]
        cut = slice_document(document, 0, max_length)
        return _shortened(cut, num_cut_answers=crossed and not isinstance(sample, Document))


def _shortened(document: Encoded, num_cut_answers: int = 0) -> Shortened:
    features = (Features(documents=(document,)),)
    return Shortened(features=features, truncated=True, num_cut_answers=int(num_cut_answers))


def _without_beginning(features: Features, max_length: int) -> Shortened:
    """Documents that begin with one prompt, each without as many of its first tokens."""
    start = features.longest - max_length
    documents = features.documents
    # What is before the first answer, less one token for it to follow.
    if start >= min(document.trained.index(True) for document in documents):
        return Shortened()
    left = [slice_document(one, start, len(one.tokens)) for one in documents]
    return Shortened(features=(replace(features, documents=tuple(left)),), truncated=True)


def _around_last_answer(
    sample: Sample,
    document: Encoded,
    max_length: int,
    encode: Callable[[Sample], Sequence[Features]],
) -> Shortened:
    """The last answer whole; of the rest one half from the beginning, one from before the answer.

    What comes before the answer is at least what the template writes between a question and its
    answer.
    """
    if True not in document.trained:
        return Shortened()
    stop = len(document.trained) - document.trained[::-1].index(True)
    start = _start_of_run(document, stop - 1)
    header = _header(sample, document, start, stop, encode)
    least = max(header, 1)
    room = max_length - (stop - start)
    if room < least:
        return Shortened()
    resume = start - max(least, room // 2)
    return _shortened(_without_middle(document, max_length, resume, stop, whole_answers=True))


def _start_of_run(document: Encoded, place: int) -> int:
    """The first of the trained tokens that stand together with the one at `place`."""
    while place and document.trained[place - 1]:
        place -= 1
    return place


def _header(
    sample: Sample,
    document: Encoded,
    start: int,
    stop: int,
    encode: Callable[[Sample], Sequence[Features]],
) -> int:
    """Tokens before the answer that stay the same whatever is asked: the template's own."""
    if not isinstance(sample, Conversation):
        return 0
    before, answer = document.tokens[:start], document.tokens[start:stop]
    for features in encode(_asked_otherwise(sample)):
        (other,) = features.documents
        if True not in other.trained:
            continue
        end = len(other.trained) - other.trained[::-1].index(True)
        first = _start_of_run(other, end - 1)
        if other.tokens[first:end] == answer:
            return _common_end(before, other.tokens[:first])
    return len(before)


def _asked_otherwise(sample: Conversation) -> Conversation:
    """The same answers to other requests."""

    def changed(message: Message) -> Message:
        if message.role not in {"user", "tool"}:
            return message
        return replace(message, content="!" if message.content.rstrip().endswith("?") else "?")

    return replace(sample, messages=tuple(changed(message) for message in sample.messages))


def _common_end(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(reversed(left), reversed(right), strict=False)
    shorter = min(len(left), len(right))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)


def _without_middle(
    document: Encoded, max_length: int, resume: int, stop: int, *, whole_answers: bool
) -> Encoded:
    """The beginning, then tokens `resume` to `stop` - 1, `max_length` in all.

    The token after the cut is not trained, it doesn't follow what is before it; nor, with
    `whole_answers`, is an answer that the cut goes through.
    """
    head = max_length - (stop - resume)
    if head >= resume:  # nothing lies between
        return slice_document(document, 0, stop)
    trained = list(document.trained)
    if whole_answers:
        if trained[head]:
            first = _start_of_run(document, head)
            trained[first:head] = [False] * (head - first)
        end = next((at for at in range(resume, stop) if not trained[at]), stop)
        trained[resume:end] = [False] * (end - resume)
    trained[resume] = False
    return Encoded(
        tokens=document.tokens[:head] + document.tokens[resume:stop],
        trained=(*trained[:head], *trained[resume:stop]),
    )
