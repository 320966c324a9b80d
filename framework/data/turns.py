"""Rendered conversation -> which of its tokens answer what a server will see, and the proof."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from framework.core.batch import Encoded
from framework.core.samples import Conversation, Message, RowError
from framework.data.survival import Unprovable, check_answer, find_text
from framework.data.template import (
    ChatTemplate,
    TemplateMessage,
    template_messages,
    template_tools,
)
from framework.data.tokens import Rendered, Vocabulary, common_length

_OTHER_TEMPLATE = (
    "write `tokenizer.template_arguments` that make both equal, "
    "or another `tokenizer.chat_template`"
)


@dataclass(frozen=True, kw_only=True)
class Stops:
    """The tokens that end an answer."""

    ids: frozenset[int]
    """A server stops at any of them."""
    appended: int | None
    """Ends a conversation whose last answer the template leaves open."""
    closing: Callable[[], frozenset[int]]
    """Special tokens that the template writes after any answer."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """One conversation in one rendering, and how its turns are told apart."""

    conversation: Conversation
    following: Message | None
    """The message after the conversation's end, where the sample has one."""
    template: ChatTemplate
    vocabulary: Vocabulary
    stops: Stops

    def encoded(self, trained: Sequence[bool]) -> Encoded:
        """The conversation with the messages that `trained` marks, one flag per message.

        An answer is trained from where the server's prompt ends through its stop token, other
        messages from where the rendering without them ends to where theirs ends.

        Raises:
            Unprovable: the same conversation may be provable when rendered turn by turn.
            RowError: the template leaves out something that the messages say.
        """
        tokens = list(self.full.tokens)
        mask = [False] * len(tokens)
        position = 0
        for index, message in enumerate(self.conversation.messages):
            if trained[index] and message.role == "assistant":
                start, stop = self._answer(index)
                if stop == len(tokens):
                    tokens.append(self._appended())
                    mask.append(False)
                mask[start : stop + 1] = [True] * (stop + 1 - start)
                position = self._character(stop)
            elif message.role != "assistant":
                position = self._find(index, position)
        if all(trained):
            mask = [True] * len(mask)
        else:
            self._train_others(trained, mask)
        mask[:1] = [False] * len(mask[:1])
        return Encoded(tokens=tuple(tokens), trained=tuple(mask))

    @functools.cached_property
    def full(self) -> Rendered:
        """The whole conversation, as it is trained."""
        return Rendered.of(self._text(len(self._messages)), self.vocabulary)

    @functools.cached_property
    def _messages(self) -> list[TemplateMessage]:
        return template_messages(self.conversation)

    @functools.cached_property
    def _tools(self) -> list[Mapping[str, Any]]:
        return template_tools(self.conversation)

    def _text(self, count: int, *, add_generation_prompt: bool = False) -> str:
        """The first `count` messages as a server renders them."""
        return self.template.render(
            self._messages[:count], self._tools, add_generation_prompt=add_generation_prompt
        )

    def _called(self, index: int) -> str:
        return f"message {index + 1} ({self.conversation.messages[index].role})"

    def _character(self, token: int) -> int:
        """Where the token's text ends; the end of the text for an appended token."""
        offsets = self.full.offsets
        return offsets[token][1] if token < len(offsets) else len(self.full.text)

    # ---- answers

    def _answer(self, index: int) -> tuple[int, int]:
        """First and last trained token of an assistant turn."""
        if index == 0:
            raise RowError(
                "the conversation begins with an assistant turn, which answers nothing",
                hint="put a user message before it, or set `train: false` on it",
            )
        prompt = self._text(index, add_generation_prompt=True)
        start = self._prompt_tokens(index, prompt)
        stop = self._stop(index, start)
        check_answer(
            self.full.text[len(prompt) : self._character(stop)],
            self.conversation.messages[index],
            self._called(index),
        )
        return start, stop

    def _prompt_tokens(self, index: int, prompt: str) -> int:
        """Number of tokens of the server's prompt, proven to be those that training begins with."""
        if not self.full.text.startswith(prompt):
            raise Unprovable(self._prompt_differs(index, prompt), hint=_OTHER_TEMPLATE)
        agreement = self.full.agreement(prompt)
        if not agreement.whole:
            begins = self.full.text[len(prompt) :][:10]
            raise Unprovable(
                f"tokens merge across the start of {self._called(index)}: at serving the prompt "
                f"ends with {prompt[-10:]!r}, in training {begins!r} follows and changes its last "
                f"tokens",
                hint="remove the whitespace at the start of the answer",
            )
        return agreement.num_tokens

    def _prompt_differs(self, index: int, prompt: str) -> str:
        text = self.full.text
        same = common_length(text, prompt)
        if same < common_length(self._text(index), prompt):
            return (
                f"the turns before {self._called(index)} are rendered differently once later "
                f"turns follow: {prompt[same:][:40]!r} becomes {text[same:][:40]!r}"
            )
        message = self.conversation.messages[index]
        begins = (message.reasoning.strip() or message.content.strip())[:20]
        answer = text.find(begins, same) if begins else -1
        in_training = text[same:answer] if 0 <= answer - same <= 80 else text[same:][:40]
        return (
            f"at serving the answer in {self._called(index)} is preceded by {prompt[same:]!r}, "
            f"in training by {in_training!r}"
        )

    def _stop(self, index: int, start: int) -> int:
        """Position of the token that ends the turn; the number of tokens when it is appended."""
        tokens = self.full.tokens
        last = index + 1 == len(self._messages)
        alone = self.full.text if last else self._text(index + 1)
        agreement = self.full.agreement(alone)
        end = agreement.num_tokens
        found = self._stop_between(index, start, end)
        if found is not None:
            return found
        if not agreement.whole:
            raise Unprovable(self._turn_changes(index, alone), hint=_OTHER_TEMPLATE)
        if end < len(tokens) and tokens[end] in self.stops.ids:
            return end
        if last and self.stops.appended is not None:
            return len(tokens)
        raise Unprovable(
            f"{self._called(index)} ends without a token that stops generation: its rendering "
            f"ends with {alone[-20:]!r}",
            hint=self._stop_hint(start, end, last=last),
        )

    def _stop_between(self, index: int, start: int, end: int) -> int | None:
        tokens = self.full.tokens
        turn = range(start, end)
        stop = next((place for place in turn if tokens[place] in self.stops.ids), None)
        if stop is not None:
            if not self._blank(stop + 1, end):
                name = self.vocabulary.text_of(tokens[stop])
                raise Unprovable(
                    f"{self._called(index)} goes on after {name!r}, at which a server stops: "
                    f"{self._between(stop + 1, end)[:40]!r}",
                    hint="take it out of `tokenizer.stop_tokens`, or write another template",
                )
            return stop
        special = self.vocabulary.special
        stop = next((place for place in reversed(turn) if tokens[place] in special), None)
        if stop is None or not self._blank(stop + 1, end):
            return None
        return stop if tokens[stop] in self.stops.closing() else None

    def _between(self, start: int, end: int) -> str:
        offsets = self.full.offsets
        return self.full.text[offsets[start][0] : offsets[end - 1][1]] if start < end else ""

    def _blank(self, start: int, end: int) -> bool:
        """Whether these tokens are only whitespace and special tokens."""
        special, tokens = self.vocabulary.special, self.full.tokens
        return all(
            tokens[place] in special or not self._between(place, place + 1).strip()
            for place in range(start, end)
        )

    def _turn_changes(self, index: int, alone: str) -> str:
        same = common_length(self.full.text, alone)
        before, after = alone[same:][:40], self.full.text[same:][:40]
        thinking = " (thinking is left out of earlier turns)" if "think" in before else ""
        return (
            f"{self._called(index)} changes when later turns are added{thinking}: "
            f"{before!r} becomes {after!r}"
        )

    def _stop_hint(self, start: int, end: int, *, last: bool) -> str:
        special = self.vocabulary.special
        found = [token for token in self.full.tokens[start:end] if token in special]
        token = found[-1] if found else self.vocabulary.end_of_sequence
        if token is None or (not found and not last):
            return "write a `tokenizer.chat_template` that ends every answer with a stop token"
        name = json.dumps(self.vocabulary.text_of(token), ensure_ascii=False)
        return f"write `tokenizer.stop_tokens: [{name}]`"

    def _appended(self) -> int:
        """What ends the last answer: what the sample's next turn would begin with, if it stops."""
        if self.following is not None:
            longer = replace(
                self.conversation, messages=(*self.conversation.messages, self.following)
            )
            text = self.template.render(
                template_messages(longer), self._tools, add_generation_prompt=False
            )
            if text.startswith(self.full.text):
                after = self.vocabulary.encode(text[len(self.full.text) :]).ids
                if after and after[0] in self.stops.ids:
                    return after[0]
        assert self.stops.appended is not None
        return self.stops.appended

    # ---- other roles

    def _train_others(self, trained: Sequence[bool], mask: list[bool]) -> None:
        for index, message in enumerate(self.conversation.messages):
            if trained[index] and message.role != "assistant":
                start = self._end_of(index) if index else 0
                end = self._end_of(index + 1)
                text = self._between(start, end)
                if find_text(message.content, text, 0) is None:
                    raise Unprovable(
                        f"the template gives {self._called(index)} no place of its own: between "
                        f"the rendering without it and the one with it lies {text[:40]!r}",
                        hint=_OTHER_TEMPLATE,
                    )
                mask[start:end] = [True] * (end - start)

    def _end_of(self, count: int) -> int:
        """Number of tokens that the first `count` messages put at the start of the whole."""
        if count == len(self._messages):
            return len(self.full.tokens)
        return self.full.agreement(self._text(count)).num_tokens

    def _find(self, index: int, position: int) -> int:
        """Where the message's text ends, searched from `position`."""
        message = self.conversation.messages[index]
        # Templates may gather system messages at the top.
        begin = 0 if message.role == "system" else position
        end = find_text(message.content, self.full.text, begin)
        if end is None:
            raise RowError(
                f"the template drops or changes the text of {self._called(index)}: "
                f"{message.content.strip()[:40]!r} is not in the rendering",
                hint="write a `tokenizer.chat_template` that has a place for it",
            )
        return max(position, end)
