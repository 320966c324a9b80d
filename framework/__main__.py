"""The command line: `framework VERB ...`, one file of framework/cli for each verb."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

import framework.cli
from framework.core.problems import UserError, warn

_KEYBOARD_INTERRUPT_EXIT_CODE = 130


def build_app() -> typer.Typer:
    """The application with every verb; a verb imports what it needs when it runs."""
    app = typer.Typer(
        help="Fine-tune language models from one declarative recipe; nothing is silent.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for module in pkgutil.iter_modules(framework.cli.__path__):
        verb = importlib.import_module(f"framework.cli.{module.name}")
        app.command(name=module.name.strip("_"))(verb.run)
    return app


def main() -> None:
    """Runs the command line; a user's mistake ends in a message and an exit code."""
    try:
        build_app()()
    except UserError as error:
        warn(error.warnings)
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_KEYBOARD_INTERRUPT_EXIT_CODE)


if __name__ == "__main__":
    main()
