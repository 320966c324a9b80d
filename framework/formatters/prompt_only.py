"""Rows of a prompt and what judges need -> prompts that the model is to answer itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core import samples
from framework.core.samples import Row
from framework.reading.messages import optional_tools
from framework.reading.prompts import read_prompt
from framework.reading.shapes import columns_hold

_READ = frozenset({"prompt", "system", "tools"})


@dataclass(frozen=True, kw_only=True)
class PromptOnly:
    """Reads `prompt`, text or messages; all other columns go to whoever judges the answers.

    `system` and `tools` are read when a row has them.
    """

    produces: ClassVar[type[samples.Sample]] = samples.PromptOnly

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """A prompt."""
        return columns_hold(row, prompt="messages | text")

    def __call__(self, row: Row) -> samples.PromptOnly:
        """
        Raises:
            RowError: the prompt is missing or empty, or ends with an answer.
        """
        return samples.PromptOnly(
            messages=read_prompt(row, "prompt"),
            tools=optional_tools(row),
            columns={name: value for name, value in row.items() if name not in _READ},
        )
