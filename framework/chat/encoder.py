"""Samples -> token ids and the exact masks of what a model is to learn to say."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.chat.continuation import continued
from framework.chat.stops import Stops
from framework.chat.survival import (
    Shape,
    Unprovable,
    check_tools,
    dropped_messages,
    shape_of,
)
from framework.chat.template import (
    ChatTemplate,
    load_template,
    template_messages,
    template_names,
    template_tools,
)
from framework.chat.template_header import add_tokens_hint, split_tokens, template_header
from framework.chat.tokens import Vocabulary, vocabulary_of
from framework.chat.turns import Turns
from framework.core.batch import Encoded, read_at_end
from framework.core.problems import Problem, UserError, did_you_mean
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from framework.recipe.schema import Data, Tokenizer


@dataclass(frozen=True, kw_only=True)
class ChatEncoder:
    """Renders, tokenizes and masks samples; every mask is proven or the row refused.

    Rendered text is tokenized without adding special tokens: a BOS is there exactly if the
    template writes one, as when transformers serves the same template.
    """

    vocabulary: Vocabulary
    template: ChatTemplate | None
    stop_token_ids: frozenset[int]
    """Where a server stops."""
    appended_stop: int | None = None
    """The recipe's own: ends a conversation whose last answer nothing else ends."""
    train_on: frozenset[str] = frozenset({"assistant"})
    turns: Literal["all", "last", "each"] = "all"
    final_only: bool = False
    """Of an answer, only what follows its thinking is trained."""

    def conversation(self, sample: Conversation) -> Sequence[Encoded]:
        """One document, or one for each assistant turn with `turns: each`.

        Answers are trained from the end of the prompt that a server would make through the token
        at which it would stop. With `turns: each` a document also trains the other chosen
        messages since the previous answer, so that every message is trained once.

        Raises:
            RowError: the mask cannot be proven, with what the template does and what to write.
            UserError: there is no chat template at all.
        """
        self._check_text(sample)
        trained = self._trained(sample.messages)
        if self.turns == "each":
            return tuple(self._each(sample, trained))
        if self.turns == "last":
            return (self._document(sample, trained, self._end(trained)),)
        try:
            return (self._document(sample, trained, len(sample.messages)),)
        except Unprovable as error:
            if self._works_each(sample, trained):
                raise RowError(error.what, hint="write `data.turns: each`") from None
            raise

    def prompt(self, sample: Sample) -> tuple[int, ...]:
        """What a server would make of the sample without its last answer.

        Raises:
            RowError: the sample has no prompt, or the template refuses it.
            UserError: there is no chat template at all.
        """
        if isinstance(sample, Completion):
            return self._prefixed(sample.prompt)
        if isinstance(sample, PromptOnly):
            return self.prompt_only(sample).tokens
        if not isinstance(sample, Conversation):
            raise RowError(
                f"a {type(sample).__name__} sample asks nothing that has one answer",
                hint="test on conversations or completions",
            )
        self._check_text(sample)
        answers = [at for at, message in enumerate(sample.messages) if message.role == "assistant"]
        messages = template_messages(sample)[: answers[-1] if answers else None]
        if not messages:
            raise RowError("the conversation has nothing before its last answer")
        text = self._template.render(messages, template_tools(sample), add_generation_prompt=True)
        return tuple(self.vocabulary.ids(text))

    def prompt_only(self, sample: PromptOnly) -> Encoded:
        """The prompt as a server makes it, none of it trained.

        Raises:
            RowError: the template refuses it or drops a part of it.
            UserError: there is no chat template at all.
        """
        asked = Conversation(messages=sample.messages, tools=sample.tools)
        self._check_text(asked)
        self._check_places(asked)
        self._check_tool_tokens(asked)
        text = self._template.render(
            template_messages(asked), template_tools(asked), add_generation_prompt=True
        )
        check_tools(asked, text)
        tokens = tuple(self.vocabulary.ids(text))
        return Encoded(tokens=tokens, trained=(False,) * len(tokens))

    def completion(self, sample: Completion) -> Encoded:
        """The prompt as it will be served, not trained, then completion and end of sequence.

        The tokenizer's own prefix, such as BOS, comes first unless the prompt's text has it. Where
        prompt and completion would merge into common tokens, the completion is tokenized by
        itself: the prompt's tokens are those that a server sees.

        Raises:
            RowError: the text cannot be cut at the end of the prompt.
        """
        prompt = self._prefixed(sample.prompt)
        whole = self._prefixed(sample.prompt + sample.completion)
        if whole[: len(prompt)] != prompt:
            whole = self._cut(prompt, whole, sample)
        tokens = self._ended(whole)
        first = max(len(prompt), 1)
        trained = tuple(place >= first for place in range(len(tokens)))
        return Encoded(tokens=tokens, trained=trained)

    def document(self, sample: Document) -> Encoded:
        """The text between the tokenizer's prefix and end of sequence, all of it trained."""
        tokens = self._ended(self._prefixed(sample.text))
        return Encoded(tokens=tokens, trained=tuple(place > 0 for place in range(len(tokens))))

    def tokenized(self, sample: Tokenized) -> Encoded:
        """The ids and the mask as they are; the first token is never trained.

        Raises:
            RowError: an id is no token of this tokenizer.
        """
        if sample.tokens and max(sample.tokens) >= self.vocabulary.size:
            raise RowError(
                f"token id {max(sample.tokens)} is none of this tokenizer's, "
                f"whose ids end with {self.vocabulary.size - 1}",
                hint="tokenize the rows with the tokenizer of `model.source`",
            )
        return Encoded(tokens=sample.tokens, trained=(False, *sample.trained[1:]))

    # ---- preferences

    def preference(self, sample: Preference) -> tuple[Encoded, Encoded]:
        """Prompt and chosen continuation, prompt and rejected one; only answers in the
        continuations are trained, through the token at which a server would stop.

        Raises:
            RowError: a mask cannot be proven, or both become the same tokens.
            UserError: there is no chat template at all.
        """
        sides = {"chosen": sample.chosen, "rejected": sample.rejected}
        chosen, rejected = (
            self._continuation(continued(sample, turns, self.turns), f"{side}: ")
            for side, turns in sides.items()
        )
        if chosen.tokens == rejected.tokens:
            raise RowError(
                "chosen and rejected become the same tokens, so nothing is preferred",
                hint="leave such rows out: `data.on_bad_row: skip`",
            )
        return chosen, rejected

    def unpaired_preference(self, sample: UnpairedPreference) -> Encoded:
        """Prompt and continuation; only the continuation's answers are trained.

        Raises:
            RowError: the mask cannot be proven, with what the template does and what to write.
            UserError: there is no chat template at all.
        """
        return self._continuation(continued(sample, sample.completion, self.turns), "")

    # ---- what a head reads

    def read_at_end(self, sample: Classified | Scored | Preference) -> tuple[Encoded, ...]:
        """The content as it stands, or both answers of a pair with their prompt; of each document
        only the last token that is no padding is chosen.

        Raises:
            RowError: the template refuses it or drops a part of it, or there is too little text.
            UserError: there is no chat template at all.
        """
        if isinstance(sample, Preference):
            whole: tuple[Encoded, ...] = self.preference(sample)
        elif isinstance(sample.content, Document):
            whole = (self.document(sample.content),)
        else:
            whole = (self._whole(sample.content),)
        try:
            return tuple([read_at_end(one, self.vocabulary.padding) for one in whole])
        except ValueError as error:
            raise RowError(str(error), "leave such rows out") from None

    def _whole(self, sample: Conversation) -> Encoded:
        self._check_text(sample)
        self._check_places(sample)
        self._check_tool_tokens(sample)
        text = self._template.render(
            template_messages(sample), template_tools(sample), add_generation_prompt=False
        )
        check_tools(sample, text)
        tokens = tuple(self.vocabulary.ids(text))
        return Encoded(tokens=tokens, trained=(False,) * len(tokens))

    def steps(self, sample: StepwiseSupervision, separator: str) -> Encoded:
        """The prompt as a server makes it, then every step with `separator` after it, tokenized by
        itself, so that a step is read alike whatever follows. The last token of each is chosen.

        Raises:
            RowError: the template refuses the prompt or drops a part of it.
            UserError: there is no chat template at all.
        """
        tokens = list(self.prompt_only(PromptOnly(messages=sample.messages)).tokens)
        ends: set[int] = set()
        for step in sample.steps:
            tokens += self.vocabulary.ids(step + separator)
            ends.add(len(tokens) - 1)
        return Encoded(
            tokens=tuple(tokens), trained=tuple(place in ends for place in range(len(tokens)))
        )

    def _continuation(self, sample: Conversation, called: str) -> Encoded:
        trained = tuple(message.train is True for message in sample.messages)
        num_answers = trained.count(True)
        if not num_answers:
            raise RowError(f"{called}no answer is trained", hint="take out its `train: false`")
        if self.turns == "each" and num_answers > 1:
            raise RowError(
                f"{called}has {num_answers} answers, of which `data.turns: each` would make "
                "documents of their own",
                hint="write `data.turns: all`, or `last`",
            )
        try:
            self._check_text(sample)
            return self._document(sample, trained, len(sample.messages))
        except Unprovable as error:
            hint = "write `data.turns: last`" if num_answers > 1 else error.hint
            raise RowError(f"{called}{error.what}", hint) from None
        except RowError as error:
            raise RowError(f"{called}{error.what}", error.hint) from None

    # ---- conversations

    def _trained(self, messages: Sequence[Message]) -> tuple[bool, ...]:
        """Which messages are trained: the recipe's choice, overridden by the messages' own."""
        chosen = [message.role in self.train_on for message in messages]
        if self.turns == "last" and any(chosen):
            last = len(chosen) - 1 - chosen[::-1].index(True)
            chosen = [place == last for place in range(len(chosen))]
        return tuple(
            message.train if message.train is not None else choice
            for message, choice in zip(messages, chosen, strict=True)
        )

    def _end(self, trained: Sequence[bool]) -> int:
        """Number of messages through the last trained one; all when none is."""
        return len(trained) - trained[::-1].index(True) if any(trained) else len(trained)

    def _each(self, sample: Conversation, trained: Sequence[bool]) -> Iterator[Encoded]:
        start = 0
        any_trained = False
        for index, message in enumerate(sample.messages):
            if message.role != "assistant":
                continue
            if any(trained[start : index + 1]):
                now = (*(False for _ in range(start)), *trained[start : index + 1])
                yield self._document(sample, now, index + 1)
                any_trained = True
            start = index + 1
        if not any_trained:
            nothing = (False,) * len(sample.messages)
            yield self._document(sample, nothing, len(sample.messages))

    def _works_each(self, sample: Conversation, trained: Sequence[bool]) -> bool:
        try:
            return any(any(document.trained) for document in self._each(sample, trained))
        except RowError:
            return False

    def _document(self, sample: Conversation, trained: Sequence[bool], count: int) -> Encoded:
        conversation = Conversation(messages=sample.messages[:count], tools=sample.tools)
        turns = Turns(
            conversation=conversation,
            trained=trained[:count],
            template=self._template,
            vocabulary=self.vocabulary,
            stops=self.stops,
            final_only=self.final_only,
        )
        self._check_places(conversation)
        self._check_tool_tokens(conversation)
        check_tools(conversation, turns.full.text)
        return turns.encoded()

    @property
    def _template(self) -> ChatTemplate:
        if self.template is None:
            raise UserError(
                Problem(
                    what="conversations need a chat template, and the tokenizer brings none",
                    hint="write `tokenizer.chat_template: chatml`, or one of: "
                    + ", ".join(template_names()),
                    key="tokenizer.chat_template",
                )
            )
        return self.template

    @functools.cached_property
    def stops(self) -> Stops:
        """What ends an answer.

        Its `closing` tokens end trained answers even where `stop_token_ids` lacks them; whoever
        serves the model has to stop at them too.
        """
        return Stops(
            ids=self.stop_token_ids,
            written=self.appended_stop,
            template=self._template,
            vocabulary=self.vocabulary,
        )

    @functools.cached_property
    def _split_tool_tokens(self) -> tuple[str, ...]:
        return split_tokens(template_header(self._template.text).tool_tokens, self.vocabulary)

    @functools.cached_property
    def _dropped(self) -> dict[Shape, tuple[int, ...]]:
        return {}

    def _check_tool_tokens(self, conversation: Conversation) -> None:
        if conversation.tools and self._split_tool_tokens:
            raise RowError(
                "the template writes tools with special tokens that this tokenizer does not have: "
                + " ".join(self._split_tool_tokens),
                hint=add_tokens_hint(self._split_tool_tokens),
            )

    def _check_places(self, conversation: Conversation) -> None:
        shape = shape_of(conversation)
        if shape not in self._dropped:
            self._dropped[shape] = dropped_messages(conversation, self._template)
        for index in self._dropped[shape]:
            message = conversation.messages[index]
            raise RowError(
                f"the template drops the {message.role} message (message {index + 1}): "
                f"{message.content.strip()[:40]!r} is not in the rendering",
                hint=f"write a `tokenizer.chat_template` with a place for {message.role} messages",
            )

    @functools.cached_property
    def _control_text(self) -> re.Pattern[str]:
        return self.vocabulary.special_text(self.vocabulary.special | self.stop_token_ids)

    @functools.cached_property
    def _control_beginnings(self) -> tuple[str, ...]:
        """The characters that control texts begin with: most texts have none of them."""
        texts = map(self.vocabulary.text_of, self.vocabulary.special | self.stop_token_ids)
        return tuple({text[0] for text in texts if text})

    def _forged(self, text: str) -> str:
        """The first special token that is written in a text, empty where none is."""
        for beginning in self._control_beginnings:
            if beginning in text:
                found = self._control_text.search(text)
                return found.group() if found else ""
        return ""

    def _check_text(self, sample: Conversation) -> None:
        """Refuses text that would become special tokens: it forges turns that nobody took."""
        if not sample.messages:
            raise RowError("the conversation has no messages")
        for index, message in enumerate(sample.messages):
            for text in _texts_of(message):
                if forged := self._forged(text):
                    raise RowError(
                        f"the text of message {index + 1} ({message.role}) contains the special "
                        f"token {forged!r}",
                        hint="take it out of the text; it would be read as the end or the "
                        "beginning of a turn",
                    )
        for text in _strings(sample.tools):
            if forged := self._forged(text):
                raise RowError(f"the tools contain the special token {forged!r}")

    # ---- plain text

    def _prefixed(self, text: str) -> tuple[int, ...]:
        tokens = tuple(self.vocabulary.ids(text))
        prefix = self.vocabulary.prefix
        return tokens if prefix and tokens[: len(prefix)] == prefix else (*prefix, *tokens)

    def _ended(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        end = self.vocabulary.end_of_sequence
        if end is None:
            end = self.appended_stop
        if end is None:
            raise UserError(
                Problem(
                    what="the tokenizer has no end-of-sequence token",
                    hint='write `tokenizer.stop_tokens: ["..."]` with one of its special tokens',
                    key="tokenizer.stop_tokens",
                )
            )
        return tokens if tokens and tokens[-1] in self.stop_token_ids else (*tokens, end)

    def _cut(
        self, prompt: tuple[int, ...], whole: tuple[int, ...], sample: Completion
    ) -> tuple[int, ...]:
        cut = (*prompt, *self.vocabulary.ids(sample.completion))
        decode = self.vocabulary.decode
        if decode(list(cut)) != decode(list(whole)):
            raise RowError(
                f"the completion {sample.completion[:20]!r} cannot be told apart from the prompt "
                f"{sample.prompt[-20:]!r}: their tokens merge",
                hint="move the whitespace between them from the prompt to the completion",
            )
        return cut


def chat_encoder(
    tokenizer: PreTrainedTokenizerBase,
    settings: Tokenizer,
    data: Data,
    generation_stop_ids: Iterable[int] = (),
) -> ChatEncoder:
    """The encoder that a recipe's `tokenizer` and `data` sections ask for.

    `generation_stop_ids` are the `eos_token_id` of the model's generation_config. The tokenizer
    already has the recipe's added tokens.

    Raises:
        UserError: the template does not exist or is broken, or a stop token is not one token.
    """
    vocabulary = vocabulary_of(tokenizer)
    written = tuple(_stop_id(token, vocabulary.tokenizer) for token in settings.stop_tokens)
    own = () if vocabulary.end_of_sequence is None else (vocabulary.end_of_sequence,)
    return ChatEncoder(
        vocabulary=vocabulary,
        template=load_template(settings.chat_template, tokenizer, settings.template_arguments),
        stop_token_ids=frozenset({*own, *generation_stop_ids, *written}),
        appended_stop=written[0] if written else None,
        train_on=frozenset(data.train_on),
        turns=data.turns,
        final_only=data.reasoning == "final",
    )


def _stop_id(token: str, tokenizer: PreTrainedTokenizerFast) -> int:
    number = tokenizer.get_vocab().get(token)
    if number is None:
        special = [str(name) for name in tokenizer.get_added_vocab()]
        raise UserError(
            Problem(
                what=f"the stop token {token!r} is not a token of this tokenizer",
                hint=f"{did_you_mean(token, special)} New ones go into `tokenizer.add_tokens`",
                key="tokenizer.stop_tokens",
            )
        )
    return number


def _texts_of(message: Message) -> Iterator[str]:
    yield message.content
    yield message.reasoning
    yield message.name
    for call in message.tool_calls:
        yield call.name
        yield from _strings(call.arguments)


def _strings(value: Any) -> Iterator[str]:
    """Every string in nested JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
