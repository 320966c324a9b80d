"""Rendered conversation -> which of its tokens answer what a server will see, and the proof."""

from __future__ import annotations

import json
from collections.abc import Sequence

from framework.chat.reasoning import thinking_end
from framework.chat.stops import Stops
from framework.chat.survival import Unprovable, check_answer, find_text
from framework.chat.template import (
    ChatTemplate,
    template_messages,
    template_tools,
)
from framework.chat.tokens import Agreement, Rendered, Vocabulary, common_length
from framework.core.batch import Encoded
from framework.core.samples import Conversation, Message, RowError

_OTHER_TEMPLATE = (
    "write `tokenizer.template_arguments` that make both equal, "
    "or another `tokenizer.chat_template`"
)


class Turns:
    """One conversation in one rendering, and how its turns are told apart."""

    def __init__(
        self,
        *,
        conversation: Conversation,
        trained: Sequence[bool],
        template: ChatTemplate,
        vocabulary: Vocabulary,
        stops: Stops,
        final_only: bool = False,
    ) -> None:
        """
        Args:
            trained: which messages are trained.
            final_only: of an answer, only what follows its thinking is trained.
        """
        self.conversation = conversation
        self.trained = trained
        self.template = template
        self.vocabulary = vocabulary
        self.stops = stops
        self.final_only = final_only
        self._messages = template_messages(conversation)
        self._tools = template_tools(conversation)
        self._last_prompt: str | None = None
        self.full = self._rendered()
        """The whole conversation, as it is trained."""

    def encoded(self) -> Encoded:
        """The conversation's tokens, and which of them say the trained messages.

        An answer is trained from where the server's prompt ends through its stop token, other
        messages from where the rendering without them ends to where theirs ends.

        Raises:
            Unprovable: the same conversation may be provable when rendered turn by turn.
            RowError: the template leaves out something that the messages say.
        """
        tokens = list(self.full.tokens)
        mask = [False] * len(tokens)
        position = 0
        thinking: list[tuple[int, int]] = []
        for index, message in enumerate(self.conversation.messages):
            if self.trained[index] and message.role == "assistant":
                start, stop = self._answer(index)
                if stop == len(tokens):
                    tokens.append(self._appended(message))
                    mask.append(False)
                mask[start : stop + 1] = [True] * (stop + 1 - start)
                if self.final_only:
                    thinking.append((start, self._after_thinking(index, start, stop)))
                position = self.full.end_of(stop)
            elif message.role != "assistant":
                position = self._find(index, position)
        if all(self.trained):
            mask = [True] * len(mask)
        else:
            self._train_others(mask)
        for start, end in thinking:
            mask[start:end] = [False] * (end - start)
        mask[:1] = [False] * len(mask[:1])
        return Encoded(tokens=tuple(tokens), trained=tuple(mask))

    def _rendered(self) -> Rendered:
        """Where the last answer's first tokens would merge with the end of the server's prompt, the
        prompt keeps its own tokens: the model goes on from these."""
        rendered = Rendered.of(self._text(len(self._messages)), self.vocabulary)
        last = len(self._messages) - 1
        if not (self.trained[last] and self._messages[last]["role"] == "assistant"):
            return rendered
        prompt = self._prompt(last)
        if not rendered.text.startswith(prompt) or rendered.agreement(prompt).whole:
            return rendered
        return rendered.cut(len(prompt))

    def _text(self, count: int, *, add_generation_prompt: bool = False) -> str:
        """The first `count` messages as a server renders them."""
        return self.template.render(
            self._messages[:count], self._tools, add_generation_prompt=add_generation_prompt
        )

    def _prompt(self, index: int) -> str:
        """What a server makes of the messages before an assistant turn."""
        if index == 0:
            raise RowError(
                "the conversation begins with an assistant turn, which answers nothing",
                hint="put a user message before it, or set `train: false` on it",
            )
        if index < len(self._messages) - 1:
            return self._text(index, add_generation_prompt=True)
        if self._last_prompt is None:
            self._last_prompt = self._text(index, add_generation_prompt=True)
        return self._last_prompt

    def _called(self, index: int) -> str:
        return f"message {index + 1} ({self.conversation.messages[index].role})"

    # ---- answers

    def _answer(self, index: int) -> tuple[int, int]:
        """First and last trained token of an assistant turn."""
        prompt = self._prompt(index)
        start = self._prompt_tokens(index, prompt)
        stop = self._stop(index, start)
        check_answer(
            self.full.text[len(prompt) : self.full.end_of(stop)],
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
            raise Unprovable(
                f"tokens merge across the start of {self._called(index)}: the prompt's last "
                f"tokens, which end with {prompt[-10:]!r}, are others before "
                f"{self.full.text[len(prompt) :][:10]!r}",
                hint="write `data.turns: each`: the tokens of a last answer can be cut there"
                if index + 1 < len(self._messages)
                else _OTHER_TEMPLATE,
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
        begins = (part.strip()[:20] for part in (message.reasoning, message.content))
        places = [text.find(begin, same) for begin in begins if begin]
        answer = min((place for place in places if place >= 0), default=same + 40)
        first = self.full.last_anchor(same)
        return (
            f"at serving the answer in {self._called(index)} is preceded by {prompt[first:]!r}, "
            f"in training by {text[first : min(answer, same + 80)]!r}"
        )

    def _stop(self, index: int, start: int) -> int:
        """Position of the token that ends the turn; the number of tokens when it is appended."""
        tokens = self.full.tokens
        last = index + 1 == len(self._messages)
        alone = self.full.text if last else self._text(index + 1)
        whole = Agreement(num_tokens=len(tokens), whole=True)
        agreement = whole if last else self.full.agreement(alone)
        end = agreement.num_tokens
        found = self._stop_between(index, start, end)
        if found is not None:
            return found
        if not agreement.whole:
            raise Unprovable(self._turn_changes(index, alone, end), hint=_OTHER_TEMPLATE)
        if end < len(tokens) and tokens[end] in self.stops.ids:
            return end
        if last and self.stops.after(self.conversation.messages[index]) is not None:
            return len(tokens)
        raise Unprovable(
            f"{self._called(index)} ends without a token that stops generation: its rendering "
            f"ends with {alone[-20:]!r}",
            hint=self._stop_hint(start, end, last=last),
        )

    def _stop_between(self, index: int, start: int, end: int) -> int | None:
        tokens = self.full.tokens
        stop = self.full.first_of(self.stops.ids, start, end)
        if stop is not None:
            if not self._blank(stop + 1, end):
                name = self.vocabulary.text_of(tokens[stop])
                raise Unprovable(
                    f"{self._called(index)} goes on after {name!r}, at which a server stops: "
                    f"{self.full.between(stop + 1, end)[:40]!r}",
                    hint="take it out of `tokenizer.stop_tokens`, or write another template",
                )
            return stop
        stop = self._last_special(start, end)
        return stop if stop is not None and tokens[stop] in self.stops.closing else None

    def _last_special(self, start: int, end: int) -> int | None:
        """The special token after which a stretch has only whitespace."""
        special, tokens = self.vocabulary.special, self.full.tokens
        found = (place for place in reversed(range(start, end)) if tokens[place] in special)
        last = next(found, None)
        return last if last is not None and self._blank(last + 1, end) else None

    def _blank(self, start: int, end: int) -> bool:
        """Whether these tokens are only whitespace and special tokens."""
        special, tokens = self.vocabulary.special, self.full.tokens
        return all(
            tokens[place] in special or not self.full.between(place, place + 1).strip()
            for place in range(start, end)
        )

    def _turn_changes(self, index: int, alone: str, end: int) -> str:
        tokens, text = self.full.tokens, self.full.text
        same = self.full.start_of(end) if end < len(tokens) else len(text)
        before, after = alone[same:][:40], text[same:][:40]
        thinking = " (thinking is left out of earlier turns)" if "think" in before else ""
        return (
            f"{self._called(index)} changes when later turns are added{thinking}: "
            f"{before!r} becomes {after!r}"
        )

    def _stop_hint(self, start: int, end: int, *, last: bool) -> str:
        final = self._last_special(start, end)
        if final is None and not last:
            return "write a `tokenizer.chat_template` that ends every answer with a stop token"
        token = self.vocabulary.end_of_sequence if final is None else self.full.tokens[final]
        name = "..." if token is None else self.vocabulary.text_of(token)
        return f"write `tokenizer.stop_tokens: [{json.dumps(name, ensure_ascii=False)}]`"

    def _appended(self, answer: Message) -> int:
        token = self.stops.after(answer)
        assert token is not None
        return token

    def _after_thinking(self, index: int, start: int, stop: int) -> int:
        """The first token of an answer that belongs to what follows its thinking."""
        begin = len(self._prompt(index))
        text = self.full.text[begin : self.full.end_of(stop)]
        message, called = self.conversation.messages[index], self._called(index)
        length, closed = thinking_end(text, message, called)
        if not length:
            return start
        inside = (place for place in range(start, stop) if self.full.end_of(place) > begin + length)
        first = next(inside, stop)
        if first < stop and self.full.start_of(first) < begin + length:
            if self.full.text[begin + length : self.full.end_of(first)].strip():
                raise Unprovable(
                    f"tokens merge across the end of the thinking in {called}: "
                    f"{self.full.between(first, first + 1)!r} is one token",
                    hint="write `data.reasoning: keep`, or another `tokenizer.chat_template`",
                )
            first += 1
        if closed:
            return first
        # Where no `</think>` ends the thinking, a special token of the template's does.
        written = (
            place for place in range(first, stop) if self.full.between(place, place + 1).strip()
        )
        close = next(written, stop)
        ends = close < stop and self.full.tokens[close] in self.vocabulary.special
        return close + 1 if ends else first

    # ---- other roles

    def _train_others(self, mask: list[bool]) -> None:
        for index, message in enumerate(self.conversation.messages):
            if self.trained[index] and message.role != "assistant":
                start = self._end_of(index) if index else 0
                end = self._end_of(index + 1)
                text = self.full.between(start, end)
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
