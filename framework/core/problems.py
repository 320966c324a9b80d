"""What a user did wrong -> a message that says where, what, and what to write instead."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CREDENTIALS = re.compile(r"(?<=\w)(:/+)[^\s/@'\"]+@")


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
        return without_passwords(f"{message}; {self.hint}" if self.hint else message)

    def as_json(self) -> dict[str, str | int]:
        """The stable machine-readable form: file, line, column, key, what, hint."""
        fields = {
            name: without_passwords(value) if isinstance(value, str) else value
            for name, value in asdict(self).items()
        }
        return {name: fields[name] for name in ("file", "line", "column", "key", "what", "hint")}


def without_passwords(text: str) -> str:
    """The text with `***` for what stands before the host in addresses."""
    return _CREDENTIALS.sub(r"\1***@", text)


def moved(problem: Problem, old: str, new: str) -> Problem:
    """The problem with key `new` where its key is `old`, or one under it."""
    is_under = problem.key == old or problem.key.startswith(f"{old}.")
    return replace(problem, key=new + problem.key.removeprefix(old)) if is_under else problem


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
        self.told = False
        """Whether its user has read it already, from here or from another process of this node."""
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


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever is wrong with files that somebody else may have made becomes a message.

    Args:
        what: is read from them, for the message.

    Raises:
        UserError: there is something wrong.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        # The file that the system names may be one that is written.
        path, fault = Path(error.filename or path), error.strerror or str(error)
        hint = "free space, or put right what may be read and written there; then start it again"
        raise UserError(Problem(file=str(path), what=f"{what}: {fault}", hint=hint)) from error
    except Exception as error:  # libraries raise what they like, tokenizers a plain Exception
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(
            Problem(
                file=str(path),
                what=f"holds nothing to read {what} from: {type(error).__name__}: {line}",
                hint="give a run's folder as the run left it",
            )
        ) from error


def warn(warnings: Iterable[Problem]) -> None:
    """Prints what a user should know, though nothing is wrong."""
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)


def tell(error: UserError) -> None:
    """Prints an error that nobody has told yet."""
    if not error.told:
        warn(error.warnings)
        print(printable(error), file=sys.stderr, flush=True)
        error.told = True


def printable(text: object) -> str:
    """The text without what a terminal would obey: escape sequences and other control characters,
    which a file can hold, appear as `\\x1b`."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


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
