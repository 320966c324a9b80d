"""A template -> what it writes around texts that it only passes on, found by rendering it once.

Most chat templates write a message's content and never look at it. Then two renderings with other
contents differ in these alone, and filling them in is enough. That is shown, not guessed: the
template is rendered with `Unread` in the place of each text, which can be written, joined to others
and stripped; whatever else a template does with one ends the attempt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.runtime import Macro

from framework.core.sandbox import FAILURES, BoundedEnvironment
from framework.core.template_bounds import TemplateExceeds, joined, meter, shown


class LooksInside(Exception):
    """A template does more with a text than to write it."""


class _Given(NamedTuple):
    """A text that is to be filled in."""

    place: int
    """Among all that are."""
    stripped: bool
    """Without white space around it."""


def _looks_inside(*_: object) -> NoReturn:
    raise LooksInside


class Unread:
    """A text of which some parts are not known, so that no template can look at it."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str | _Given) -> None:
        self.parts = parts

    @staticmethod
    def of(place: int) -> Unread:
        """The given text of this number."""
        return Unread(_Given(place, stripped=False))

    def strip(self) -> Unread:
        """Without white space around it."""
        if len(self.parts) != 1 or not isinstance(self.parts[0], _Given):
            raise LooksInside
        return Unread(_Given(self.parts[0].place, stripped=True))

    def __getattr__(self, name: str) -> NoReturn:
        raise LooksInside

    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __hash__ = _looks_inside  # pyright: ignore[reportAssignmentType]
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _looks_inside  # pyright: ignore[reportAssignmentType]
    __str__ = __repr__ = __format__ = __int__ = __float__ = __index__ = _looks_inside  # pyright: ignore[reportAssignmentType]
    __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _looks_inside


_TESTS = {
    **dict.fromkeys(("defined", "string", "iterable", "sequence"), True),
    **dict.fromkeys(("undefined", "none", "mapping", "number", "integer", "float"), False),
    **dict.fromkeys(("boolean", "true", "false", "callable"), False),
}
"""What these tests say of every text, whatever it says."""


def _is_unread(value: object) -> bool:
    return type(value) is Unread


class OutlineEnvironment(BoundedEnvironment):
    """The sandbox, in which texts may be `Unread`: nothing passes one to what may look at it.

    Raises:
        LooksInside: from any rendering that does more with one than to write it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: _blind(one) for name, one in self.filters.items()}
        self.filters["trim"] = _trim(self.filters["trim"])
        self.tests = {name: _blind_test(name, one) for name, one in self.tests.items()}

    @staticmethod
    def concat(parts: Iterable[Any]) -> Any:
        """Texts, and values that become text, as one."""
        parts = list(parts)
        if not any(map(_is_unread, parts)):
            return joined(parts)
        return Unread(*_texts(parts))

    @staticmethod
    def add_up(*parts: Any) -> Any:
        """What `a + b + c` gives."""
        if not any(map(_is_unread, parts)):
            return BoundedEnvironment.add_up(*parts)
        if not all(_is_unread(part) or type(part) is str for part in parts):
            raise LooksInside
        return Unread(*_texts(parts))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Of an unread text there is `strip` alone."""
        if _is_unread(obj):
            if attribute != "strip":
                raise LooksInside
            return obj.strip
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Of an unread text there is no part."""
        if _is_unread(obj) or _is_unread(argument):
            raise LooksInside
        return super().getitem(obj, argument)

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Only what a template itself defines may be called with one."""
        if _is_unread(getattr(called, "__self__", None)):
            if args or [name for name in kwargs if name not in ("_loop_vars", "_block_vars")]:
                raise LooksInside
            return called()
        if not isinstance(called, Macro):
            _refuse_unread(args, kwargs)
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """No operator but `+` and `~` takes one."""
        _refuse_unread((left, right), {})
        return super().call_binop(context, operator, left, right)


def _texts(parts: Iterable[Any]) -> list[str | _Given]:
    """Of parts that follow each other; fixed ones as one."""
    found: list[str | _Given] = []
    for part in parts:
        for text in part.parts if _is_unread(part) else (shown(part),):
            if found and isinstance(text, str) and isinstance(found[-1], str):
                found[-1] += text
            else:
                found.append(text)
    return found


def _refuse_unread(args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    if any(map(_is_unread, args)) or any(map(_is_unread, kwargs.values())):
        raise LooksInside


def _blind(of_jinja: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not given one."""

    @functools.wraps(of_jinja)  # with the mark that says what it is passed
    def blind(*args: Any, **kwargs: Any) -> Any:
        _refuse_unread(args, kwargs)
        return of_jinja(*args, **kwargs)

    return blind


def _trim(blind: Callable[..., Any]) -> Callable[..., Any]:
    def trim(value: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_unread(value) and not args and not kwargs:
            return value.strip()
        return blind(value, *args, **kwargs)

    return trim


def _blind_test(name: str, of_jinja: Callable[..., Any]) -> Callable[..., Any]:
    """A test that is not given one, unless it says the same of every text."""
    blind = _blind(of_jinja)

    @functools.wraps(of_jinja)
    def test(*args: Any, **kwargs: Any) -> Any:
        if name in _TESTS and len(args) == 1 and _is_unread(args[0]):
            return _TESTS[name]
        return blind(*args, **kwargs)

    return test


@dataclass(frozen=True)
class Outline:
    """What a template writes around the texts that it is given."""

    parts: tuple[str | _Given, ...]

    def filled(self, texts: Sequence[str]) -> str:
        """The whole text with these in it."""
        filled = list(self._fixed)
        for at, place, stripped in self._gaps:
            filled[at] = texts[place].strip() if stripped else texts[place]
        return "".join(filled)

    @functools.cached_property
    def _fixed(self) -> list[str]:
        return [part if isinstance(part, str) else "" for part in self.parts]

    @functools.cached_property
    def _gaps(self) -> list[tuple[int, int, bool]]:
        return [
            (at, part.place, part.stripped)
            for at, part in enumerate(self.parts)
            if isinstance(part, _Given)
        ]


def outline_of(template: jinja2.Template, variables: Mapping[str, Any]) -> Outline | None:
    """What the template writes around the `Unread` texts that are in the variables; None where it
    looks into one, or can't be rendered.

    Args:
        template: compiled by an `OutlineEnvironment`.
    """
    meter.reset()
    try:
        context = template.new_context({**template.globals, **variables}, shared=True)
        return Outline(tuple(_texts(template.root_render_func(context))))
    except (LooksInside, TemplateExceeds, MemoryError, *FAILURES):
        return None
