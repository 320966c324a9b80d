"""A conversation and a template -> its renderings, and the faults of a template as one type."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.chat.encoder import ChatEncoder
from framework.chat.stops import Stops
from framework.chat.template import (
    ChatTemplate,
    TemplateMessage,
    template_messages,
    template_tools,
)
from framework.chat.template_header import TemplateHeader, template_header
from framework.chat.tokens import Vocabulary
from framework.core.samples import Conversation, Message, RowError

Place = tuple[str, int]
"""A rendering, and the character in it where something is."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a rule found in one conversation."""

    rule: str
    what: str
    hint: str = ""
    trained: Place | None = None
    """Where it is in the rendering that is trained."""
    served: Place | None = None
    """Where it is in what a server makes of the same messages."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One conversation under one template, rendered only as far as it is asked for."""

    conversation: Conversation
    chat: ChatEncoder
    template: ChatTemplate
    own_template: bool = False
    """Whether it is the tokenizer's own: the model was trained with it."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer."""
        return self.chat.vocabulary

    @property
    def stops(self) -> Stops:
        """What ends an answer."""
        return self.chat.stops

    @property
    def header(self) -> TemplateHeader:
        """What the template declares."""
        return template_header(self.template.text)

    @property
    def answers(self) -> Sequence[int]:
        """Indices of the assistant's messages that answer something."""
        messages = self.conversation.messages
        return [at for at, one in enumerate(messages) if at and one.role == "assistant"]

    @functools.cached_property
    def messages(self) -> list[TemplateMessage]:
        """The messages as templates read them."""
        return template_messages(self.conversation)

    @functools.cached_property
    def tools(self) -> list[Mapping[str, Any]]:
        """The tools as templates read them."""
        return template_tools(self.conversation)

    @functools.cached_property
    def full(self) -> str:
        """The whole conversation, as it is trained.

        Raises:
            RowError: the template refuses it.
        """
        return self.until(len(self.messages))

    def until(self, count: int) -> str:
        """The first `count` messages.

        Raises:
            RowError: the template refuses them.
        """
        return self._rendered(count, False)

    def prompt(self, index: int) -> str:
        """What a server makes of the messages before the one at `index`.

        Raises:
            RowError: the template refuses them.
        """
        return self._rendered(index, True)

    def _rendered(self, count: int, add_generation_prompt: bool) -> str:
        key = (count, add_generation_prompt)
        if key not in self._texts:
            self._texts[key] = self.template.render(
                self.messages[:count], self.tools, add_generation_prompt=add_generation_prompt
            )
        return self._texts[key]

    @functools.cached_property
    def _texts(self) -> dict[tuple[int, bool], str]:
        return {}

    def called(self, index: int) -> str:
        """The message in a sentence."""
        return f"message {index + 1} ({self.conversation.messages[index].role})"

    def first(self, index: int) -> int:
        """Where the text of an answer begins in the rendering that ends with it."""
        own, prompt = self.until(index + 1), len(self.prompt(index))
        places = [own.find(part, prompt) for part in said(self.conversation.messages[index])]
        return min((place for place in places if place >= 0), default=min(prompt, len(own)))

    def end(self, index: int) -> int:
        """Where the text of an answer ends in the rendering that ends with it."""
        own = self.until(index + 1)
        ends = [
            place + len(part)
            for part in said(self.conversation.messages[index])
            if (place := own.rfind(part)) >= 0
        ]
        return max(ends, default=min(len(self.prompt(index)), len(own)))

    def is_said(self, index: int) -> bool:
        """Whether anything of an answer is in the rendering that ends with it."""
        own, prompt = self.until(index + 1), self.prompt(index)
        answer = own.removeprefix(prompt)
        parts = said(self.conversation.messages[index])
        return not parts or any(part in answer for part in parts)

    def refusal(self) -> RowError | None:
        """Why the template can't render the conversation or one of its prompts, if so."""
        try:
            _ = self.full
            for index in self.answers:
                self.prompt(index)
                self.until(index + 1)
        except RowError as error:
            return error
        return None


def said(message: Message) -> list[str]:
    """The texts of an assistant's message, without whitespace around them."""
    calls = [text for call in message.tool_calls for text in (call.name, *_texts(call.arguments))]
    texts = (message.reasoning, message.content, *calls)
    return [text.strip() for text in texts if text.strip()]


def _texts(arguments: Mapping[str, Any]) -> list[str]:
    return [text for item in arguments.items() for text in item if isinstance(text, str)]
