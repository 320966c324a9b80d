"""The command line: `framework VERB ...`, one file of framework/cli for each verb."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

import framework.cli
from framework.core.launched import report_end
from framework.core.problems import UserError, tell
from framework.models.quiet import quiet_imports

_KEYBOARD_INTERRUPT_EXIT_CODE = 130


def build_app() -> typer.Typer:
    """The application with every verb; a verb imports what it needs when it runs.

    A folder of framework/cli is a group of verbs, such as `framework data stats`, and the docstring
    of its `__init__.py` is the group's help.
    """
    help_text = "Fine-tune language models from one declarative recipe; nothing is silent."
    return _group(framework.cli.__name__, list(framework.cli.__path__), help_text)


def _group(package: str, folders: list[str], help_text: str | None) -> typer.Typer:
    app = typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for found in pkgutil.iter_modules(folders):
        verb = importlib.import_module(f"{package}.{found.name}")
        name = found.name.strip("_")
        if found.ispkg:
            app.add_typer(_group(verb.__name__, list(verb.__path__), verb.__doc__), name=name)
        else:
            app.command(name=name)(verb.run)
    return app


def main() -> None:
    """Runs the command line; a user's mistake ends in a message and an exit code."""
    quiet_imports()
    try:
        build_app()()
    except UserError as error:
        tell(error)
        report_end(error.exit_code, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_end(_KEYBOARD_INTERRUPT_EXIT_CODE, "interrupted")
        sys.exit(_KEYBOARD_INTERRUPT_EXIT_CODE)


if __name__ == "__main__":
    main()
