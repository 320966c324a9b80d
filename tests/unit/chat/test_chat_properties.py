"""For any conversation: the mask is exact and what precedes an answer is what is served."""

from __future__ import annotations

import hypothesis
import pytest
from chat_families import (
    MISTRAL_TEMPLATE,
    encoder,
)
from chat_tokenizers import FILLED, TEMPLATES, TEXTS, TOKENIZERS, chat_of, tokenizer_of
from hypothesis import strategies

from framework.chat.template import template_messages
from framework.chat.tokens import Rendered, common_length, vocabulary_of
from framework.core.samples import Completion, Conversation, Document, Message, RowError


@strategies.composite
def conversations(draw) -> Conversation:
    messages = []
    for _ in range(draw(strategies.integers(1, 3))):
        messages.append(Message(role="user", content=draw(FILLED)))
        messages.append(Message(role="assistant", content=draw(FILLED)))
    return Conversation(messages=tuple(messages))


@pytest.mark.parametrize("kind", ("together", "apart"))
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns", ("all", "each"))
@hypothesis.given(sample=conversations())
@hypothesis.settings(max_examples=40, deadline=None)
def test_answers_and_nothing_else_are_trained_behind_the_served_prompt(
    kind: str, template: str, turns: str, sample: Conversation
):
    chat = chat_of(kind, template, turns)
    try:
        documents = chat.conversation(sample)
    except RowError as error:
        # Turn by turn there is always a cut at which training and serving agree.
        assert turns == "all"
        assert "tokens merge across" in error.what
        assert error.hint == "write `data.turns: each`"
        return
    messages = template_messages(sample)
    answers = range(1, len(messages), 2)
    assert len(documents) == (len(answers) if turns == "each" else 1)
    found = [(document, start, end) for document in documents for start, end in stretches(document)]
    assert len(found) == len(answers)
    for index, (document, start, end) in zip(answers, found, strict=True):
        prompt = chat.template.render(messages[:index], add_generation_prompt=True)
        assert list(document.tokens[:start]) == chat.vocabulary.encode(prompt).ids
        spoken = chat.vocabulary.decode(list(document.tokens[start:end]))
        stop = TEMPLATES[template]
        assert spoken.endswith(stop)
        assert spoken.removesuffix(stop).strip() == sample.messages[index].content.strip()
    for document, count in zip(
        documents, answers if turns == "each" else [len(messages) - 1], strict=True
    ):
        whole = chat.template.render(messages[: count + 1], add_generation_prompt=False)
        assert chat.vocabulary.decode(list(document.tokens)) == whole


def stretches(document):
    edges = [
        place
        for place, (before, now) in enumerate(
            zip((False, *document.trained), (*document.trained, False), strict=True)
        )
        if before != now
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


@pytest.mark.parametrize("kind", ("first", "always", "normalizer"))
@hypothesis.given(sample=conversations())
@hypothesis.settings(max_examples=60, deadline=None)
def test_space_marking_tokenizers_are_exact_or_refused(kind: str, sample: Conversation):
    chat = chat_of(kind, MISTRAL_TEMPLATE, "all")
    try:
        (document,) = chat.conversation(sample)
    except RowError as error:
        assert "tokens merge across" in error.what
        return
    messages = template_messages(sample)
    assert len(stretches(document)) == len(messages) // 2
    for index, (start, end) in zip(range(1, len(messages), 2), stretches(document), strict=True):
        prompt = chat.template.render(messages[:index], add_generation_prompt=True)
        assert list(document.tokens[:start]) == chat.vocabulary.encode(prompt).ids
        assert document.tokens[end - 1] == chat.vocabulary.end_of_sequence


@pytest.mark.parametrize("kind", ("first", "always", "normalizer"))
def test_an_answer_that_cannot_be_cut_from_its_prompt_is_refused(kind: str):
    # `i` and `n` merge, and tokenized by itself `n` would bring a space along.
    text = "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    sample = Conversation(
        messages=(Message(role="user", content="i"), Message(role="assistant", content="n"))
    )
    chat = encoder(
        tokenizer_of(kind), text.replace("{{ eos", "{{ '' if add_generation_prompt else eos")
    )
    with pytest.raises(RowError, match="tokens merge across"):
        chat.conversation(sample)


PIECES = strategies.lists(
    strategies.one_of(
        TEXTS, strategies.sampled_from(["<s>", "</s>", "<|im_end|>", "<|end|>", "<|end|> \n"])
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@hypothesis.given(shared=PIECES, one=PIECES, other=PIECES)
@hypothesis.settings(max_examples=150, deadline=None)
def test_agreement_is_that_of_two_full_tokenizations(kind: str, shared: str, one: str, other: str):
    vocabulary = vocabulary_of(tokenizer_of(kind))
    rendered = Rendered.of(shared + one, vocabulary)
    ids = vocabulary.encode(shared + other).ids
    common = next(
        (n for n, (a, b) in enumerate(zip(rendered.tokens, ids, strict=False)) if a != b),
        min(len(rendered.tokens), len(ids)),
    )
    agreement = rendered.agreement(shared + other)
    assert agreement.num_tokens == common
    assert agreement.whole == (common == len(ids))


@hypothesis.given(left=TEXTS, right=TEXTS, shared=TEXTS)
def test_common_length_is_the_longest_common_beginning(left: str, right: str, shared: str):
    length = common_length(shared + left, shared + right)
    assert (shared + left)[:length] == (shared + right)[:length]
    assert (shared + left)[: length + 1] != (shared + right)[: length + 1] or length == min(
        len(shared + left), len(shared + right)
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@hypothesis.given(prompt=TEXTS, completion=FILLED)
@hypothesis.example(prompt="i", completion="n")
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_completion_continues_the_tokens_of_its_prompt(kind: str, prompt: str, completion: str):
    chat = chat_of(kind, "chatml", "all")
    sample = Completion(prompt=prompt, completion=completion)
    served = chat.prompt(sample)
    try:
        document = chat.completion(sample)
    except RowError as error:
        assert "cannot be told apart" in error.what
        assert kind not in {"together", "apart"}
        return
    start = max(len(served), 1)
    assert document.tokens[: len(served)] == served
    assert document.trained == (False,) * start + (True,) * (len(document.tokens) - start)
    assert document.tokens[-1] == chat.vocabulary.end_of_sequence
    tokens = list(document.tokens)
    whole = chat.vocabulary.encode(prompt + completion).ids
    assert chat.vocabulary.decode(tokens[:-1]) == chat.vocabulary.decode(
        [*chat.vocabulary.prefix, *whole]
    )


@hypothesis.given(text=FILLED)
def test_a_document_is_trained_but_for_its_first_token(text: str):
    chat = chat_of("together", "chatml", "all")
    document = chat.document(Document(text=text))
    assert document.trained == (False,) + (True,) * (len(document.tokens) - 1)
    assert chat.vocabulary.decode(list(document.tokens)) == f"{text}</s>"
