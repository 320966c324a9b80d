"""Stop tokens and a template -> which token ends an answer, found by asking the template."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from framework.chat.template import ChatTemplate, template_messages
from framework.chat.tokens import Rendered, Vocabulary
from framework.core.samples import Conversation, Message, RowError, ToolCall

MARKER = "qzx0xzq"
"""A text that no template contains."""


@dataclass(frozen=True, kw_only=True)
class Stops:
    """The tokens that end an answer."""

    ids: frozenset[int]
    """A server stops at any of them."""
    written: int | None
    """The recipe's own: ends a conversation whose last answer nothing else ends."""
    template: ChatTemplate
    vocabulary: Vocabulary

    @functools.cached_property
    def closing(self) -> frozenset[int]:
        """Special tokens that the template writes after any answer, such as `<|im_end|>`."""
        text = self._probe(Message(role="assistant", content=MARKER))
        _, found, rest = text.rpartition(MARKER)
        return self.vocabulary.special & set(self.vocabulary.ids(rest) if found else ())

    def after(self, answer: Message) -> int | None:
        """What ends an answer that the template leaves open.

        Where the next turn begins with a token at which a server stops, as in GLM, a model ends
        its answer with that token; else the recipe says which.
        """
        following = self._after_call if answer.tool_calls else self._after_text
        return self.written if following is None else following

    @functools.cached_property
    def _after_text(self) -> int | None:
        answer = Message(role="assistant", content=MARKER)
        return self._opening(answer, Message(role="user", content=MARKER))

    @functools.cached_property
    def _after_call(self) -> int | None:
        call = ToolCall(name="call", arguments={}, identifier="call00000")
        answer = Message(role="assistant", content="", tool_calls=(call,))
        result = Message(role="tool", content=MARKER, tool_call_id=call.identifier, name=call.name)
        return self._opening(answer, result)

    def _opening(self, answer: Message, following: Message) -> int | None:
        """First token of the turn that follows, if it is a stop token."""
        rendered = Rendered.of(self._probe(answer), self.vocabulary)
        longer = self._probe(answer, following)
        agreement = rendered.agreement(longer)
        if not longer or agreement.num_tokens < len(rendered.tokens):
            return None
        tokens = self.vocabulary.ids(longer)[agreement.num_tokens :]
        return tokens[0] if tokens and tokens[0] in self.ids else None

    def _probe(self, *messages: Message) -> str:
        """A question and these messages rendered; empty where the template refuses them."""
        question = Message(role="user", content=MARKER)
        conversation = Conversation(messages=(question, *messages))
        try:
            return self.template.render(
                template_messages(conversation), add_generation_prompt=False
            )
        except RowError:
            return ""
