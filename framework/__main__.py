"""The command line: `framework VERB ...`, one file of framework/cli for each verb."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import framework.cli
from framework.core.launched import report_end
from framework.core.problems import UserError, tell
from framework.models.deferred import defer_compilation
from framework.models.quiet import quiet_imports

_KEYBOARD_INTERRUPT_EXIT_CODE = 130


def build_app(words: Sequence[str] = ()) -> typer.Typer:
    """The application with every verb; a verb imports what it needs when it runs.

    A folder of framework/cli is a group of verbs, such as `framework data stats`, and the docstring
    of its `__init__.py` is the group's help.

    Args:
        words: of the command line; where they begin with a verb, the others are left out.
    """
    help_text = "Fine-tune language models from one declarative recipe; nothing is silent."
    app = _group(framework.cli.__name__, list(framework.cli.__path__), help_text, words)
    app.callback()(_options)
    return app


def _group(
    package: str, folders: list[str], help_text: str | None, words: Sequence[str]
) -> typer.Typer:
    app = typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_group_options)  # a group even of a single verb
    verbs = {found.name.strip("_"): found for found in pkgutil.iter_modules(folders)}
    for name in [words[0]] if words and words[0] in verbs else verbs:
        found = verbs[name]
        verb = importlib.import_module(f"{package}.{found.name}")
        if found.ispkg:
            inner = _group(verb.__name__, list(verb.__path__), verb.__doc__, words[1:])
            app.add_typer(inner, name=name)
        else:
            app.command(name=name)(verb.run)
    return app


def _group_options() -> None:
    """A group has none of its own."""


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _print_version() if asked else None,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Those that stand before a verb."""


def _print_version() -> None:
    print(f"framework {framework.__version__}")
    raise typer.Exit


def main() -> None:
    """Runs the command line; a user's mistake ends in a message and an exit code."""
    quiet_imports()
    defer_compilation()
    try:
        build_app(sys.argv[1:])()
    except UserError as error:
        tell(error)
        report_end(error.exit_code, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_end(_KEYBOARD_INTERRUPT_EXIT_CODE, "interrupted")
        sys.exit(_KEYBOARD_INTERRUPT_EXIT_CODE)


if __name__ == "__main__":
    main()
