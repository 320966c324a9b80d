"""A regular expression from a recipe -> a search that no text can keep busy."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from framework.core.problems import Problem, UserError

LONGEST_PATTERN = 500
"""Characters of a pattern."""
LONGEST_NAME_PATTERN = 5000
"""Characters of a pattern for names of modules, which list them sometimes."""
MOST_REPETITIONS = 5
"""Without an end, in such a pattern: the time grows with the length of a name to the power of
this."""
LONGEST_SEARCH_SECONDS = 1.0
"""For one text; what no pattern that is let through needs for megabytes, unless it is made to."""
LONGEST_NAMES_SECONDS = 5.0
"""For all names of a model together."""

MOST_SHOWN = 200
"""Characters of a pattern in a message."""

_REPETITION = re.compile(r"[*+]|\{\d*,?\d*\}")
_ENDLESS = re.compile(r"[*+]|\{\d*,\}")
_NAME = re.compile(r"[\w-]+")
"""A pattern that is a name, such as `all-linear`."""
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
    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"has a pattern of {len(pattern)} characters, most {LONGEST_PATTERN}")
    compiled = _compiled(pattern)
    _refuse_unbounded(pattern)
    return lambda text: compiled.search(text, timeout=LONGEST_SEARCH_SECONDS) is not None


def refuse_unbounded_name_pattern(pattern: str, longest: int = LONGEST_NAME_PATTERN) -> None:
    """Passes for a pattern that can be looked for in names of modules; these may look around.

    Raises:
        PatternError: it is no pattern, or repeats what has repetition or alternatives in it.
    """
    if len(pattern) > longest:
        raise PatternError(f"has {len(pattern):,} characters, the most are {longest:,}")
    if _NAME.fullmatch(pattern):
        # As most are; `regex` needn't be loaded for that.
        return
    _compiled(pattern)
    _refuse_unbounded(pattern, looking_around=True)
    if _most_repetitions(pattern) > MOST_REPETITIONS:
        raise PatternError(f"has more than {MOST_REPETITIONS} repetitions", "write fewer .*")


def _most_repetitions(pattern: str) -> int:
    """Without an end, of those that one name can take."""
    depth, counts = 0, [0]
    for match in _PIECE.finditer(pattern):
        depth += 1 if match["group"] else -1 if match[0] == ")" else 0
        if match[0] == "|" and depth == 0:
            counts.append(0)
        counts[-1] += _ENDLESS.match(pattern, match.end()) is not None
    return max(counts)


@functools.cache
def find_in_names(pattern: str, names: Sequence[str], *, whole: bool = False) -> frozenset[str]:
    """The names in which a pattern is found, or which it fits whole.

    Raises:
        UserError: it takes more than a second for one of them, or more than five for all.
    """
    compiled = _compiled(pattern)
    look = compiled.fullmatch if whole else compiled.search
    found: set[str] = set()
    started = time.thread_time()
    for name in names:
        left = LONGEST_NAMES_SECONDS - (time.thread_time() - started)
        try:
            if left <= 0:
                raise TimeoutError
            if look(name, timeout=min(left, LONGEST_SEARCH_SECONDS)):
                found.add(name)
        except TimeoutError:
            raise UserError(_too_slow(pattern, one=left > LONGEST_SEARCH_SECONDS)) from None
    return frozenset(found)


def _too_slow(pattern: str, *, one: bool) -> Problem:
    most = LONGEST_SEARCH_SECONDS if one else LONGEST_NAMES_SECONDS
    return Problem(
        what=f"takes more than {most:g} s for "
        f"{'one name' if one else 'all names'}: {_shortened(pattern)}",
        hint="write fewer repetitions such as .* in it",
    )


def _shortened(pattern: str) -> str:
    return repr(pattern if len(pattern) <= MOST_SHOWN else f"{pattern[:MOST_SHOWN]}...")


def _compiled(pattern: str) -> Any:
    import regex

    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise PatternError(f"the pattern {pattern!r} is wrong: {error}") from None


def _refuse_unbounded(pattern: str, *, looking_around: bool = False) -> None:
    branching = [False]
    """For each open group, whether it has repetition or alternatives in it."""
    for match in _PIECE.finditer(pattern):
        piece, group = match[0], match["group"]
        if (match["escaped"] or "") in "123456789gk" and match["escaped"]:
            raise PatternError("a pattern can't refer back to a group", "write it out")
        if (
            not looking_around
            and group
            and group.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?(", "(?P="))
        ):
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
