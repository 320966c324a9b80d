"""Command line and environment -> where a recipe may send rows: the one place that knows.

A recipe from a stranger is data. What it says may not carry the user's rows, or a key, to an
address of its choice, so both need the user's word.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from framework.core.problems import Problem, Refused, UserError

URLS = "FRAMEWORK_ALLOW_URLS"
"""Environment variable that holds allowed addresses, separated by blanks."""
VARIABLES = "FRAMEWORK_ALLOW_ENV"
"""Environment variable that holds the names of variables that may be read."""

_PORTS = {"http": 80, "https": 443}


@contextmanager
def granted(urls: Collection[str], variables: Collection[str]) -> Iterator[None]:
    """Allows both in this process and in those it starts, while the context lasts."""
    before = {name: os.environ.get(name) for name in (URLS, VARIABLES)}
    for name, added in ((URLS, urls), (VARIABLES, variables)):
        if added:
            os.environ[name] = " ".join([*_words(name), *added])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def refuse_unless_allowed(url: str, variable: str | None) -> None:
    """Passes when the user allowed to send rows to `url`, with the key in `variable`.

    An address of this machine needs no consent: what is sent there doesn't leave it.

    Raises:
        Refused: the user did not; says what to write.
    """
    wanted: list[str] = []
    sent = "rows of your data"
    if not is_loopback(url) and not any(_covers(allowed, url) for allowed in _words(URLS)):
        wanted.append(f"--allow-url {url}")
    if variable is not None and variable not in _words(VARIABLES):
        wanted.append(f"--allow-env {variable}")
        sent += f" and the value of {variable}"
    if wanted:
        raise Refused(
            Problem(
                what=f"the recipe asks to send {sent} to {url}",
                hint=f"if you trust that address, write {' '.join(wanted)}, or set "
                f"{URLS} and {VARIABLES}",
            )
        )


def token_of(variable: str) -> str:
    """The token that a recipe names, to be sent to the Hub.

    The Hub is whatever HF_ENDPOINT says; that the variable goes there is the user's to say.

    Raises:
        Refused: the user did not allow to read the variable.
        UserError: it is not set.
    """
    if variable not in _words(VARIABLES):
        raise Refused(
            Problem(
                what=f"the recipe asks to send the value of {variable} to the Hub (token_env)",
                hint=f"if it holds the token for that, write --allow-env {variable}, or set "
                f"{VARIABLES}={variable}",
            )
        )
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UserError(
            f"the environment variable {variable!r} (token_env) is not set",
            hint=f"export {variable}=hf_...; the token itself never belongs in a recipe",
        )
    return token


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _covers(allowed: str, url: str) -> bool:
    """Whether `url` is the allowed address or lies under its path."""
    one, other = urlsplit(allowed), urlsplit(url)
    path = one.path.rstrip("/")
    return (
        _origin(allowed) == _origin(url)
        and one.username is None
        and (other.path.rstrip("/") == path or other.path.startswith(f"{path}/"))
    )


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or _PORTS.get(parts.scheme)


def _words(name: str) -> list[str]:
    return os.environ.get(name, "").split()
