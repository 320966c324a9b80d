"""A function of the user's -> rewards, from a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, Refused
from framework.core.rollouts import Scorer
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Python:
    """What a Python function says: `def reward(prompt, completion, columns) -> float`.

    `prompt` is the list of messages, `completion` the answer's text, `columns` the row's other
    columns. A file runs only if the recipe names its SHA-256, so that a recipe from a stranger, or
    a file that was changed, runs nothing. It runs in a process of its own, with limits, without
    your environment's variables, and without a network where the system lets a process give it up;
    but under your account: it can read what you can. It imports installed packages alone.
    """

    path: str = setting(path=True, not_empty=True)
    """The file."""
    sha256: str | None = setting(None, not_empty=True)
    """What the file's SHA-256 must be: your word that it may run. A refusal says which it is."""
    function: str = setting("reward", not_empty=True)
    """The function's name in the file."""
    timeout_seconds: float = setting(60.0, above=0)
    """Longest time for one batch of answers."""
    cpu_seconds: int = setting(3600, at_least=1)
    """Processor time of the process over the whole run."""
    memory_bytes: int = setting(2 << 30, at_least=64 << 20)
    """Memory of the process."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The file must be there, and be the one that was allowed.

        Raises:
            Refused: it may not run.
        """
        try:
            self._allowed()
        except Refused as refused:
            raise Refused(replace(one, key=".sha256") for one in refused.problems) from refused
        except OSError as error:
            what = f"{self.path!r} can't be read: {error.strerror}"
            yield Problem(key=".path", what=what, hint="write the path of a Python file")

    def needs_columns(self) -> Sequence[str]:
        """None that is known."""
        return ()

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`.

        Raises:
            Refused: the file may not run.
            UserError: it doesn't start.
        """
        from framework.online.python_process import PythonProcess

        return PythonProcess(
            path=Path(self.path),
            source=self._allowed(),
            function=self.function,
            timeout_seconds=self.timeout_seconds,
            cpu_seconds=self.cpu_seconds,
            memory_bytes=self.memory_bytes,
        )

    def _allowed(self) -> bytes:
        """The file's content, read once: what is hashed is what runs."""
        source = Path(self.path).read_bytes()
        found = hashlib.sha256(source).hexdigest()
        if self.sha256 is None or self.sha256.lower() != found:
            now = "the recipe doesn't allow it" if self.sha256 is None else "it was changed"
            raise Refused(
                Problem(
                    what=f"the reward `python` asks to run {self.path}, and {now}",
                    hint=f"read the file; if it may run, write sha256: {found}",
                )
            )
        return source
