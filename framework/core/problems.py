"""What a user did wrong -> a message that says where, what, and what to write instead."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault of a recipe, of a data file or of the arguments."""

    what: str
    """What is wrong: quotes the value and names what would have been allowed."""
    hint: str = ""
    """What to write instead."""
    key: str = ""
    """Dotted recipe key, such as `data.train[0].format`; empty when no key is at fault."""
    file: str = ""
    """File at fault, empty when there is none."""
    line: int = 0
    """1-based line in `file`; 0 when unknown."""
    column: int = 0
    """1-based column in `line`; 0 when unknown."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        message = ": ".join(part for part in (place, self.key, self.what) if part)
        return f"{message}; {self.hint}" if self.hint else message

    def as_json(self) -> dict[str, str | int]:
        """The stable machine-readable form: file, line, column, key, what, hint."""
        fields = asdict(self)
        return {name: fields[name] for name in ("file", "line", "column", "key", "what", "hint")}


class UserError(Exception):
    """Ends a command with a message for its user and without a traceback.

    Carries every problem that was found, never only the first.
    """

    exit_code = 2
    """2: the recipe, the data or the arguments are wrong."""

    def __init__(
        self,
        problems: Problem | Iterable[Problem] | str,
        hint: str = "",
        warnings: Iterable[Problem] = (),
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(what=problems, hint=hint)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        self.warnings = tuple(warnings)
        """What is not wrong, but may explain what is."""
        assert self.problems, "a UserError needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RunFailed(UserError):
    """The recipe was good, the run was not: a NaN, a full disk, a dead device."""

    exit_code = 1


class Refused(UserError):
    """Nothing is broken, but going on would destroy something or run foreign code."""

    exit_code = 3


class Interrupted(UserError):
    """The run was asked to stop; it saved its state and can be resumed."""

    exit_code = 75


def warn(warnings: Iterable[Problem]) -> None:
    """Prints what a user should know, though nothing is wrong."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def did_you_mean(written: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the whole allowed set when nothing is near."""
    names = sorted(allowed)
    near = nearest(written, names)
    if near:
        return f"did you mean {near!r}?"
    return f"allowed: {', '.join(names)}" if names else ""


def nearest(written: str, allowed: Sequence[str]) -> str | None:
    """The name most like `written`, None when none is like it."""
    folded = {name.lower().replace("-", "_"): name for name in allowed}
    matches = difflib.get_close_matches(
        str(written).lower().replace("-", "_"), list(folded), n=1, cutoff=0.6
    )
    return folded[matches[0]] if matches else None
