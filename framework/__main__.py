"""The command line: `framework VERB ...`, one file of framework/cli for each verb."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NoReturn

import framework.cli
from framework.command_line import call
from framework.core.launched import report_end
from framework.core.problems import UserError, did_you_mean, tell
from framework.models.deferred import defer_compilation
from framework.models.quiet import quiet_imports

_KEYBOARD_INTERRUPT_EXIT_CODE = 130
_HELP = ("-h", "--help")


def run(words: Sequence[str]) -> None:
    """Runs the verb that the words of a command line begin with, and imports no other.

    A folder of framework/cli is a group of verbs, such as `framework data stats`, and the docstring
    of its `__init__.py` is the group's help.

    Raises:
        UserError: there is no such verb, or it ends in one.
        SystemExit: with the verb's own exit code.
    """
    found, program, rest = framework.cli, "framework", list(words)
    while hasattr(found, "__path__"):
        verbs = _verbs(found)
        if not rest or rest[0] in _HELP:
            print(_listing(found, program, verbs))
            sys.exit(0 if rest else UserError.exit_code)
        name = rest.pop(0)
        if name not in verbs:
            raise UserError(f"{program}: no verb {name!r}", hint=did_you_mean(name, verbs))
        found, program = importlib.import_module(verbs[name]), f"{program} {name}"
    call(found.run, program, rest)


def _verbs(group: ModuleType) -> Mapping[str, str]:
    """Name -> module."""
    return {
        one.name.strip("_"): f"{group.__name__}.{one.name}"
        for one in pkgutil.iter_modules(group.__path__)
    }


def _listing(group: ModuleType, program: str, verbs: Mapping[str, str]) -> str:
    lines = [f"usage: {program} VERB [--help] ...", "", inspect.getdoc(group) or "", "", "verbs:"]
    for name, module in verbs.items():
        verb = importlib.import_module(module)
        said = inspect.getdoc(verb if hasattr(verb, "__path__") else verb.run) or ""
        first = " ".join(said.partition("\n\n")[0].split())
        lines.append(f"  {name:{max(map(len, verbs))}}  {first}")
    return "\n".join(lines)


def main() -> NoReturn:
    """Runs the command line and exits; a user's mistake ends in a message and an exit code."""
    quiet_imports()
    defer_compilation()
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(0)
    except UserError as error:
        tell(error)
        report_end(error.exit_code, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_end(_KEYBOARD_INTERRUPT_EXIT_CODE, "interrupted")
        sys.exit(_KEYBOARD_INTERRUPT_EXIT_CODE)
    except BrokenPipeError:
        # Whoever reads what is printed has enough, as in `framework list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
