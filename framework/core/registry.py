"""Component name -> class: the files of a package are the registry, entry points add to it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.settings import summary


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One component that can be named in a recipe."""

    name: str
    summary: str
    origin: str
    """`built-in`, or the distribution that brings it."""


@functools.cache
def _entry_points() -> Any:
    """Of every installed distribution; all of them are read once for all kinds.

    Python 3.11 has another class for it than later ones; both have `select`.
    """
    return importlib.metadata.entry_points()


class Registry:
    """All components of one kind.

    A built-in's name is its file name, and its class is the one whose name equals the file's,
    ignoring case and underscores (`prompt_completion.py` -> `PromptCompletion`). Other
    distributions register through the entry-point group `framework.KIND`. Only a component that is
    asked for is imported.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.package = f"framework.{kind}"

    @functools.cached_property
    def _builtin(self) -> frozenset[str]:
        package = importlib.import_module(self.package)
        return frozenset(module.name for module in pkgutil.iter_modules(package.__path__))

    @functools.cached_property
    def _foreign(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for point in _entry_points().select(group=self.package):
            if point.name in self._builtin or point.name in found:
                owner = found[point.name].value if point.name in found else self.package
                raise UserError(
                    f"{self.kind}: the name {point.name!r} is registered by {point.value!r} "
                    f"and by {owner!r}",
                    hint="uninstall one of them, or rename its entry point",
                )
            found[point.name] = point
        return found

    def names(self) -> tuple[str, ...]:
        """Every name a recipe may write, sorted; imports no component."""
        return tuple(sorted({*self._builtin, *self._foreign}))

    def get(self, name: str) -> type:
        """The component's class.

        Raises:
            UserError: the name is unknown, or a foreign component cannot be imported.
        """
        if name in self._foreign:
            return self._load_foreign(name)
        if name not in self._builtin:
            raise UserError(self.unknown(name))
        module = importlib.import_module(f"{self.package}.{name}")
        wanted = name.replace("_", "").lower()
        for attribute, value in vars(module).items():
            if isinstance(value, type) and attribute.lower() == wanted:
                return value
        raise AssertionError(f"{module.__name__} defines no class named like its file")

    def _load_foreign(self, name: str) -> type:
        point = self._foreign[name]
        try:
            return point.load()
        except Exception as error:  # any fault of foreign code becomes one line for the user
            raise UserError(
                f"{self.kind} {name!r} ({point.value}) can't be imported: {error!r}",
                hint="install what it needs, or uninstall it",
            ) from error

    def name_of(self, component: type) -> str | None:
        """The name under which a class is registered here, None when it is not."""
        home, _, name = component.__module__.rpartition(".")
        if home == self.package and name in self._builtin:
            return name
        written = f"{component.__module__}:{component.__qualname__}"
        return next((n for n, point in self._foreign.items() if point.value == written), None)

    def unknown(self, name: object) -> Problem:
        """The problem of a name that nobody registered."""
        written = str(name)
        hint = did_you_mean(written, self.names())
        if self.kind == "data_sources" and "." in written and "://" not in written:
            hint = (
                "the file's ending names no data source: say how it is read, as in "
                f"`source: {{type: jsonl, path: {written}}}`"
            )
        return Problem(what=f"{name!r} is not one of the {self.kind}", hint=hint)

    def entries(self) -> tuple[Entry, ...]:
        """Every component with one line about it; imports them all."""
        return tuple(
            Entry(name=name, summary=summary(self.get(name)), origin=self._origin(name))
            for name in self.names()
        )

    def _origin(self, name: str) -> str:
        if name in self._builtin:
            return "built-in"
        distribution = self._foreign[name].dist
        return distribution.name if distribution else self._foreign[name].value
