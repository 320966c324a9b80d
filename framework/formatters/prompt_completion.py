"""Rows of a prompt and its completion -> conversations, or plain continuations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from framework.core.samples import Completion, Conversation, Message, Row, RowError, Sample
from framework.core.settings import setting
from framework.reading.messages import (
    conversation,
    optional_tools,
    parse_turns,
    read_column,
    read_text,
)
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class PromptCompletion:
    """Reads a prompt and its completion, or a question, its context and its answer.

    Prompt and completion are texts, or lists of messages as the format `messages` reads them.
    """

    prompt: str = setting("prompt", not_empty=True)
    """Column that holds the request: `prompt`, `input`, `question` ..."""
    completion: str = setting("completion", not_empty=True)
    """Column that holds the answer: `completion`, `output`, `answer` ..."""
    context: str | None = None
    """Column placed before the prompt, parted by a blank line; rows may leave it empty."""
    chat: bool = True
    """True: a user and an assistant turn in the chat template. False: plain text without one."""

    @property
    def produces(self) -> type[Sample]:
        """A conversation with `chat`, else a completion."""
        return Conversation if self.chat else Completion

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """A prompt and its completion."""
        return columns_hold(row, prompt="messages | text", completion="messages | text")

    def __call__(self, row: Row) -> Sample:
        """
        Raises:
            RowError: a column is missing or empty, or holds neither text nor messages.
        """
        if not self.chat:
            return Completion(prompt=self._prompt(row), completion=read_text(row, self.completion))
        turns = self._turns(row, self.prompt, "user")
        turns += self._turns(row, self.completion, "assistant")
        return conversation(turns, tools=optional_tools(row), where="prompt and completion")

    def _turns(self, row: Row, column: str, role: str) -> list[Message]:
        value = read_column(row, column)
        if not isinstance(value, list):
            text = self._prompt(row) if column == self.prompt else read_text(row, column)
            return [Message(role=role, content=text)]
        if self.context is not None and column == self.prompt:
            raise RowError(f"column {column!r} holds messages, before which no context is placed")
        return parse_turns(value, column)

    def _prompt(self, row: Row) -> str:
        prompt = read_text(row, self.prompt)
        context = read_text(row, self.context, may_be_blank=True) if self.context else ""
        return f"{context}\n\n{prompt}" if context.strip() else prompt
