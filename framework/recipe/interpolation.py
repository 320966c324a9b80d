"""`${...}` in a document -> the value it stands for, through an allow-list of resolvers."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from framework.core.problems import Problem
from framework.recipe.document import Document, KeyPath, dotted

RESOLVERS = frozenset({"oc.env", "oc.select", "oc.decode"})
"""Resolvers that a recipe may call; `oc.env` only for variables that the user allowed."""

_CALL = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:\s*([^,}]*)")


def interpolate(
    document: Document, defaults: dict[str, Any], allowed_environment: Collection[str]
) -> None:
    """Replaces every `${...}` in place; what can't be resolved becomes a problem.

    `defaults` are the values of keys that the recipe leaves out, so that they can be referred to.
    """
    leaves = list(_interpolations((), document.values))
    if not leaves:
        return
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    refusals = {path: _refusal(text, allowed_environment) for path, text in leaves}
    written = copy.deepcopy(document.values)
    for path in (path for path, refusal in refusals.items() if refusal is not None):
        _put(written, path, "")  # OmegaConf reads the grammar of all of them at once
    tree = OmegaConf.merge(OmegaConf.create(defaults), OmegaConf.create(written))
    resolved: list[tuple[KeyPath, Any]] = []
    from_environment: set[KeyPath] = set()
    for path, text in leaves:
        refusal = refusals[path]
        if refusal is None:
            try:
                with _environment_of(allowed_environment) as variables:
                    resolved.append((path, _resolve(tree, path)))
                if variables:
                    from_environment.add(path)
                continue
            except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
                reason = "refers to itself" if isinstance(error, RecursionError) else str(error)
                refusal = Problem(what=f"{text!r}: {reason.strip().splitlines()[0]}")
        at = document.origins[path]
        document.problems.append(
            replace(refusal, file=at.file, line=at.line, column=at.column, key=dotted(path))
        )
        resolved.append((path, UNRESOLVED))
    texts = dict(leaves)
    for path, value in resolved:
        at = document.origins[path]
        document.origins[path] = replace(
            at, interpolation=texts[path], from_environment=path in from_environment
        )
        _put(document.values, path, value)


@contextmanager
def _environment_of(allowed: Collection[str]) -> Iterator[Collection[str]]:
    """Yields the names of the variables that are read from now on: allowed ones only.

    A text can be put together of pieces, none of which shows what `oc.decode` makes of the whole.
    """

    from omegaconf import OmegaConf
    from omegaconf.resolvers.oc import env

    def read(name: str, *default: str) -> Any:
        if name not in allowed:
            raise ValueError(f"may not read the environment variable {name!r}")
        names.append(name)
        return env(name, *default)

    names: list[str] = []
    OmegaConf.register_resolver("oc.env", read, replace=True)
    try:
        yield names
    finally:
        OmegaConf.register_resolver("oc.env", env, replace=True)


class _Unresolved:
    """Stands for a value whose interpolation failed, so that it isn't reported twice."""


UNRESOLVED = _Unresolved()


def _put(container: Any, path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        container = container[part]
    container[path[-1]] = value


def _interpolations(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _interpolations((*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _interpolations((*path, index), item)
    elif isinstance(value, str) and "${" in value:
        yield path, value


def _refusal(text: str, allowed_environment: Collection[str]) -> Problem | None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.create({"text": text})
    except OmegaConfBaseException as error:
        return Problem(what=f"{text!r}: {str(error).splitlines()[0]}", hint="write ${KEY}")
    for name, argument in _CALL.findall(text):
        if name not in RESOLVERS:
            allowed = ", ".join(sorted(RESOLVERS))
            return Problem(what=f"the resolver {name!r} is not allowed", hint=f"allowed: {allowed}")
        variable = argument.strip()
        if name != "oc.env":
            continue
        if variable not in allowed_environment:
            return Problem(
                what=f"may not read the environment variable {variable!r}",
                hint=f"allow it on the command line: --allow-env {variable}",
            )
        if variable not in os.environ and "," not in text:
            return Problem(
                what=f"the environment variable {variable!r} is not set",
                hint=f"set it, or write a default: ${{oc.env:{variable},DEFAULT}}",
            )
    return None


def _resolve(tree: Any, path: KeyPath) -> Any:
    from omegaconf import OmegaConf

    container = tree
    for part in path[:-1]:
        container = container[part]
    value = container[path[-1]]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
