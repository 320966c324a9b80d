"""What any component may have besides what its kind demands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from framework.core.problems import Problem

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@runtime_checkable
class Checked(Protocol):
    """A component with constraints on the recipe around it."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Every conflict. A problem's `key` is a dotted path of the recipe, or, with a leading
        dot, one of the component's own fields wherever the component stands."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A component that decides something by itself, and says so."""

    def notes(self, recipe: Recipe) -> Iterable[Problem]:
        """What it decided and why; keys as in `Checked.check`."""
        ...


@runtime_checkable
class Located(Protocol):
    """A component that can be written as a plain string."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, Any] | None:
        """The component's fields if the string is its own, None if it is not."""
        ...
