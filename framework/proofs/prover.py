"""Sample and its encoded documents -> every rule of tokens and masks that they break."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.chat.template import template_messages, template_tools
from framework.core.batch import Encoded
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    RowError,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)
from framework.proofs.conversation import ConversationProof
from framework.proofs.findings import Finding, around
from framework.proofs.server import Server
from framework.proofs.text import said_until

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder


@dataclass(frozen=True, kw_only=True)
class Prover:
    """Proves one sample after the other; remembers only what is the same for all."""

    proves: ClassVar[tuple[type[Sample], ...]] = (
        Conversation,
        Completion,
        Document,
        Tokenized,
        Preference,
        UnpairedPreference,
    )
    """Samples that are encoded as a whole."""

    server: Server
    train_on: frozenset[str]
    turns: Literal["all", "last", "each"]
    final_only: bool

    @staticmethod
    def of(chat: ChatEncoder) -> Prover:
        """The proof of what the encoder makes."""
        return Prover(
            server=Server(
                template=chat.template,
                vocabulary=chat.vocabulary,
                stop_ids=chat.stop_token_ids,
                written_stop=chat.appended_stop,
            ),
            train_on=chat.train_on,
            turns=chat.turns,
            final_only=chat.final_only,
        )

    def __call__(self, sample: Sample, documents: Sequence[Encoded]) -> tuple[Finding, ...]:
        """Every rule that the documents of a sample break; none for what is as it should be."""
        for document in documents:
            broken = self._any_document(document)
            if broken is not None:
                return (broken,)
        try:
            if isinstance(sample, Conversation):
                return tuple(self._conversation(sample, documents))
            if isinstance(sample, Preference):
                return tuple(self._preference(sample, documents))
            if len(documents) != 1:
                return (_documents(1, documents),)
            return tuple(self._one(sample, documents[0]))
        except RowError as error:
            return (Finding(rule="refused", detail=error.what),)

    def _one(self, sample: Sample, document: Encoded) -> Iterator[Finding]:
        """What is wrong with the only document of a sample."""
        match sample:
            case Completion():
                yield from self._completion(sample, document)
            case UnpairedPreference():
                yield from self._answered(sample, sample.completion, document)
            case Tokenized():
                yield from self._tokenized(sample, document)
            case Document():
                yield from self._text(sample, document)
            case PromptOnly():
                yield from self._prompt(sample, document)
            case Classified() | Scored():
                yield from self._read_at_end(sample.content, document)
            case StepwiseSupervision():
                yield from self._steps(sample, document)
            case _:
                raise AssertionError(f"nothing encodes a {type(sample).__name__} as a whole")

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Every token that may end an answer or a text."""
        server = self.server
        own = {server.vocabulary.end_of_sequence, server.written_stop}
        closing = server.closing if server.template is not None else frozenset[int]()
        return server.stop_ids | closing | frozenset(token for token in own if token is not None)

    def _any_document(self, document: Encoded) -> Finding | None:
        tokens, trained = document.tokens, document.trained
        if len(tokens) != len(trained):
            detail = f"{len(tokens)} tokens have a mask of {len(trained)}"
            return Finding(rule="mask_length", detail=detail)
        if trained and trained[0]:
            return self._finding("first_token", "it is trained", document, 0)
        if len(tokens) > 1 and tokens[0] == tokens[1] == self._bos:
            return self._finding("double_bos", "begins with BOS twice", document, 1)
        return None

    @functools.cached_property
    def _bos(self) -> int | None:
        """None where the tokenizer has no BOS, or has the same token for the end of a text."""
        tokenizer = self.server.vocabulary.tokenizer
        bos = tokenizer.bos_token_id
        return bos if isinstance(bos, int) and bos != tokenizer.eos_token_id else None

    def _finding(self, rule: str, detail: str, document: Encoded, place: int) -> Finding:
        shown = around(document, place, self.server.vocabulary)
        return Finding(rule=rule, detail=f"{detail}; {shown}")

    # ---- conversations

    def _conversation(
        self, sample: Conversation, documents: Sequence[Encoded]
    ) -> Iterator[Finding]:
        choices = self._choices(sample.messages)
        if len(documents) != len(choices):
            yield _documents(len(choices), documents)
            return
        for selected, document in zip(choices, documents, strict=True):
            yield from ConversationProof(
                sample, selected, document, self.server, final_only=self.final_only
            ).findings()

    def _choices(self, messages: Sequence[Message]) -> list[list[bool]]:
        """For each document: which of the messages that it holds are trained."""
        selected = self._selected(messages)
        if self.turns == "all" or True not in selected:
            return [selected]
        if self.turns == "last":
            return [selected[: _last(selected) + 1]]
        choices: list[list[bool]] = []
        before = 0
        for index, message in enumerate(messages):
            if message.role == "assistant":
                own = selected[before : index + 1]
                choices += [[False] * before + own] if True in own else []
                before = index + 1
        return choices or [[False] * len(messages)]

    def _selected(self, messages: Sequence[Message]) -> list[bool]:
        selected = [message.role in self.train_on for message in messages]
        if self.turns == "last" and True in selected:
            last = _last(selected)
            selected = [index == last for index in range(len(selected))]
        for index, message in enumerate(messages):
            if message.train is not None:
                selected[index] = message.train
        return selected

    # ---- prompts

    def _prompt(self, sample: PromptOnly, document: Encoded) -> Iterator[Finding]:
        """The document is what a server makes of the messages, and says each of them."""
        asked = Conversation(messages=sample.messages, tools=sample.tools)
        text = self.server.render(template_messages(asked), template_tools(asked), answering=True)
        place = first_difference(document.tokens, self.server.tokens(text))
        if place is not None:
            detail = "has other tokens than the served prompt"
            yield self._finding("served_prompt", detail, document, place)
        if True in document.trained:
            place = document.trained.index(True)
            yield self._finding("leak", "the prompt is trained", document, place)
        position = 0
        for message in sample.messages:
            if message.role == "assistant":  # templates may take thinking out of earlier answers
                continue
            # Some templates write the system message later, into a user's turn.
            start = 0 if message.role == "system" else position
            end = said_until(message.content, text, start, len(text))
            position = position if message.role == "system" else end
            if end < 0:
                said = message.content.strip()[:40]
                detail = f"the {message.role} message {said!r} is not in the prompt"
                yield Finding(rule="lost_context", detail=detail)
                return

    # ---- what a head reads

    def _read_at_end(
        self, content: Conversation | Document, document: Encoded
    ) -> Iterator[Finding]:
        """The document is the content as it stands, and only its last token besides padding is
        chosen."""
        end = len(document.tokens) - 1
        padding = self.server.vocabulary.padding
        wanted = max(
            [at for at, token in enumerate(document.tokens) if token != padding], default=0
        )
        if [at for at, chosen in enumerate(document.trained) if chosen] != [wanted]:
            yield self._finding("read_place", "is not read at its last token", document, end)
        if isinstance(content, Document):
            learned = (False, *(True,) * end)
            yield from self._text(content, replace(document, trained=learned))
            return
        text = self.server.render(
            template_messages(content), template_tools(content), answering=False
        )
        place = first_difference(document.tokens, self.server.tokens(text))
        if place is not None:
            detail = "has other tokens than the rendered conversation"
            yield self._finding("rendered_text", detail, document, place)

    def _steps(self, sample: StepwiseSupervision, document: Encoded) -> Iterator[Finding]:
        """After the served prompt every step stands in full, and is read where it ends."""
        first = document.trained.index(True) if True in document.trained else 0
        asked = Conversation(messages=sample.messages)
        text = self.server.render(template_messages(asked), [], answering=True)
        prompt = self.server.tokens(text)
        place = first_difference(document.tokens[: len(prompt)], prompt)
        if place is not None or first < len(prompt):
            detail = "doesn't begin with the served prompt"
            yield self._finding("served_prompt", detail, document, place or first)
            return
        ends = [place for place, read in enumerate(document.trained) if read]
        if len(ends) != len(sample.steps) or ends[-1] != len(document.tokens) - 1:
            detail = f"{len(sample.steps)} steps are read at {len(ends)} tokens"
            yield self._finding("read_place", detail, document, ends[-1])
            return
        tokenizer = self.server.vocabulary.tokenizer
        start = len(prompt)
        for step, end in zip(sample.steps, ends, strict=True):
            said = str(tokenizer.decode(list(document.tokens[start : end + 1])))
            if not said.strip().startswith(step.strip()):
                yield self._finding("lost_context", f"step {step[:40]!r} is cut", document, end)
            start = end + 1

    # ---- preferences

    def _preference(self, sample: Preference, documents: Sequence[Encoded]) -> Iterator[Finding]:
        if len(documents) != 2:
            yield _documents(2, documents)
            return
        for side, turns, document in zip(
            ("chosen", "rejected"), (sample.chosen, sample.rejected), documents, strict=True
        ):
            for finding in self._answered(sample, turns, document):
                yield replace(finding, detail=f"{side}: {finding.detail}")

    def _answered(
        self, sample: Preference | UnpairedPreference, turns: Sequence[Message], document: Encoded
    ) -> Iterator[Finding]:
        """Of prompt and continuation, the continuation's answers are trained, or its last one."""
        num_prompt = len(sample.messages)
        messages = (*sample.messages, *turns)
        wanted = [
            at >= num_prompt and message.role == "assistant" for at, message in enumerate(messages)
        ]
        end = len(messages)
        if self.turns == "last":
            end = _last(wanted) + 1
            wanted = [at == end - 1 for at in range(end)]
        wanted = [
            want and message.train is not False
            for want, message in zip(wanted, messages[:end], strict=True)
        ]
        told = Conversation(messages=messages[:end], tools=sample.tools)
        proof = ConversationProof(told, wanted, document, self.server, final_only=self.final_only)
        yield from proof.findings()

    # ---- plain text

    def _completion(self, sample: Completion, document: Encoded) -> Iterator[Finding]:
        prompt = self._plain(sample.prompt)
        whole = self._plain(sample.prompt + sample.completion)
        if whole[: len(prompt)] != prompt:
            # They would merge: a model goes on after the prompt's own tokens.
            whole = prompt + self.server.tokens(sample.completion)
        yield from self._ended(document, whole, max(len(prompt), 1))

    def _text(self, sample: Document, document: Encoded) -> Iterator[Finding]:
        yield from self._ended(document, self._plain(sample.text), 1)

    def _tokenized(self, sample: Tokenized, document: Encoded) -> Iterator[Finding]:
        place = first_difference(document.tokens, sample.tokens)
        if place is not None:
            yield self._finding("tokens", "has other tokens than its row", document, place)
            return
        place = first_difference(document.trained, (False, *sample.trained[1:]))
        if place is not None:
            rule, what = "missing_turn", "the row trains it, the data doesn't"
            if document.trained[place]:
                rule, what = "leak", "the data trains it, the row doesn't"
            yield self._finding(rule, what, document, place)

    def _plain(self, text: str) -> list[int]:
        """The text's tokens after the tokenizer's own prefix, which it may already have."""
        prefix = list(self.server.vocabulary.prefix)
        tokens = self.server.tokens(text)
        return tokens if tokens[: len(prefix)] == prefix else prefix + tokens

    def _ended(self, document: Encoded, text: list[int], first: int) -> Iterator[Finding]:
        """The document is the text and its end, trained from token `first` on."""
        tokens, trained, stops = document.tokens, document.trained, self.server.stop_ids
        end = self.server.vocabulary.end_of_sequence
        ends = stops if end is None else {end}
        own = bool(text) and text[-1] in stops
        if not (own and list(tokens) == text):
            if list(tokens[:-1]) != text or own:
                place = first_difference(tokens, text) or 0
                rule = "stop" if list(tokens) == text else "tokens"
                what = "has no end" if rule == "stop" else "has other tokens than its text"
                yield self._finding(rule, what, document, place)
                return
            if tokens[-1] not in ends:
                yield self._finding("stop", "ends in another token", document, len(tokens) - 1)
        last = len(tokens) - 1
        if not trained[last] and last >= first:
            yield self._finding("stop", "its end is not trained", document, last)
        if True in trained[:first]:
            place = trained.index(True)
            yield self._finding("leak", "the prompt is trained", document, place)
        if False in trained[first:last]:
            place = trained.index(False, first)
            yield self._finding("missing_turn", "a part of it is not trained", document, place)


def _documents(number: int, documents: Sequence[Encoded]) -> Finding:
    return Finding(rule="documents", detail=f"{len(documents)} were made, {number} are asked for")


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first place where both differ, or where one ends; None when they are equal."""
    both = min(len(left), len(right))
    pairs = zip(left, right, strict=False)
    place = next((at for at, (one, other) in enumerate(pairs) if one != other), both)
    return None if place == both and len(left) == len(right) else place


def _last(selected: Sequence[bool]) -> int:
    return max(index for index, choice in enumerate(selected) if choice)
