"""The settings of two starts of a run -> those that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from framework.recipe.document import KeyPath, dotted, split_key

_By = Mapping[KeyPath, str]


@dataclass(frozen=True, kw_only=True)
class ChangedSetting:
    """A setting, section or item of a list that is not as it was."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.key}: was {self.was}, is {self.now}"


def changed_settings(earlier: Mapping[str, str], now: Mapping[str, str]) -> list[ChangedSetting]:
    """What differs between the settings of two starts, key -> shown value.

    A section that one of them has in the place of a value, such as none, is a difference, and so is
    an item that only one list has. A field that one of two sections has is none: another version
    of the framework knows it, or another component, whose `type` differs.
    """
    before, after = ({split_key(key): one[key] for key in one} for one in (earlier, now))
    known = tuple(
        {path[:end] for path in one for end in range(1, len(path) + 1)} for one in (before, after)
    )
    places: dict[KeyPath, None] = {}
    for one, other, known_there in ((after, before, known[0]), (before, after, known[1])):
        for path, value in one.items():
            if path not in other:
                place = _differing(path, other, known_there)
            else:
                place = path if value != other[path] else None
            if place is not None:
                places[place] = None
    return [
        ChangedSetting(key=dotted(place), was=_shown(before, place), now=_shown(after, place))
        for place in places
    ]


def _differing(path: KeyPath, other: _By, known: set[KeyPath]) -> KeyPath | None:
    """Where settings without this one differ from those with it; None where nothing says that they
    do.

    Args:
        known: what settings without it have, and all sections and lists of them.
    """
    for end in range(1, len(path) + 1):
        place = path[:end]
        is_new_item = isinstance(place[-1], int) and place not in known and place[:-1] in known
        if place in other or is_new_item:
            return place
    return None


def _shown(settings: _By, place: KeyPath) -> str:
    """The value of a key, or a section or a list on one line, without what is none in it; of an
    item that a list doesn't have none too."""
    if place in settings:
        return settings[place]
    depth = len(place)
    inner = dict.fromkeys(path[depth] for path in settings if path[:depth] == place)
    if not inner:
        return "none"
    shown = {part: _shown(settings, (*place, part)) for part in inner}
    if all(isinstance(part, int) for part in inner):
        return f"[{', '.join(shown.values())}]"
    return f"{{{', '.join(f'{part}: {text}' for part, text in shown.items() if text != 'none')}}}"
