"""Encoded conversation -> the proof of its tokens and mask, from the tokens back to the text.

Written apart from what makes masks (`turns.py`): that goes from the text to the mask, this from the
mask to the text. Both ask the template and the tokenizer, and nothing else of each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from framework.chat.template import template_messages, template_tools
from framework.chat.tokens import Rendered
from framework.core.batch import Encoded
from framework.core.samples import Conversation, Message
from framework.proofs.findings import Finding, around
from framework.proofs.server import Server
from framework.proofs.text import said_until, thinking_and_rest, unsaid_part

_CLOSE = "</think>"
Run = tuple[int, int]
"""The first trained token of a stretch, and the first after it."""


def trained_runs(trained: tuple[bool, ...]) -> list[Run]:
    """The longest stretches of trained tokens, in order."""
    runs: list[Run] = []
    stop = 0
    while True:
        try:
            start = trained.index(True, stop)
        except ValueError:
            return runs
        try:
            stop = trained.index(False, start)
        except ValueError:
            stop = len(trained)
        runs.append((start, stop))


class ConversationProof:
    """One document of a conversation, as it was encoded, and how it should be.

    No dataclass: one is made for every document that is prepared.
    """

    def __init__(
        self,
        conversation: Conversation,
        selected: Sequence[bool],
        document: Encoded,
        server: Server,
        *,
        final_only: bool,
    ) -> None:
        """The proof of the document that the first messages, `selected` or not, became.

        Raises:
            RowError: the template refuses the conversation.
        """
        if len(selected) < len(conversation.messages):
            messages = conversation.messages[: len(selected)]
            conversation = replace(conversation, messages=messages)
        self.messages = conversation.messages
        self.rendered = template_messages(conversation)
        self.tools = template_tools(conversation)
        self.selected = selected
        self.final_only = final_only
        self.document = document
        self.server = server
        self._text = server.render(self.rendered, self.tools, answering=False)
        self._runs = trained_runs(document.trained)

    def findings(self) -> Iterator[Finding]:
        """Every rule that the document breaks, as far as one broken rule lets see others.

        Raises:
            RowError: the template refuses the conversation.
        """
        wrong = self._other_tokens()
        if wrong is not None:
            yield wrong
            return
        spans: list[Run] = []
        thinking: list[Run] = []
        reached = 0  # character up to which the rendering is accounted for
        waiting: list[Message] = []
        for index, message in enumerate(self.messages):
            if message.role != "assistant":
                waiting.append(message)
            if not self.selected[index]:
                continue
            if message.role != "assistant":
                span = self._other_role(index)
            else:
                prompt = self._prompt(index)
                answer = self._answer(index, prompt)
                if isinstance(answer, Finding):
                    yield answer
                    return
                span, end = answer
                yield from self._unread(waiting, reached, len(prompt))
                yield from self._unsaid(index, len(prompt), end)
                waiting, reached = [], end
                if self.final_only:
                    start = span[0]
                    span = self._after_thinking(index, span, len(prompt), end)
                    thinking += [] if isinstance(span, Finding) else [(start, span[0])]
            if isinstance(span, Finding):
                yield span
                return
            spans.append(span)
        yield from self._unread(waiting, reached, len(self._text))
        yield from self._unnamed_tools()
        yield from self._other_mask(spans, thinking)

    # ---- tokens

    def _last(self) -> Message | None:
        """The last message, if it is an answer to train."""
        last = self.messages[-1]
        return last if self.selected[-1] and last.role == "assistant" else None

    def _prompt(self, index: int) -> str:
        return self.server.render(self.rendered[:index], self.tools, answering=True)

    def _other_tokens(self) -> Finding | None:
        """What is wrong with the document's tokens, whatever is trained of them."""
        tokens = self.document.tokens
        whole = tuple(self.server.tokens(self._text))
        if tokens == whole:
            return None
        last = self._last()
        if last is not None:
            end = self.server.appended(last)
            if tokens == (*whole, end):
                return None
            cut = self._cut(whole)
            if cut is not None and tokens in (cut, (*cut, end)):
                return None
        place = _first_difference(tokens, whole)
        has, should = self._shown(tokens, place), self._shown(whole, place)
        return self._finding(
            "tokens", f"the rendering has {should} where the data has {has}", place
        )

    def _cut(self, whole: tuple[int, ...]) -> tuple[int, ...] | None:
        """Prompt and answer tokenized each by itself; None where they don't merge in the whole.

        A model answers after the prompt's own tokens, so that is right where they would merge.
        """
        prompt = self._prompt(len(self.messages) - 1)
        if not self._text.startswith(prompt):
            return None
        served = self.server.tokens(prompt)
        if list(whole[: len(served)]) == served:
            return None
        cut = [*served, *self.server.tokens(self._text[len(prompt) :])]
        decode = self.server.vocabulary.decode
        return tuple(cut) if decode(cut) == decode(list(whole)) else None

    def _shown(self, tokens: tuple[int, ...], place: int) -> str:
        return repr(self.server.vocabulary.decode(list(tokens[place : place + 6])))

    def _finding(self, rule: str, detail: str, place: int) -> Finding:
        shown = around(self.document, place, self.server.vocabulary)
        return Finding(rule=rule, detail=f"{detail}; {shown}")

    def _called(self, index: int) -> str:
        return f"message {index + 1} ({self.messages[index].role})"

    # ---- answers

    def _answer(self, index: int, prompt: str) -> tuple[Run, int] | Finding:
        """(trained tokens of an answer, character at which they end), or what is wrong."""
        run = self._run_near(index)
        start = None
        if self._text.startswith(prompt):
            start = self.server.prompt_end(self.document.tokens, prompt, run[0])
        if start is None:
            served = tuple(self.server.tokens(prompt))
            place = _first_difference(self.document.tokens, served)
            return self._finding(
                "served_prompt",
                f"a server asks for {self._called(index)} with {self._shown(served, place)} where "
                f"the data has {self._shown(self.document.tokens, place)}",
                place,
            )
        found = self._end(index, start, len(prompt), run[1])
        if isinstance(found, Finding):
            return found
        end, character = found
        return (start, end), character

    def _run_near(self, index: int) -> Run:
        """The trained stretch that may be this message's: where to look first, and no more."""
        at = self.selected[:index].count(True)
        return self._runs[at] if at < len(self._runs) else (0, 0)

    def _end(self, index: int, start: int, begin: int, near: int) -> tuple[int, int] | Finding:
        """(first token after an answer's stop token, character at which that token ends)."""
        tokens, stops = self.document.tokens, self.server.stop_ids
        alone = self._text
        if index < len(self.messages) - 1:
            alone = self.server.render(self.rendered[: index + 1], self.tools, answering=False)
        place = near - 1
        if place < start or tokens[place] not in stops or not stops.isdisjoint(tokens[start:place]):
            place = next((at for at in range(start, len(tokens)) if tokens[at] in stops), -1)
        before, after = self._characters(place, begin) if place >= 0 else (-1, -1)
        if place >= 0 and self._text[:after] == alone[:after]:
            return place + 1, after
        closed = self._closed(start, alone)
        if closed is not None:
            return closed
        if place >= 0 and self._text[:before] == alone:
            return place + 1, after  # the token that opens the next turn
        called = self._called(index)
        return self._finding(
            "stop",
            f"{called} ends without a token at which a server stops",
            max(min(near, len(tokens)) - 1, start),
        )

    def _closed(self, start: int, alone: str) -> tuple[int, int] | None:
        """The end of an answer that ends in no token of `stop_ids`, but in the template's own."""
        tokens, special = self.document.tokens, self.server.vocabulary.special
        same = len(tokens)
        if alone != self._text:
            same = _first_difference(tokens, self.server.tokens(alone))
        place = next((at for at in range(same - 1, start - 1, -1) if tokens[at] in special), -1)
        if place < 0 or tokens[place] not in self.server.closing:
            return None
        return place + 1, self._offsets[place][1]

    def _characters(self, place: int, begin: int) -> tuple[int, int]:
        """The characters of the rendering that the first such token after `begin` covers."""
        text = self.server.partings.get(self.document.tokens[place])
        first = -1 if text is None else self._text.find(text, begin)
        if text is not None and first >= 0:
            return first, first + len(text)
        return self._offsets[place]

    @functools.cached_property
    def _offsets(self) -> Sequence[tuple[int, int]]:
        """The characters of the rendering that each token of the document covers.

        Raises:
            BackendDisagrees: the `tokenizers` library makes other tokens.
        """
        vocabulary, tokens = self.server.vocabulary, list(self.document.tokens)
        whole = Rendered.of(self._text, vocabulary)
        if tokens[: len(whole.tokens)] != whole.tokens:
            whole = whole.cut(len(self._prompt(len(self.messages) - 1)))
        length = len(self._text)
        return whole.offsets + [(length, length)] * (len(tokens) - len(whole.tokens))

    # ---- what is said

    def _unsaid(self, index: int, begin: int, end: int) -> Iterator[Finding]:
        part = unsaid_part(self.messages[index], self._text, begin, end)
        if part is not None:
            yield Finding(
                rule="lost_text",
                detail=f"{self._called(index)} lacks {part} in {self._text[begin:end][:80]!r}",
            )

    def _unread(self, messages: Sequence[Message], begin: int, end: int) -> Iterator[Finding]:
        """Messages to the model that the rendering lacks where they belong."""
        position = begin
        for message in messages:
            # Templates may gather system messages at the top.
            start = 0 if message.role == "system" else position
            reached = said_until(message.content, self._text, start, end)
            if reached < 0:
                yield Finding(
                    rule="lost_context",
                    detail=f"the {message.role}'s {message.content.strip()[:40]!r} is not in "
                    f"{self._text[begin:end][:80]!r}",
                )
            position = max(position, reached)

    def _unnamed_tools(self) -> Iterator[Finding]:
        for tool in self.tools:
            function = tool.get("function")
            name = function.get("name") if isinstance(function, dict) else tool.get("name")
            if isinstance(name, str) and name not in self._text:
                yield Finding(rule="lost_context", detail=f"the tool {name!r} is not named")

    def _after_thinking(self, index: int, span: Run, begin: int, end: int) -> Run | Finding:
        """The tokens that follow an answer's thinking, which lies in text[begin:end]."""
        message, tokens = self.messages[index], self.document.tokens
        inline, rest = thinking_and_rest(message.content)
        thought, closed = self._thinking_end((message.reasoning, inline), begin, end)
        start, stop = span
        try:
            first = self.document.trained.index(True, start, stop)
        except ValueError:
            return self._finding("missing_turn", f"{self._called(index)} is not trained", start)
        special = self.server.vocabulary.special
        wrong = ""
        if self._offsets[first][0] < thought:
            wrong = "its thinking is trained"
        elif first > start and self._offsets[first - 1][0] >= thought:
            if closed or tokens[first - 1] not in special or thought == begin:
                wrong = "what follows its thinking is not trained"
        elif said_until(rest, self._text, self._offsets[first][0], end) < 0:
            wrong = "what it says after its thinking is not trained"
        if wrong:
            return self._finding("thinking", f"{self._called(index)}: {wrong}", first)
        return first, stop

    def _thinking_end(self, parts: Sequence[str], begin: int, end: int) -> tuple[int, bool]:
        """(Character at which the thinking in text[begin:end] ends, whether a tag ends it)."""
        position = begin
        for part in parts:
            position = max(position, said_until(part, self._text, position, end))
        after = self._text[position:end].lstrip()
        tagged = after.removeprefix("<think>").lstrip()
        if tagged.startswith(_CLOSE):
            return end - len(tagged) + len(_CLOSE), True
        return position, False

    # ---- the mask

    def _other_role(self, index: int) -> Run | Finding:
        """The tokens that a message of another role adds to the rendering."""
        start = self._length_of(index) if index else 0
        end = self._length_of(index + 1)
        if start < end:
            first, last = self._offsets[start][0], self._offsets[end - 1][1]
            if said_until(self.messages[index].content, self._text, first, last) >= 0:
                return start, end
        return self._finding("lost_text", f"{self._called(index)} has no place of its own", start)

    def _length_of(self, count: int) -> int:
        """How many tokens of the document the first `count` messages make by themselves."""
        tokens = self.document.tokens
        if count == len(self.messages):
            return len(tokens)
        text = self.server.render(self.rendered[:count], self.tools, answering=False)
        return _first_difference(tokens, self.server.tokens(text))

    def _other_mask(self, spans: Sequence[Run], unsaid: Sequence[Run]) -> Iterator[Finding]:
        """Where the mask differs from the spans; `unsaid` are stretches of thinking."""
        if spans == self._runs and not all(self.selected):
            return
        trained = self.document.trained
        expected = [all(self.selected)] * len(trained)
        for start, stop in spans:
            expected[start:stop] = [True] * (stop - start)
        for start, stop in unsaid:
            expected[start:stop] = [False] * (stop - start)
        expected[:1] = [False] * len(expected[:1])
        places = (at for at in range(len(trained)) if trained[at] != expected[at])
        before = -2
        for place in places:
            if place != before + 1:
                yield self._wrongly_masked(place, spans)
            before = place

    def _wrongly_masked(self, place: int, spans: Sequence[Run]) -> Finding:
        trained = self.document.trained
        if trained[place]:
            what = "is trained, and belongs to no selected message"
            return self._finding("leak", what, place)
        span = next((run for run in spans if run[0] <= place < run[1]), (0, len(trained)))
        if not any(trained[span[0] : span[1]]):
            return self._finding("missing_turn", "no token of a selected message is trained", place)
        if place == span[0]:
            return self._finding("start", "the beginning of an answer is not trained", place)
        if not any(trained[place : span[1]]):
            return self._finding("stop", "the end of an answer is not trained", place)
        return self._finding("missing_turn", "a part of a selected message is not trained", place)


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(left, right, strict=False)
    both = min(len(left), len(right))
    return next((at for at, (one, other) in enumerate(pairs) if one != other), both)
