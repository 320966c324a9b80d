"""The recipe's tokenizer backend -> one that is seen to give the reference's ids, or none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from framework.chat.tokens import BackendDisagrees, Vocabulary
from framework.core.problems import Problem
from framework.core.protocols.data import TokenizerBackend
from framework.core.registries import component_name

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder

REFERENCE = "tokenizers"

_COMPARED_EVERY = 512
"""Of so many texts of the data, one is tokenized by the reference too."""
_NUM_HARD_TEXTS = 600
_RANGES = (
    (0x20, 0x7F),
    (0x20, 0x7F),
    (0x00, 0x20),
    (0x80, 0x250),
    (0x300, 0x370),
    (0x370, 0x530),
    (0x590, 0x700),
    (0x900, 0xE00),
    (0x1100, 0x1200),
    (0x2000, 0x2070),
    (0x3000, 0x3100),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4),
    (0xFE00, 0xFE10),
    (0x1F300, 0x1FAFF),
    (0xE000, 0xF900),
)
"""First and last code point, exclusive, of the scripts that hard texts are drawn from."""
_PIECES = (
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "   \n  ",
        "\N{NO-BREAK SPACE}",
        "\N{IDEOGRAPHIC SPACE}",
    ),
    *(
        "'s",
        "'LL",
        "n't",
        "can't",
        "1234567890",
        "3.14",
        "1e-5",
        "0x1F",
        "...",
        "!?!",
        "--",
        "#####",
    ),
    *(
        "e\N{COMBINING ACUTE ACCENT}",
        "\N{ZERO WIDTH JOINER}",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
    ),
    *(
        "\N{REPLACEMENT CHARACTER}",
        "\N{ZERO WIDTH NO-BREAK SPACE}",
        "\N{LINE SEPARATOR}",
        "İ",
        "ß",
        "ﬁ",
    ),
    *(
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "=" * 40,
        " " * 33,
        "https://x.io/?q=a&b=%20#c",
        "def f(x):\n    return",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ChosenBackend:
    """What tokenizes a preparation, and what its comparison with the reference showed."""

    chat: ChatEncoder
    """Encodes with it."""
    asked: str
    """The backend that the recipe names."""
    difference: str = ""
    """Why the reference tokenizes in its place; empty when it doesn't."""
    comparison: Comparison | None = None
    """None: the reference itself tokenizes."""

    def warnings(self) -> Iterator[Problem]:
        """That another one than the recipe's tokenizes, and why."""
        if self.difference:
            yield Problem(
                key="tokenizer.backend",
                what=f"{self.asked} {self.difference}; {REFERENCE} tokenizes in its place",
                hint=f"write `backend: {REFERENCE}`",
            )

    def record(self) -> dict[str, Any]:
        """What the report keeps."""
        used = self.asked if self.comparison else REFERENCE
        num_compared = self.comparison.num_compared if self.comparison else 0
        return {
            "asked": self.asked,
            "used": used,
            "num_compared_texts": num_compared,
            "difference": self.difference,
        }


def choose_backend(
    chat: ChatEncoder, backend: TokenizerBackend, difference: str = ""
) -> ChosenBackend:
    """The encoder with the recipe's backend, where that agrees with the reference on hard texts.

    What it gives goes on comparing while it encodes. A `difference` that is known already leaves
    the reference in its place.
    """
    asked = component_name(backend) or type(backend).__name__
    if asked == REFERENCE or difference:
        return ChosenBackend(chat=chat, asked=asked, difference=difference)
    try:
        comparison = Comparison(chat.vocabulary, backend)
        for text in hard_texts(chat.vocabulary):
            comparison.compare(text)
    except BackendDisagrees as error:
        return ChosenBackend(chat=chat, asked=asked, difference=str(error))
    except ValueError as error:
        return ChosenBackend(chat=chat, asked=asked, difference=f"can't run it: {error}")
    vocabulary = replace(chat.vocabulary, backend=comparison)
    return ChosenBackend(
        chat=replace(chat, vocabulary=vocabulary), asked=asked, comparison=comparison
    )


class Comparison:
    """A backend that is compared with the reference again and again while it is used."""

    def __init__(self, vocabulary: Vocabulary, backend: TokenizerBackend) -> None:
        self._reference = vocabulary
        self._encode = backend.load(vocabulary.tokenizer.backend_tokenizer.to_str())
        self._num_texts = 0
        self.num_compared = 0
        """Texts for which both gave the same ids."""

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
            raise BackendDisagrees(_difference(text, found, wanted))
        self.num_compared += 1
        return found


def hard_texts(vocabulary: Vocabulary) -> Iterator[str]:
    """Texts on which tokenizers are known to differ; the same ones every time."""
    draw = random.Random(0)  # noqa: S311 - reproducible, not secret
    special = [vocabulary.text_of(token) for token in sorted(vocabulary.special)][:32]
    yield from _PIECES
    for _ in range(_NUM_HARD_TEXTS):
        parts = []
        for _ in range(draw.randint(1, 6)):
            first, last = draw.choice(_RANGES)
            parts.append(
                "".join(chr(draw.randrange(first, last)) for _ in range(draw.randint(1, 8)))
            )
            parts.append(draw.choice(_PIECES))
            if special and draw.random() < 0.3:
                parts.append(draw.choice(special))
        yield "".join(parts)


def _difference(text: str, found: Sequence[int], wanted: Sequence[int]) -> str:
    pairs = zip(found, wanted, strict=False)
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
    return (
        f"makes other tokens of {text[:60]!r}: from token {at} on {list(found[at : at + 4])}, "
        f"not {list(wanted[at : at + 4])}"
    )
