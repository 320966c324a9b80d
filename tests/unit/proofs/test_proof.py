"""Every seeded fault is found under its rule, and nothing is found in data that is right."""

from __future__ import annotations

import functools

import hypothesis
import pytest
from chat_families import SCENARIOS
from chat_golden import GOLDEN, family_encoder
from chat_tokenizers import FILLED, TEMPLATES, chat_of
from faults import ALONE, EVERYWHERE, Case, Fault
from hypothesis import strategies

from framework.chat import reasoning
from framework.core.samples import Completion, Conversation, Document, Message, RowError, ToolCall
from framework.proofs.findings import RULES
from framework.proofs.prover import Prover

TURNS = ("all", "last", "each")


@functools.cache
def clean_cases() -> tuple[tuple[str, str, str, Case], ...]:
    """Every template, scenario and choice of turns that can be encoded."""
    cases = []
    for name in GOLDEN:
        for turns in TURNS:
            chat = family_encoder(name, turns=turns)
            for scenario, sample in SCENARIOS.items():
                try:
                    documents = tuple(chat.conversation(sample))
                except RowError:
                    continue
                case = Case(chat=chat, sample=sample, documents=documents)
                cases.append((name, scenario, turns, case))
    return tuple(cases)


@functools.cache
def prover(name: str, turns: str) -> Prover:
    return Prover.of(family_encoder(name, turns=turns))


def test_nothing_is_found_in_what_is_right():
    cases = clean_cases()
    assert len(cases) > 350
    assert {name for name, *_ in cases} >= set(GOLDEN) - {"deepseekv3", "deepseekv3_training"} - {
        "deepseek_r1_distill",
        "deepseek_r1_distill_training",
    }
    found = {
        (name, scenario, turns): [
            str(one) for one in Prover.of(case.chat)(case.sample, case.documents)
        ]
        for name, scenario, turns, case in cases
    }
    assert {case: findings for case, findings in found.items() if findings} == {}


def test_there_are_enough_faults_and_each_has_its_name():
    names = [fault.name for fault in (*EVERYWHERE, *ALONE)]
    assert len(set(names)) == len(names)
    assert (len(EVERYWHERE), len(ALONE)) == (46, 71)
    assert {rule for fault in (*EVERYWHERE, *ALONE) for rule in fault.rules} <= set(RULES)


@pytest.mark.parametrize("fault", EVERYWHERE, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_every_template(fault: Fault):
    seen = set()
    for name, scenario, turns, case in clean_cases():
        seeded = None if turns == "last" else fault.seed(case)
        if seeded is None:
            continue
        findings = prover(name, turns)(seeded.sample, seeded.documents)
        assert findings, (name, scenario, turns)
        assert findings[0].rule in fault.rules, (name, scenario, turns, findings[0])
        seen.add(name)
    assert len(seen) >= 3, seen


@pytest.mark.parametrize("fault", ALONE, ids=lambda fault: fault.name)
def test_a_fault_with_a_case_of_its_own_is_found(fault: Fault):
    case = fault.seed()
    assert case is not None
    findings = Prover.of(case.chat)(case.sample, case.documents)
    assert findings
    assert findings[0].rule in fault.rules, findings[0]


def test_what_splits_thinking_for_masks_is_not_believed(monkeypatch):
    right = reasoning.split_thinking

    def greedy(message: Message, called: str) -> tuple[str, str]:
        thinking, rest = right(message, called)
        first, dot, others = rest.partition(". ")
        return f"{thinking}</think>{first}{dot}", others

    monkeypatch.setattr(reasoning, "split_thinking", greedy)
    chat = family_encoder("qwen2_5", reasoning="final")
    answer = "<think>hm</think>First part. Second part."
    turns = (Message(role="user", content="Q"), Message(role="assistant", content=answer))
    sample = Conversation(messages=turns)
    (finding,) = Prover.of(chat)(sample, chat.conversation(sample))
    assert finding.rule == "thinking"


# ---- data that is right


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "gptoss", "glm4moe", "cohere2", "mistral"])
@pytest.mark.parametrize(
    "choices",
    [
        {"train_on": ("user",)},
        {"train_on": ("user", "assistant")},
        {"train_on": ("system", "user", "assistant", "tool")},
        {"reasoning": "final"},
        {"turns": "each", "train_on": ("user", "assistant")},
    ],
    ids=str,
)
def test_nothing_is_found_in_other_choices(name: str, choices: dict[str, object]):
    chat = family_encoder(name, **choices)
    encoded = 0
    for scenario, sample in SCENARIOS.items():
        try:
            documents = chat.conversation(sample)
        except RowError:
            continue
        assert Prover.of(chat)(sample, documents) == (), scenario
        encoded += 1
    assert encoded >= 1


@strategies.composite
def conversations(draw) -> Conversation:
    """Any turns: system, thinking, calls with their results, flags."""
    text, flags = FILLED, strategies.sampled_from([None, None, None, True, False])
    messages = []
    if draw(strategies.booleans()):
        messages.append(Message(role="system", content=draw(text)))
    for _ in range(draw(strategies.integers(1, 3))):
        messages.append(Message(role="user", content=draw(text), train=draw(flags)))
        if draw(strategies.booleans()):
            arguments = {"city": draw(text), "days": draw(strategies.integers(0, 9))}
            call = ToolCall(name="weather", arguments=arguments, identifier="call00001")
            messages.append(Message(role="assistant", content="", tool_calls=(call,)))
            messages.append(Message(role="tool", content=draw(text), tool_call_id="call00001"))
        thinking = draw(strategies.sampled_from(["", "I know it."]))
        messages.append(
            Message(role="assistant", content=draw(text), reasoning=thinking, train=draw(flags))
        )
    return Conversation(messages=tuple(messages))


@functools.cache
def template_encoder(name: str, turns: str):
    return family_encoder(name, turns=turns)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_training", "llama3_1", "glm4moe", "gptoss"])
@hypothesis.given(sample=conversations())
@hypothesis.settings(max_examples=40, deadline=None)
def test_nothing_is_found_in_any_conversation_of_a_family(
    name: str, turns: str, sample: Conversation
):
    chat = template_encoder(name, turns)
    try:
        documents = chat.conversation(sample)
    except RowError:
        return
    assert Prover.of(chat)(sample, documents) == ()


def test_what_two_messages_say_is_found_though_only_one_is_written_as_json():
    """The template writes the tool's text as JSON and the user's as it stands."""
    call = ToolCall(name="count", arguments={"unit": "rows"})
    sample = Conversation(
        messages=(
            Message(role="user", content="How many?"),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", name="count", content="0\n0"),
            Message(role="user", content="0\n0"),
            Message(role="assistant", content="None."),
        )
    )
    chat = family_encoder("llama3_1")
    documents = chat.conversation(sample)
    assert r'"0\n0"' in chat.vocabulary.decode(list(documents[0].tokens))
    assert Prover.of(chat)(sample, documents) == ()


@pytest.mark.parametrize("kind", ("together", "apart", "first", "always", "normalizer"))
@pytest.mark.parametrize("template", TEMPLATES)
@hypothesis.given(questions=strategies.lists(FILLED, min_size=1, max_size=3), answer=FILLED)
@hypothesis.settings(max_examples=25, deadline=None)
def test_nothing_is_found_with_any_tokenizer(
    kind: str, template: str, questions: list[str], answer: str
):
    turns = [
        message
        for question in questions
        for message in (
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        )
    ]
    sample = Conversation(messages=tuple(turns))
    chat = chat_of(kind, template, "all")
    try:
        documents = chat.conversation(sample)
    except RowError:
        return
    assert Prover.of(chat)(sample, documents) == ()


@pytest.mark.parametrize("kind", ("together", "apart", "first", "always", "normalizer"))
@hypothesis.given(prompt=strategies.one_of(strategies.just(""), FILLED), completion=FILLED)
@hypothesis.settings(max_examples=40, deadline=None)
def test_nothing_is_found_in_plain_text(kind: str, prompt: str, completion: str):
    chat = chat_of(kind, "chatml", "all")
    sample = Completion(prompt=prompt, completion=completion)
    text = Document(text=completion)
    assert Prover.of(chat)(text, (chat.document(text),)) == ()
    try:
        document = chat.completion(sample)
    except RowError:
        return
    assert Prover.of(chat)(sample, (document,)) == ()
