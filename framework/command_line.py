"""A function's annotated parameters -> its command line, by argparse.

`typer` does the same and imports pydantic for it: 0.12 s of CPU for each command, more than all
else that `framework check` does.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from framework.core.problems import UserError, did_you_mean

_NAMES = {int: "a whole number", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A parameter that is written by its place: `Annotated[Path, Argument(help=...)]`."""

    help: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """A parameter that is written by its name; a list's is written once for each item."""

    help: str
    name: str = ""
    """With its two dashes, where it isn't the parameter's."""
    short: str = ""
    """Such as `-o`."""
    at_least: float | None = None
    at_most: float | None = None
    environment: str = ""
    """Variable that is read where the option isn't written; a list's items stand between blanks."""
    metavar: str | None = None
    """What stands in the help for what is to be written."""


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    name: str
    declared: Argument | Option
    type: Any
    """Of the value; of each item, where it is a list."""
    is_list: bool
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def option_names(self) -> tuple[str, ...]:
        if isinstance(self.declared, Argument):
            return ()
        name = self.declared.name or f"--{self.name.replace('_', '-')}"
        return (self.declared.short, name) if self.declared.short else (name,)

    @property
    def choices(self) -> tuple[str, ...]:
        if get_origin(self.type) is Literal:
            return get_args(self.type)
        return tuple(one.value for one in self.type) if issubclass(self.type, StrEnum) else ()

    def read(self, text: str) -> Any:
        """The value that is written so."""
        if self.choices:
            if text not in self.choices:
                hint = did_you_mean(text, self.choices)
                raise ArgumentTypeError(f"{text!r} is not one of its values; {hint}")
            return text if get_origin(self.type) is Literal else self.type(text)
        try:
            value = self.type(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is not {_NAMES[self.type]}") from error
        if isinstance(self.declared, Option):
            least, most = self.declared.at_least, self.declared.at_most
            # Not the other way round: NaN is neither below nor above.
            if not (least is None or value >= least):
                raise ArgumentTypeError(f"{text} is not at least {least:g}")
            if not (most is None or value <= most):
                raise ArgumentTypeError(f"{text} is not at most {most:g}")
        return value


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}", hint=f"`{self.prog} --help` says what it takes")


def call(verb: Callable[..., None], program: str, words: Sequence[str]) -> None:
    """Calls `verb` with what the words of a command line say; `--help` is printed instead.

    Args:
        program: what the user writes before the words.

    Raises:
        UserError: they say what the verb doesn't take.
    """
    parser = _Parser(
        prog=program,
        description=inspect.getdoc(verb),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parameters = _parameters(verb)
    for one in parameters:
        _add(parser, one)
    read, others = parser.parse_known_intermixed_args(words)
    if others:
        options = [name for one in parameters for name in one.option_names]
        hint = f"; {did_you_mean(others[0], options)}" if others[0].startswith("-") else ""
        parser.error(f"{others[0]!r} is not what it takes{hint}")
    verb(**{one.name: _value(parser, one, getattr(read, one.name)) for one in parameters})


def _parameters(verb: Callable[..., None]) -> list[_Parameter]:
    annotations = typing.get_type_hints(verb, include_extras=True)
    found = []
    for name, parameter in inspect.signature(verb).parameters.items():
        annotation = annotations[name]
        assert get_origin(annotation) is Annotated, f"{verb.__module__}: {name}"
        value_type, declared = get_args(annotation)
        if isinstance(value_type, types.UnionType):
            value_type = next(one for one in get_args(value_type) if one is not types.NoneType)
        is_list = get_origin(value_type) is list
        found.append(
            _Parameter(
                name=name,
                declared=declared,
                type=get_args(value_type)[0] if is_list else value_type,
                is_list=is_list,
                default=parameter.default,
            )
        )
    return found


def _add(parser: ArgumentParser, parameter: _Parameter) -> None:
    """None has a default here: what stands in the environment goes before it."""
    declared, read, text = parameter.declared, parameter.read, _help(parameter)
    if isinstance(declared, Argument):
        many, one = ("+", None) if parameter.is_required else ("*", "?")
        nargs, metavar = many if parameter.is_list else one, parameter.name.upper()
        # With a default, or argparse demands a list too that may be empty.
        parser.add_argument(
            parameter.name, nargs=nargs, metavar=metavar, type=read, default=None, help=text
        )
    elif parameter.type is bool:
        parser.add_argument(
            *parameter.option_names,
            dest=parameter.name,
            action="store_true",
            default=None,
            help=text,
        )
    else:
        choices = f"{{{','.join(parameter.choices)}}}" if parameter.choices else None
        parser.add_argument(
            *parameter.option_names,
            dest=parameter.name,
            action="append" if parameter.is_list else "store",
            required=parameter.is_required,
            type=read,
            metavar=declared.metavar or choices,
            help=text,
        )


def _help(parameter: _Parameter) -> str:
    text, declared = parameter.declared.help, parameter.declared
    if isinstance(declared, Option) and declared.environment:
        text += f" [environment: {declared.environment}]"
    is_flag = parameter.type is bool
    if isinstance(parameter.default, (int, float, str)) and parameter.default != "" and not is_flag:
        text += f" [default: {parameter.default}]"
    return text.replace("%", "%%")


def _value(parser: ArgumentParser, parameter: _Parameter, written: Any) -> Any:
    if written not in (None, []):
        return written
    declared = parameter.declared
    text = os.environ.get(declared.environment, "") if isinstance(declared, Option) else ""
    if not text:
        return parameter.default
    try:
        return (
            [parameter.read(one) for one in text.split()]
            if parameter.is_list
            else parameter.read(text)
        )
    except ArgumentTypeError as error:
        assert isinstance(declared, Option)
        parser.error(f"the environment variable {declared.environment}: {error}")
