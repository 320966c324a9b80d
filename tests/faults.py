"""Faults that fine-tuning tools were reported for, each seeded into what is proven."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chat_families import (
    CALL,
    CHATML,
    LLAMA3,
    SCENARIOS,
    WEATHER,
    byte_level_tokenizer,
    encoder,
)

from framework.chat.encoder import ChatEncoder
from framework.chat.template import template_messages, template_tools
from framework.core.batch import Encoded
from framework.core.samples import (
    Completion,
    Conversation,
    Document,
    Message,
    Sample,
    Tokenized,
    ToolCall,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sample and the documents that an encoder made of it."""

    chat: ChatEncoder
    sample: Sample
    documents: tuple[Encoded, ...]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong, and the rules that it breaks."""

    name: str
    rules: frozenset[str]
    """The first finding is under one of these."""
    seed: Callable[..., Case | None]


EVERYWHERE: list[Fault] = []
"""Faults of tokens and masks, seeded into every case that they are possible in."""
ALONE: list[Fault] = []
"""Faults that bring their own case."""


def everywhere(*rules: str):
    """Registers a fault that is given the runs of trained tokens of a document."""

    def register(seed: Callable[[Encoded, list[tuple[int, int]], Case], Encoded | None]):
        def seeded(case: Case) -> Case | None:
            document, *others = case.documents
            found = runs(document)
            changed = seed(document, found, case) if found else None
            if changed is None or changed == document:
                return None
            return replace(case, documents=(changed, *others))

        EVERYWHERE.append(Fault(name=seed.__name__, rules=frozenset(rules), seed=seeded))
        return seed

    return register


def alone(*rules: str):
    """Registers a fault that makes its own case."""

    def register(seed: Callable[[], Case]):
        ALONE.append(Fault(name=seed.__name__, rules=frozenset(rules), seed=seed))
        return seed

    return register


def runs(document: Encoded) -> list[tuple[int, int]]:
    """First trained token, and first after, of every trained stretch."""
    edges = [
        place
        for place, (before, now) in enumerate(
            zip((False, *document.trained), (*document.trained, False), strict=True)
        )
        if before != now
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def masked(document: Encoded, value: bool, places: Sequence[int]) -> Encoded | None:
    """The document with these tokens trained or not; None where there are no such tokens."""
    inside = [place for place in places if 0 <= place < len(document.tokens)]
    trained = list(document.trained)
    for place in inside:
        trained[place] = value
    return replace(document, trained=tuple(trained)) if inside else None


def spliced(document: Encoded, start: int, stop: int, *tokens: tuple[int, bool]) -> Encoded:
    """The document with other tokens in a place."""
    return Encoded(
        tokens=(*document.tokens[:start], *(one for one, _ in tokens), *document.tokens[stop:]),
        trained=(*document.trained[:start], *(one for _, one in tokens), *document.trained[stop:]),
    )


def place_of(case: Case, role: str, document: Encoded) -> range | None:
    """The tokens of the text of the first message with this role."""
    assert isinstance(case.sample, Conversation)
    text = next((one.content for one in case.sample.messages if one.role == role), "")
    wanted = tuple(case.chat.vocabulary.ids(text))
    for start in range(len(document.tokens) - len(wanted) + 1):
        if wanted and document.tokens[start : start + len(wanted)] == wanted:
            return range(start, start + len(wanted))
    return None


# ---- ends of answers


@everywhere("stop")
def terminator_masked(document, found, case):
    return masked(document, False, [found[-1][1] - 1])


@everywhere("stop")
def first_terminator_masked(document, found, case):
    return masked(document, False, [found[0][1] - 1]) if len(found) > 1 else None


@everywhere("stop")
def all_tokens_of_the_terminators_id_masked_as_padding(document, found, case):
    padding = document.tokens[found[-1][1] - 1]
    return masked(document, False, [at for at, one in enumerate(document.tokens) if one == padding])


@everywhere("tokens", "stop")
def terminator_missing(document, found, case):
    return spliced(document, found[-1][1] - 1, found[-1][1])


@everywhere("tokens")
def wrong_terminator(document, found, case):
    place = found[-1][1] - 1
    others = sorted(case.chat.vocabulary.special - {document.tokens[place]})
    return spliced(document, place, place + 1, (others[0], True))


@everywhere("tokens")
def terminator_twice(document, found, case):
    place = found[-1][1]
    return spliced(document, place, place, (document.tokens[place - 1], True))


@everywhere("leak")
def token_after_the_terminator_trained(document, found, case):
    if found[-1][1] == len(document.tokens):
        return None
    return masked(document, True, [found[-1][1]])


@everywhere("leak")
def everything_after_the_first_answer_trained(document, found, case):
    if found[0][1] == len(document.tokens):
        return None
    return masked(document, True, range(found[0][1], len(document.tokens)))


@everywhere("tokens")
def what_follows_the_terminator_lost(document, found, case):
    if found[-1][1] == len(document.tokens):
        return None
    return spliced(document, found[-1][1], len(document.tokens))


@everywhere("tokens")
def line_break_appended_and_trained(document, found, case):
    return spliced(
        document,
        len(document.tokens),
        len(document.tokens),
        *((token, True) for token in case.chat.vocabulary.ids("\n")),
    )


# ---- beginnings of answers


@everywhere("leak")
def last_token_of_the_prompt_trained(document, found, case):
    return masked(document, True, [found[0][0] - 1]) if found[0][0] > 1 else None


@everywhere("leak")
def role_header_trained(document, found, case):
    start = found[-1][0]
    return masked(document, True, range(max(start - 3, 1), start))


@everywhere("start", "missing_turn")
def first_token_of_an_answer_masked(document, found, case):
    start, stop = found[-1]
    return masked(document, False, [start]) if stop - start > 1 else None


@everywhere("start", "missing_turn")
def first_half_of_an_answer_masked(document, found, case):
    start, stop = found[0]
    return masked(document, False, range(start, (start + stop) // 2))


@everywhere("missing_turn")
def middle_of_an_answer_masked(document, found, case):
    start, stop = found[-1]
    return masked(document, False, [start + 1]) if stop - start > 2 else None


@everywhere("missing_turn", "start")
def only_the_terminator_trained(document, found, case):
    return masked(document, False, range(found[-1][0], found[-1][1] - 1))


@everywhere("leak", "start")
def mask_shifted_right(document, found, case):
    return replace(document, trained=(False, *document.trained[:-1]))


@everywhere("leak", "stop")
def mask_shifted_left(document, found, case):
    if document.trained[1]:
        return None
    return replace(document, trained=(*document.trained[1:], False))


# ---- whole turns


@everywhere("leak")
def the_users_turn_trained(document, found, case):
    place = place_of(case, "user", document)
    return masked(document, True, place) if place else None


@everywhere("leak")
def first_token_of_the_users_turn_trained(document, found, case):
    place = place_of(case, "user", document)
    return masked(document, True, place[:1]) if place else None


@everywhere("leak")
def last_token_of_the_users_turn_trained(document, found, case):
    place = place_of(case, "user", document)
    return masked(document, True, place[-1:]) if place else None


@everywhere("leak")
def the_system_message_trained(document, found, case):
    place = place_of(case, "system", document)
    return masked(document, True, place) if place else None


@everywhere("leak")
def a_tool_result_trained(document, found, case):
    place = place_of(case, "tool", document)
    return masked(document, True, place) if place else None


@everywhere("leak")
def the_whole_prompt_trained(document, found, case):
    return masked(document, True, range(1, found[0][0])) if found[0][0] > 1 else None


@everywhere("leak")
def all_but_the_first_token_trained(document, found, case):
    return replace(document, trained=(False, *(True for _ in document.tokens[1:])))


@everywhere("leak")
def mask_inverted(document, found, case):
    return replace(document, trained=(False, *(not one for one in document.trained[1:])))


@everywhere("leak", "missing_turn")
def mask_shifted_by_a_turn(document, found, case):
    """Between two answers is trained in the place of the answers."""
    if len(found) < 2:
        return None
    trained = [False] * len(document.tokens)
    for (_, start), (stop, _) in itertools.pairwise(found):
        trained[start:stop] = [True] * (stop - start)
    return replace(document, trained=tuple(trained))


@everywhere("missing_turn")
def an_answer_not_trained(document, found, case):
    return masked(document, False, range(*found[-1]))


@everywhere("missing_turn")
def only_the_last_answer_trained(document, found, case):
    return masked(document, False, range(found[-1][0])) if len(found) > 1 else None


@everywhere("missing_turn")
def all_but_the_last_answer_trained(document, found, case):
    return masked(document, False, range(*found[-1])) if len(found) > 1 else None


# ---- the first token, BOS, padding


@everywhere("first_token")
def first_token_trained(document, found, case):
    return masked(document, True, [0])


@everywhere("double_bos")
def bos_twice(document, found, case):
    bos = case.chat.vocabulary.tokenizer.bos_token_id
    if bos is None or document.tokens[0] != bos:
        return None
    return spliced(document, 0, 0, (bos, False))


@everywhere("tokens")
def bos_missing(document, found, case):
    bos = case.chat.vocabulary.tokenizer.bos_token_id
    return spliced(document, 0, 1) if document.tokens[0] == bos else None


@everywhere("tokens")
def bos_where_none_belongs(document, found, case):
    other = min(case.chat.vocabulary.special - {document.tokens[0]})
    return spliced(document, 0, 0, (other, False))


@everywhere("tokens")
def padding_at_the_end(document, found, case):
    last = len(document.tokens)
    return spliced(document, last, last, *[(min(case.chat.vocabulary.special), False)] * 3)


@everywhere("tokens")
def padding_trained(document, found, case):
    last = len(document.tokens)
    return spliced(document, last, last, *[(min(case.chat.vocabulary.special), True)] * 3)


@everywhere("tokens", "double_bos")
def padding_on_the_left(document, found, case):
    return spliced(document, 0, 0, *[(min(case.chat.vocabulary.special), False)] * 2)


# ---- tokens


@everywhere("tokens")
def token_of_an_answer_dropped(document, found, case):
    return spliced(document, found[0][0], found[0][0] + 1)


@everywhere("tokens")
def token_of_an_answer_twice(document, found, case):
    start = found[0][0]
    return spliced(document, start, start, (document.tokens[start], True))


@everywhere("tokens")
def token_of_the_prompt_dropped(document, found, case):
    return spliced(document, found[0][0] - 2, found[0][0] - 1) if found[0][0] > 2 else None


@everywhere("tokens")
def tokens_swapped(document, found, case):
    start = found[0][0]
    one, other = document.tokens[start : start + 2]
    return spliced(document, start, start + 2, (other, True), (one, True))


@everywhere("tokens")
def answer_tokenized_letter_by_letter(document, found, case):
    vocabulary = case.chat.vocabulary
    start, stop = found[0]
    text = vocabulary.decode(list(document.tokens[start : stop - 1]))
    if vocabulary.special_text(vocabulary.special).search(text):
        return None
    letters = [token for letter in text for token in vocabulary.ids(letter)]
    return spliced(document, start, stop - 1, *((token, True) for token in letters))


@everywhere("tokens")
def end_cut_off_after_encoding(document, found, case):
    return spliced(document, len(document.tokens) - 3, len(document.tokens))


@everywhere("tokens")
def beginning_cut_off_after_encoding(document, found, case):
    return spliced(document, 0, 3)


@everywhere("mask_length")
def mask_too_short(document, found, case):
    return replace(document, trained=document.trained[:-1])


@everywhere("mask_length")
def mask_too_long(document, found, case):
    return replace(document, trained=(*document.trained, False))


# ---- templates: what is made by others' rules is proven by the same template


def naive(chat: ChatEncoder, sample: Conversation) -> tuple[Encoded]:
    """What tools do that prove nothing: from the end of the prompt, wherever that is, to a stop."""
    assert chat.template is not None
    messages, tools = template_messages(sample), template_tools(sample)
    whole = chat.vocabulary.ids(chat.template.render(messages, tools, add_generation_prompt=False))
    trained = [False] * len(whole)
    for index, message in enumerate(sample.messages):
        if message.role != "assistant":
            continue
        text = chat.template.render(messages[:index], tools, add_generation_prompt=True)
        start = len(chat.vocabulary.ids(text))
        stops = (at for at in range(start, len(whole)) if whole[at] in chat.stop_token_ids)
        stop = next(stops, len(whole) - 1)
        trained[start : stop + 1] = [True] * (stop + 1 - start)
    return (Encoded(tokens=tuple(whole), trained=tuple(trained)),)


TURN = "{{ '<|im_start|>' + m.role + '\n' }}"
THOUGHT = (
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
)
CALLS = (
    "{% for c in m.tool_calls or [] %}"
    "{{ '<call>' + c.function.name + ' ' + (c.function.arguments | tojson) + '</call>' }}"
    "{% endfor %}"
)
END = "{{ '<|im_end|>\n' }}"
TOOLS = "{% for t in tools or [] %}{{ t.function.name + '\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def template(
    turn: str = TURN,
    thought: str = THOUGHT,
    content: str = "{{ m.content }}",
    calls: str = CALLS,
    end: str = END,
    tools: str = TOOLS,
    ask: str = ASK,
) -> str:
    """A template in parts, each of which may be broken."""
    body = turn + thought + content + calls + end
    return f"{tools}{{% for m in messages %}}{body}{{% endfor %}}{ask}"


def chatml(text: str | None = None, **choices) -> ChatEncoder:
    """An encoder for ChatML's tokens."""
    tokenizer = byte_level_tokenizer(CHATML, "<|im_end|>")
    return encoder(tokenizer, template() if text is None else text, **choices)


FRENCH = SCENARIOS["single"]
TALK = SCENARIOS["multi"]
THINKING = SCENARIOS["thinking_multi"]
SYSTEM = SCENARIOS["system"]
WEATHER_TALK = SCENARIOS["tools"]


def naively(sample: Conversation, **parts: str) -> Case:
    """A case of a broken template that nobody noticed."""
    chat = chatml(template(**parts))
    return Case(chat=chat, sample=sample, documents=naive(chat, sample))


def only(condition: str, text: str, otherwise: str = "") -> str:
    return f"{{% if {condition} %}}{text}{{% else %}}{otherwise}{{% endif %}}"


@alone("served_prompt", "lost_text", "stop")
def thinking_stripped_from_earlier_turns():
    return naively(THINKING, thought=only("loop.last", THOUGHT))


@alone("lost_text")
def thinking_stripped_from_all_turns():
    return naively(SCENARIOS["thinking"], thought="")


@alone("lost_context")
def system_message_dropped():
    content = only("m.role != 'system'", "{{ m.content }}")
    return naively(SYSTEM, content=content)


@alone("lost_context")
def system_message_not_rendered_at_all():
    chat = chatml(
        "{% for m in messages if m.role != 'system' %}"
        + TURN
        + "{{ m.content }}"
        + END
        + "{% endfor %}"
        + ASK
    )
    return Case(chat=chat, sample=SYSTEM, documents=naive(chat, SYSTEM))


@alone("lost_context")
def tool_result_dropped():
    return naively(WEATHER_TALK, content=only("m.role != 'tool'", "{{ m.content }}"))


@alone("lost_context")
def tools_dropped():
    return naively(replace(WEATHER_TALK, messages=TALK.messages), tools="")


@alone("lost_context")
def users_text_cut():
    return naively(
        FRENCH, content=only("m.role == 'user'", "{{ m.content[:5] }}", "{{ m.content }}")
    )


@alone("lost_text")
def tool_call_dropped():
    return naively(WEATHER_TALK, calls="")


def two_arguments() -> Conversation:
    call = replace(CALL, arguments={"when": "noon", "city": "Paris"})
    asked, answer, *others = WEATHER_TALK.messages
    return replace(WEATHER_TALK, messages=(asked, replace(answer, tool_calls=(call,)), *others))


@alone("lost_text")
def arguments_reordered():
    return naively(two_arguments(), calls=CALLS.replace("tojson", "tojson(sort_keys=true)"))


@alone("lost_text")
def arguments_dropped():
    return naively(two_arguments(), calls=CALLS.replace("c.function.arguments", "dict()"))


@alone("lost_text")
def values_of_arguments_changed():
    return naively(
        two_arguments(), calls=CALLS.replace("tojson)", "tojson | replace('Paris', '?'))")
    )


@alone("lost_text")
def second_call_dropped():
    asked, answer, *others = WEATHER_TALK.messages
    calls = (CALL, ToolCall(name="time", arguments={"zone": "CET"}, identifier="call00002"))
    sample = replace(WEATHER_TALK, messages=(asked, replace(answer, tool_calls=calls), *others))
    return naively(sample, calls=CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"))


@alone("lost_text")
def calls_before_the_content():
    asked, answer, *others = WEATHER_TALK.messages
    sample = replace(WEATHER_TALK, messages=(asked, replace(answer, content="I look."), *others))
    return naively(sample, content="", calls=CALLS + "{{ m.content }}")


@alone("lost_text")
def thinking_after_the_answer():
    return naively(SCENARIOS["thinking"], thought="", calls=THOUGHT)


def on_answers(change: str) -> str:
    return only("m.role == 'assistant'", "{{ m.content" + change + " }}", "{{ m.content }}")


@alone("lost_text")
def end_of_answers_trimmed():
    return naively(TALK, content=on_answers("[:-1]"))


@alone("lost_text")
def beginning_of_answers_trimmed():
    return naively(TALK, content=on_answers("[1:]"))


@alone("lost_text")
def answers_lower_cased():
    return naively(TALK, content=on_answers(" | lower"))


@alone("lost_text")
def answers_escaped_as_html():
    sample = replace(
        FRENCH, messages=(FRENCH.messages[0], Message(role="assistant", content="a < b"))
    )
    return naively(sample, content=on_answers(" | escape"))


@alone("lost_text")
def answers_empty():
    return naively(TALK, content=on_answers("[:0]"))


@alone("stop")
def template_without_terminators():
    return naively(FRENCH, end="{{ '\n' }}")


@alone("stop", "served_prompt")
def template_without_terminator_of_the_last_turn():
    return naively(TALK, end=only("not loop.last", END))


@alone("stop")
def template_ends_turns_with_plain_text():
    return naively(TALK, end="{{ '</turn>\n' }}")


@alone("lost_text", "stop")
def terminator_within_answers():
    return naively(FRENCH, content=on_answers("[:3] + '<|im_end|>' + m.content[3:]"))


@alone("served_prompt")
def prompt_of_another_role_at_serving():
    return naively(FRENCH, ask=ASK.replace("assistant", "Assistant"))


@alone("served_prompt")
def prompt_with_thinking_only_at_serving():
    return naively(FRENCH, ask=ASK.replace("assistant\n", "assistant\n<think>\n"))


@alone("served_prompt")
def earlier_turns_rewritten_when_later_follow():
    return naively(TALK, content=only("loop.last", "{{ m.content }}", "{{ m.content }}."))


@alone("served_prompt")
def turns_numbered_from_the_end():
    return naively(TALK, turn=TURN + "{{ loop.revindex }} ")


@alone("double_bos")
def template_writes_bos_twice():
    tokenizer = byte_level_tokenizer((*CHATML, *LLAMA3), "<|im_end|>", "<|begin_of_text|>")
    chat = encoder(tokenizer, "{{ bos_token + bos_token }}" + template())
    return Case(chat=chat, sample=FRENCH, documents=naive(chat, FRENCH))


@alone("served_prompt", "tokens")
def tokens_merge_across_the_end_of_the_prompt():
    tokenizer = byte_level_tokenizer(CHATML, "<|im_end|>")
    chat = encoder(tokenizer, template())
    answer = Message(role="assistant", content="\n\n\nParis.")
    sample = Conversation(messages=(FRENCH.messages[0], answer, *TALK.messages[2:]))
    return Case(chat=chat, sample=sample, documents=naive(chat, sample))


# ---- another encoder than the one that is asked for


def encoded_by(other: ChatEncoder, sample: Conversation, chat: ChatEncoder | None = None) -> Case:
    return Case(
        chat=chatml() if chat is None else chat,
        sample=sample,
        documents=tuple(other.conversation(sample)),
    )


@alone("tokens")
def default_system_prompt_injected():
    injected = "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}"
    return encoded_by(chatml(injected + template()), FRENCH)


@alone("tokens")
def template_changed_after_encoding():
    return encoded_by(chatml(template(end="{{ '<|im_end|>' }}")), FRENCH)


@alone("tokens")
def turns_end_in_eos_where_the_server_stops_at_eot():
    tokenizer = byte_level_tokenizer((*CHATML, *LLAMA3), "<|im_end|>")
    wrong = encoder(tokenizer, template(end="{{ '<|eot_id|>\n' }}"), stop_tokens=("<|eot_id|>",))
    return encoded_by(wrong, FRENCH, encoder(tokenizer, template()))


@alone("stop")
def server_stops_at_another_token():
    """Plain text ends the turns, and the encoder was told of a stop token that the server lacks."""
    tokenizer = byte_level_tokenizer((*CHATML, *LLAMA3), "<|im_end|>")
    text = template(
        turn="{{ m.role + ':' }}",
        end="{{ '\n' }}",
        ask="{% if add_generation_prompt %}assistant:{% endif %}",
    )
    wrong = encoder(tokenizer, text, stop_tokens=("<|eot_id|>",))
    (document,) = wrong.conversation(FRENCH)
    cut = Encoded(tokens=document.tokens[:-1], trained=document.trained[:-1])
    return Case(chat=wrong, sample=FRENCH, documents=(cut,))


@alone("tokens")
def tokenized_by_another_tokenizer():
    other = encoder(
        byte_level_tokenizer(CHATML, "<|im_end|>", together=False),
        template(end="{{ '<|im_end|>\n\n\n' }}"),
    )
    return encoded_by(other, TALK, chatml(template(end="{{ '<|im_end|>\n\n\n' }}")))


@alone("tokens")
def special_tokens_read_as_plain_text():
    chat = chatml()
    (document,) = chat.conversation(FRENCH)
    text = chat.vocabulary.decode(list(document.tokens))
    tokens = [
        token
        for part in text.replace("<|", "<\0|").split("\0")
        for token in chat.vocabulary.ids(part)
    ]
    plain = Encoded(tokens=tuple(tokens), trained=(False, *(True for _ in tokens[1:])))
    return Case(chat=chat, sample=FRENCH, documents=(plain,))


@alone("double_bos")
def tokenizer_adds_a_second_bos():
    tokenizer = byte_level_tokenizer((*CHATML, *LLAMA3), "<|im_end|>", "<|begin_of_text|>")
    chat = encoder(tokenizer, "{{ bos_token }}" + template())
    (document,) = chat.conversation(FRENCH)
    return Case(
        chat=chat,
        sample=FRENCH,
        documents=(spliced(document, 0, 0, (tokenizer.bos_token_id, False)),),
    )


@alone("start", "missing_turn")
def thinking_masked_where_it_is_to_be_trained():
    return encoded_by(chatml(reasoning="final"), SCENARIOS["thinking"])


@alone("thinking")
def thinking_trained_where_only_the_rest_is_to_be():
    return encoded_by(chatml(), SCENARIOS["thinking"], chatml(reasoning="final"))


@alone("thinking")
def part_of_the_answer_masked_with_its_thinking():
    chat = chatml(reasoning="final")
    (document,) = chat.conversation(SCENARIOS["thinking"])
    ((start, _),) = runs(document)
    changed = masked(document, False, [start])
    assert changed is not None
    return Case(chat=chat, sample=SCENARIOS["thinking"], documents=(changed,))


@alone("leak", "missing_turn")
def another_role_trained():
    return encoded_by(chatml(train_on=("user",)), TALK)


@alone("leak")
def all_roles_trained():
    roles = ("system", "user", "assistant", "tool")
    return encoded_by(chatml(train_on=roles), SYSTEM)


@alone("missing_turn")
def a_selected_role_not_trained():
    return encoded_by(chatml(), TALK, chatml(train_on=("user", "assistant")))


@alone("missing_turn")
def last_turn_only_where_all_are_to_be_trained():
    return encoded_by(chatml(turns="last"), TALK)


@alone("leak")
def all_turns_where_only_the_last_is_to_be_trained():
    return encoded_by(chatml(), TALK, chatml(turns="last"))


@alone("documents")
def one_document_where_each_answer_is_to_have_one():
    return encoded_by(chatml(), TALK, chatml(turns="each"))


@alone("documents")
def a_document_lost():
    chat = chatml(turns="each")
    return Case(chat=chat, sample=TALK, documents=tuple(chat.conversation(TALK))[:1])


@alone("documents")
def a_document_twice():
    chat = chatml(turns="each")
    first, second = chat.conversation(TALK)
    return Case(chat=chat, sample=TALK, documents=(first, second, second))


@alone("tokens")
def documents_in_another_order():
    chat = chatml(turns="each")
    return Case(chat=chat, sample=TALK, documents=tuple(chat.conversation(TALK))[::-1])


def flagged(index: int, value: bool) -> Conversation:
    messages = list(TALK.messages)
    messages[index] = replace(messages[index], train=value)
    return replace(TALK, messages=tuple(messages))


@alone("leak")
def a_message_not_to_be_trained_is():
    chat = chatml()
    return Case(chat=chat, sample=flagged(1, False), documents=tuple(chat.conversation(TALK)))


@alone("missing_turn")
def a_message_to_be_trained_is_not():
    chat = chatml()
    return Case(chat=chat, sample=flagged(2, True), documents=tuple(chat.conversation(TALK)))


# ---- samples that changed after they were encoded


def after(sample: Conversation, changed: Conversation) -> Case:
    chat = chatml()
    return Case(chat=chat, sample=changed, documents=tuple(chat.conversation(sample)))


@alone("tokens")
def row_changed_after_encoding():
    other = replace(FRENCH.messages[1], content="Lyon.")
    return after(FRENCH, replace(FRENCH, messages=(FRENCH.messages[0], other)))


@alone("tokens")
def turn_added_after_encoding():
    return after(FRENCH, TALK)


@alone("tokens")
def turn_removed_after_encoding():
    return after(TALK, FRENCH)


@alone("tokens")
def white_space_stripped_before_encoding():
    spaced = replace(FRENCH.messages[1], content="  Paris.\n")
    return after(FRENCH, replace(FRENCH, messages=(FRENCH.messages[0], spaced)))


@alone("tokens")
def tools_lost_before_encoding():
    return after(FRENCH, replace(FRENCH, tools=(WEATHER,)))


# ---- plain text


ASKED = Completion(prompt="Capital of France? ", completion="Paris.")


def plain() -> ChatEncoder:
    tokenizer = byte_level_tokenizer(CHATML, "</s>", "<s>")
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return encoder(tokenizer, "chatml")


def completed(change: Callable[[Encoded, int, ChatEncoder], Encoded | None]) -> Case:
    chat = plain()
    document = chat.completion(ASKED)
    changed = change(document, document.trained.index(True), chat)
    assert changed is not None
    return Case(chat=chat, sample=ASKED, documents=(changed,))


@alone("stop")
def completion_without_end():
    return completed(
        lambda document, start, chat: spliced(
            document, len(document.tokens) - 1, len(document.tokens)
        )
    )


@alone("stop")
def end_of_a_completion_masked():
    return completed(
        lambda document, start, chat: masked(document, False, [len(document.tokens) - 1])
    )


@alone("stop")
def completion_ends_in_another_token():
    return completed(
        lambda document, start, chat: spliced(
            document,
            len(document.tokens) - 1,
            len(document.tokens),
            (chat.vocabulary.ids("<|im_end|>")[0], True),
        )
    )


@alone("leak")
def prompt_of_a_completion_trained():
    return completed(lambda document, start, chat: masked(document, True, range(1, start)))


@alone("leak")
def last_token_before_a_completion_trained():
    return completed(lambda document, start, chat: masked(document, True, [start - 1]))


@alone("missing_turn")
def first_token_of_a_completion_masked():
    return completed(lambda document, start, chat: masked(document, False, [start]))


@alone("tokens")
def bos_before_a_completion_missing():
    return completed(lambda document, start, chat: spliced(document, 0, 1))


@alone("double_bos")
def bos_before_a_completion_twice():
    return completed(
        lambda document, start, chat: spliced(document, 0, 0, (document.tokens[0], False))
    )


@alone("tokens")
def completion_cut():
    return completed(lambda document, start, chat: spliced(document, start, start + 1))


def read(change: Callable[[Encoded], Encoded | None]) -> Case:
    chat = plain()
    sample = Document(text="The capital of France is Paris.")
    changed = change(chat.document(sample))
    assert changed is not None
    return Case(chat=chat, sample=sample, documents=(changed,))


@alone("stop")
def text_without_end():
    return read(lambda document: spliced(document, len(document.tokens) - 1, len(document.tokens)))


@alone("missing_turn")
def part_of_a_text_masked():
    return read(lambda document: masked(document, False, [4, 5]))


@alone("tokens")
def part_of_a_text_lost():
    return read(lambda document: spliced(document, 4, 6))


@alone("first_token")
def first_token_of_a_text_trained():
    return read(lambda document: masked(document, True, [0]))


def given(change: Callable[[Encoded], Encoded]) -> Case:
    chat = plain()
    sample = Tokenized(tokens=(5, 6, 7, 8), trained=(False, False, True, True))
    return Case(chat=chat, sample=sample, documents=(change(chat.tokenized(sample)),))


@alone("tokens")
def ids_of_a_row_changed():
    return given(lambda document: spliced(document, 1, 2, (9, False)))


@alone("leak")
def labels_of_a_row_ignored():
    return given(lambda document: replace(document, trained=(False, True, True, True)))


@alone("missing_turn")
def labels_of_a_row_lost():
    return given(lambda document: replace(document, trained=(False, False, True, False)))
