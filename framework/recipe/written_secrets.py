"""Values of a recipe -> those that are secrets, which belong into variables.

A recipe is copied into the run's folder, its report, trackers and other people's hands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from framework.core.problems import Problem
from framework.recipe.document import KeyPath, Origin, dotted

_IN_ADDRESS = re.compile(r"\w:/+[^\s/@:'\"<>{}$]*:(?!\*+@)[^\s/@'\"<>{}$]+@\w")
_TOKENS = re.compile(
    r"(?<![\w-])(hf_[A-Za-z0-9]{30,}|sk-[\w-]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|glpat-[\w-]{20,}"
    r"|github_pat_\w{50,}|xox[abprs]-[\w-]{20,}|AKIA[A-Z0-9]{16}|AIza[\w-]{35})(?![\w-])"
)
"""What services that runs use give out: a start that says so, and much that nobody can guess."""


def written_secrets(values: Any, origins: Mapping[KeyPath, Origin]) -> Iterator[Problem]:
    """A problem for every written value that holds a password in an address, or a token."""
    for path, text in _texts((), values):
        origin = _nearest(path, origins)
        if origin is not None and origin.from_environment:
            continue
        kind = "a password in an address" if _IN_ADDRESS.search(text) else ""
        kind = kind or ("an access token" if _TOKENS.search(text) else "")
        if kind:
            yield Problem(
                key=dotted(path),
                what=f"holds {kind}, and recipes are copied into reports and trackers",
                hint="put it into a variable: `${oc.env:NAME}` with --allow-env NAME, or a key "
                "such as `token_env: NAME`; and have it replaced, now that it was written down",
                file=origin.file if origin else "",
                line=origin.line if origin else 0,
                column=origin.column if origin else 0,
            )


def _texts(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts((*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts((*path, index), item)


def _nearest(path: KeyPath, origins: Mapping[KeyPath, Origin]) -> Origin | None:
    while path and path not in origins:
        path = path[:-1]
    return origins.get(path)
