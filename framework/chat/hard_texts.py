"""Texts on which tokenizers are known to differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.chat.tokens import Vocabulary

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
