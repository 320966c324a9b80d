"""The recipe's words about a server that answers chat completions -> where and how it is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framework.core.consent import refuse_unless_allowed
from framework.core.problems import Problem, UserError
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

# Strict, so that no two readers can see different hosts in it.
_URL = re.compile(
    r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?"
    r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?"
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_OURS = ("max_tokens", "messages", "model", "n", "seed", "stream", "temperature")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server that answers chat completions."""

    base_url: str = setting(not_empty=True)
    """Its address up to `/chat/completions`, such as `http://127.0.0.1:8000/v1`. Rows are sent
    there: an address of another machine must be allowed with `--allow-url`."""
    model: str = setting(not_empty=True)
    """The model's name, as the server knows it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, to be allowed with `--allow-env`. The
    key itself is never written to any file."""
    temperature: float | None = setting(0.0, at_least=0, at_most=2)
    """0: the likeliest answer. None: not sent, for models that allow no choice."""
    max_tokens: int | None = setting(512, at_least=1)
    """Longest answer. None: not sent; the server's own limit."""
    seed: int | None = setting(0, at_least=0)
    """For servers that draw the same answer from the same seed. None: not sent."""
    extra: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Further keys of every request, such as `reasoning_effort: low`."""
    max_concurrency: int = setting(8, at_least=1, at_most=512)
    """Requests under way at once."""
    timeout_seconds: float = setting(120.0, above=0)
    """Longest silence of the server before a request is tried again."""
    max_retries: int = setting(5, at_least=0)
    """Further attempts after a timeout, a broken connection, an unreadable answer, or status 408,
    409, 425, 429 or 5xx; with growing pauses, or after the time that the server names."""
    max_requests: int | None = setting(None, at_least=1)
    """Requests in one start of the command, retries included. The next start goes on from there:
    every answer is kept. Endpoints of the same settings share it."""
    max_total_tokens: int | None = setting(None, at_least=1)
    """Tokens in one start of the command, as the server counts them; what is under way when they
    are used up is still waited for."""

    def __repr__(self) -> str:
        """What answers depend on: prepared data is kept under a name made of it."""
        return f"Endpoint(url={self.url!r}, parameters={self.parameters!r})"

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The address and the name of the key's variable must be what they say."""
        if not _URL.fullmatch(self.base_url):
            yield Problem(
                key=".base_url",
                what=f"{self.base_url.partition('@')[2] or self.base_url!r} is not an address "
                "without user, query or dots between slashes",
                hint="write it like `https://api.example.com/v1`",
            )
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # The value is not quoted: it may be the key.
            yield Problem(
                key=".api_key_env",
                what="is not the name of an environment variable in capital letters",
                hint="write the variable's name, never the key: `api_key_env: OPENAI_API_KEY`",
            )
        for name in sorted(set(self.extra) & set(_OURS)):
            yield Problem(
                key=f".extra.{name}", what="has a key of its own or is ours", hint="leave it out"
            )

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def parameters(self) -> dict[str, Any]:
        """What every request says besides its messages."""
        written = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        sent = {name: value for name, value in written.items() if value is not None}
        return {**sent, **self.extra}

    def key(self) -> str:
        """The key, empty when the server needs none.

        Raises:
            Refused: the user did not allow to send rows, or the key, to this address.
            UserError: the variable is not set.
        """
        refuse_unless_allowed(self.base_url.rstrip("/"), self.api_key_env)
        if self.api_key_env is None:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UserError(
                f"the environment variable {self.api_key_env!r} (api_key_env) holds no key",
                hint=f"export {self.api_key_env}=...",
            )
        return key
