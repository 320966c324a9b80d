"""Chat template, tokenizer and stop tokens -> what a server does with a conversation.

For proofs alone, and written apart from `stops.py`, by which masks are made: what that gets wrong,
this is not to repeat.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.chat.template import ChatTemplate, TemplateMessage, template_messages
from framework.chat.tokens import Vocabulary
from framework.core.samples import Conversation, Message, RowError, ToolCall

_PROBE = "vkx7jqz"
"""A text that no template contains."""
_MOST_TAILS = 64


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The end of served prompts, from their last special token on."""

    text: str
    tokens: tuple[int, ...]
    opening: str
    """The text of its first token."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Answers what proofs ask about serving; remembers what is the same for every row."""

    template: ChatTemplate | None
    vocabulary: Vocabulary
    stop_ids: frozenset[int]
    written_stop: int | None
    """The recipe's own stop token: ends an answer that nothing else ends."""

    def render(
        self,
        messages: Sequence[TemplateMessage],
        tools: Sequence[Mapping[str, Any]],
        *,
        answering: bool,
    ) -> str:
        """The text of the messages; with `answering`, of the prompt that asks for an answer.

        Raises:
            RowError: the template refuses them.
        """
        assert self.template is not None, "what has no template has no conversations"
        return self.template.render(messages, tools, add_generation_prompt=answering)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a rendering."""
        return self.vocabulary.ids(text)

    def prompt_end(self, tokens: tuple[int, ...], prompt: str, near: int) -> int | None:
        """How many tokens the prompt has; None where `tokens` don't begin with them.

        Args:
            tokens: those of a text that begins with `prompt`.
            near: where the end is expected. Special tokens part a text before anything else
                happens to it, so only the tokens since the last of them need a look there.
        """
        tail = self._tail(prompt)
        if tail is not None:
            first = near - len(tail.tokens)
            if (
                first >= 0
                and tokens[first:near] == tail.tokens
                and tokens[:near].count(tail.tokens[0]) == prompt.count(tail.opening)
            ):
                return near
        served = tuple(self.tokens(prompt))
        self._learn(prompt, served)
        return len(served) if tokens[: len(served)] == served else None

    def _tail(self, prompt: str) -> Tail | None:
        return next((tail for tail in self._tails if prompt.endswith(tail.text)), None)

    @functools.cached_property
    def _tails(self) -> list[Tail]:
        return []

    def _learn(self, prompt: str, served: tuple[int, ...]) -> None:
        """Remembers how the prompt ends; the same end needs no second tokenization."""
        place = max((at for at, token in enumerate(served) if token in self.partings), default=None)
        if place is None or len(self._tails) == _MOST_TAILS:
            return
        opening = self.partings[served[place]]
        text = prompt[prompt.rindex(opening) :]
        alone = tuple(self.tokens(text))
        known = any(tail.text == text for tail in self._tails)
        if alone == served[place:] and not known:
            self._tails.append(Tail(text=text, tokens=alone, opening=opening))

    @functools.cached_property
    def partings(self) -> Mapping[int, str]:
        """The texts of special tokens that are recognised wherever these stand, whatever surrounds
        them."""
        texts = {token: self.vocabulary.text_of(token) for token in self.vocabulary.anchors}
        added = [str(text) for text in self.vocabulary.tokenizer.get_added_vocab()]
        return {
            token: text
            for token, text in texts.items()
            if text and not any(_may_cover(other, text) for other in added)
        }

    # ---- ends of answers

    @functools.cached_property
    def closing(self) -> frozenset[int]:
        """Special tokens that the template writes after an answer."""
        text = self._probe(Message(role="assistant", content=_PROBE))
        _, found, after = text.rpartition(_PROBE)
        return frozenset(self.tokens(after) if found else ()) & self.vocabulary.special

    def appended(self, answer: Message) -> int | None:
        """The token that ends an answer after which the template writes none."""
        opening = self._call_end if answer.tool_calls else self._text_end
        return self.written_stop if opening is None else opening

    @functools.cached_property
    def _text_end(self) -> int | None:
        answer = Message(role="assistant", content=_PROBE)
        return self._next_opening(answer, Message(role="user", content=_PROBE))

    @functools.cached_property
    def _call_end(self) -> int | None:
        call = ToolCall(name="call", arguments={}, identifier="call00000")
        answer = Message(role="assistant", content="", tool_calls=(call,))
        result = Message(role="tool", content=_PROBE, tool_call_id=call.identifier, name=call.name)
        return self._next_opening(answer, result)

    def _next_opening(self, answer: Message, following: Message) -> int | None:
        """The stop token with which the turn after an answer begins, if it does."""
        ended = self.tokens(self._probe(answer))
        longer = self.tokens(self._probe(answer, following))
        rest = longer[len(ended) :] if longer[: len(ended)] == ended else []
        return rest[0] if rest and rest[0] in self.stop_ids else None

    def _probe(self, *messages: Message) -> str:
        conversation = Conversation(messages=(Message(role="user", content=_PROBE), *messages))
        try:
            return self.render(template_messages(conversation), (), answering=False)
        except RowError:
            return ""


def _may_cover(other: str, text: str) -> bool:
    """Whether `other`, recognised somewhere, may take characters of a following `text` away."""
    if other == text:
        return any(text.endswith(text[:length]) for length in range(1, len(text)))
    overlaps = any(
        other.endswith(text[:length]) or text.endswith(other[:length])
        for length in range(1, min(len(other), len(text)) + 1)
    )
    return overlaps or text in other
