"""The recipe's tokenizer backend -> one that is seen to give the reference's ids, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from framework.chat.hard_texts import hard_texts
from framework.chat.tokens import BackendDisagrees, Vocabulary
from framework.core.problems import Problem
from framework.core.protocols.data import BackendChoice, TokenizerBackend
from framework.core.registries import component_name

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder

REFERENCE = "tokenizers"

_COMPARED_EVERY = 512
"""Of so many texts of the data, one is tokenized by the reference too."""
MANY_TEXTS = 1024
"""Loading a backend and comparing it takes about as long as the reference takes for so many."""
_TEXTS_BEFORE_CHOOSING = 256
"""Where nobody knows how many follow: most data has far more than `MANY_TEXTS`."""


@dataclass(frozen=True, kw_only=True)
class ChosenBackend:
    """What tokenizes a preparation, and what its comparison with the reference showed."""

    chat: ChatEncoder
    """Encodes with it."""
    asked: str
    """What the recipe names."""
    difference: str = ""
    """Why the reference tokenizes in its place; empty when it doesn't."""
    compared: Comparison | FirstThatAgrees | None = None
    """None: the reference itself tokenizes."""

    def warnings(self) -> Iterator[Problem]:
        """That another one than the recipe's tokenizes, and why."""
        if self.difference:
            yield Problem(
                key="tokenizer.backend",
                what=f"{self.difference}; {REFERENCE} tokenizes in its place",
                hint=f"write `backend: {REFERENCE}`",
            )

    def record(self) -> dict[str, Any]:
        """What the report keeps, of what was tokenized until now."""
        used = self.compared
        return {
            "asked": self.asked,
            "used": used.name if used else REFERENCE,
            "num_compared_texts": used.num_compared if used else 0,
            "difference": used.difference if used else self.difference,
        }


def choose_backend(
    chat: ChatEncoder,
    backend: TokenizerBackend | BackendChoice,
    difference: str = "",
    *,
    many_texts: bool = False,
) -> ChosenBackend:
    """The encoder with the recipe's backend, where that agrees with the reference on hard texts.

    What it gives goes on comparing while it encodes.

    Args:
        difference: what is known already to leave the reference in its place.
        many_texts: there are `MANY_TEXTS`: of several backends one is chosen now, not when there
            were texts enough.
    """
    asked = component_name(backend) or type(backend).__name__
    if asked == REFERENCE or difference:
        return ChosenBackend(chat=chat, asked=asked, difference=difference)
    try:
        if isinstance(backend, BackendChoice):
            compared = FirstThatAgrees(chat.vocabulary, backend.choices())
            if many_texts:
                compared.choose()
        else:
            compared = Comparison.on_hard_texts(chat.vocabulary, backend)
    except BackendDisagrees as error:
        return ChosenBackend(chat=chat, asked=asked, difference=str(error))
    vocabulary = replace(chat.vocabulary, backend=compared)
    return ChosenBackend(chat=replace(chat, vocabulary=vocabulary), asked=asked, compared=compared)


class Comparison:
    """A backend that is compared with the reference again and again while it is used."""

    difference = ""
    """None that was seen."""

    def __init__(self, vocabulary: Vocabulary, backend: TokenizerBackend) -> None:
        self._reference = vocabulary
        self.name = component_name(backend) or type(backend).__name__
        self._encode = backend.load(vocabulary.tokenizer.backend_tokenizer.to_str())
        self._num_texts = 0
        self.num_compared = 0
        """Texts for which both gave the same ids."""

    @staticmethod
    def on_hard_texts(vocabulary: Vocabulary, backend: TokenizerBackend) -> Comparison:
        """One that gave the reference's ids for all of them.

        Raises:
            BackendDisagrees: it didn't, or can't run the tokenizer.
        """
        try:
            comparison = Comparison(vocabulary, backend)
        except ValueError as error:
            name = component_name(backend) or type(backend).__name__
            raise BackendDisagrees(f"{name} can't run the tokenizer: {error}") from error
        for text in hard_texts(vocabulary):
            comparison.compare(text)
        return comparison

    def __call__(self, text: str) -> Sequence[int]:
        """Ids of `text`.

        Raises:
            BackendDisagrees: the reference gives others.
        """
        self._num_texts += 1
        if self._num_texts % _COMPARED_EVERY == 0:
            return self.compare(text)
        return self._ids(text)

    def _ids(self, text: str) -> Sequence[int]:
        try:
            return self._encode(text)
        except ValueError:  # a text that it knows it can't encode
            return self._reference.reference_ids(text)

    def compare(self, text: str) -> Sequence[int]:
        """Ids of `text`, which are the reference's.

        Raises:
            BackendDisagrees: they are not.
        """
        found = list(self._ids(text))
        wanted = self._reference.reference_ids(text)
        if found != wanted:
            raise BackendDisagrees(f"{self.name} {_difference(text, found, wanted)}")
        self.num_compared += 1
        return found


class FirstThatAgrees:
    """The reference for the first texts; then the first of some backends that agrees with it.

    Few texts are tokenized sooner than another backend is loaded and compared.
    """

    def __init__(self, vocabulary: Vocabulary, backends: Iterable[TokenizerBackend]) -> None:
        self._reference = vocabulary
        self._backends = backends
        self._chosen: Comparison | None = None
        self._differences: list[str] = []
        self._num_texts = 0
        self._encode: Callable[[str], Sequence[int]] = self._first

    def __call__(self, text: str) -> Sequence[int]:
        """Ids of `text`.

        Raises:
            BackendDisagrees: the backend in use gives others than the reference.
        """
        return self._encode(text)

    def _first(self, text: str) -> Sequence[int]:
        self._num_texts += 1
        if self._num_texts == _TEXTS_BEFORE_CHOOSING:
            self.choose()
        return self._reference.reference_ids(text)

    def choose(self) -> None:
        """Doesn't wait for more texts."""
        self._encode = self._reference.reference_ids
        for backend in self._backends:
            try:
                self._encode = self._chosen = Comparison.on_hard_texts(self._reference, backend)
                return
            except BackendDisagrees as error:
                self._differences.append(str(error))

    @property
    def name(self) -> str:
        """What tokenizes now."""
        return self._chosen.name if self._chosen else REFERENCE

    @property
    def num_compared(self) -> int:
        """Texts for which it gave the reference's ids."""
        return self._chosen.num_compared if self._chosen else 0

    @property
    def difference(self) -> str:
        """Why those before it were passed over."""
        return "; ".join(self._differences)


def _difference(text: str, found: Sequence[int], wanted: Sequence[int]) -> str:
    pairs = zip(found, wanted, strict=False)
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
    return (
        f"makes other tokens of {text[:60]!r}: from token {at} on {list(found[at : at + 4])}, "
        f"not {list(wanted[at : at + 4])}"
    )
