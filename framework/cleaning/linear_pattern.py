"""A regular expression from a recipe -> a search that no text can keep busy."""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST_PATTERN = 500
"""Characters of a pattern."""
LONGEST_SEARCH_SECONDS = 1.0
"""For one text; what no pattern that is let through needs for megabytes, unless it is made to."""

_REPETITION = re.compile(r"[*+]|\{\d*,?\d*\}")
_PIECE = re.compile(
    r"\\(?P<escaped>.)|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<group>\(\?[^:)]?.?|\()|.", re.DOTALL
)


class PatternError(ValueError):
    """A pattern is wrong, or could take more than a time that grows with the text."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def linear_pattern(pattern: str) -> Callable[[str], bool]:
    """Whether a text holds the pattern, written as for Python's `re`.

    What makes a search take time beyond all bounds is refused: repetition of what itself has
    repetition or alternatives, references back, and looking around. What is left is stopped after
    a second by a TimeoutError, never answered by guess.

    Raises:
        PatternError: it is no pattern, or one of those.
    """
    import regex

    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"has a pattern of {len(pattern)} characters, most {LONGEST_PATTERN}")
    try:
        re.compile(pattern)
        compiled = regex.compile(pattern)
    except (re.error, regex.error) as error:
        raise PatternError(f"the pattern {pattern!r} is wrong: {error}") from None
    _refuse_unbounded(pattern)
    return lambda text: compiled.search(text, timeout=LONGEST_SEARCH_SECONDS) is not None


def _refuse_unbounded(pattern: str) -> None:
    branching = [False]
    """For each open group, whether it has repetition or alternatives in it."""
    for match in _PIECE.finditer(pattern):
        piece, group = match[0], match["group"]
        if (match["escaped"] or "") in "123456789gk" and match["escaped"]:
            raise PatternError("a pattern can't refer back to a group", "write it out")
        if group and group.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?(", "(?P=")):
            raise PatternError("a pattern can't look ahead or behind", "use not matches(...)")
        repeats = _REPETITION.match(pattern, match.end()) is not None
        if group:
            branching.append(False)
        elif piece == ")":
            if repeats and branching[-1]:
                raise PatternError(
                    "a pattern can't repeat what has repetition or alternatives in it",
                    "write [ab]+ for (a|b)+, and a+ for (a+)+",
                )
            inner = branching.pop()
            branching[-1] |= inner or repeats
        else:
            branching[-1] |= piece == "|" or repeats
