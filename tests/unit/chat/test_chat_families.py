"""Masks over the real templates of model families: exact trained texts, or the exact refusal."""

# ruff: noqa: RUF001 - DeepSeek writes its special tokens with a fullwidth bar

from __future__ import annotations

import pytest
from chat_families import SCENARIOS, template_folder, trained_spans
from chat_golden import (
    CASES,
    GOLDEN,
    LATE,
    NO_TOOLS,
    ONLY_EACH,
    TRAINED,
    expected_text,
    family_encoder,
)

from framework.core.samples import Conversation, Message, RowError


def test_the_table_covers_the_files_it_names():
    files = {path.stem for path in template_folder().glob("*.jinja")}
    assert len(files) >= 72
    assert len(GOLDEN) == 37
    assert len(TRAINED) == 133
    assert set(GOLDEN) - files == {"mistral"}


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_each_turn_is_trained_exactly_or_refused_for_its_reason(name: str, scenario: str):
    expected = GOLDEN[name][1][scenario]
    chat = family_encoder(name, turns="each")
    if isinstance(expected, str):
        with pytest.raises(RowError) as caught:
            chat.conversation(SCENARIOS[scenario])
        # Turn by turn, the first answer is reached before the tool's turn is refused.
        reason = NO_TOOLS if scenario == "tools" and expected in LATE else expected
        assert reason in caught.value.what
        return
    documents = trained_spans(chat, SCENARIOS[scenario])
    assert documents == [[expected_text(name, text)] for text in expected]


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_a_whole_conversation_is_trained_exactly_or_refused_for_its_reason(
    name: str, scenario: str
):
    expected = GOLDEN[name][1][scenario]
    chat = family_encoder(name)
    reason = ONLY_EACH.get((name, scenario), expected)
    if isinstance(reason, str):
        with pytest.raises(RowError) as caught:
            chat.conversation(SCENARIOS[scenario])
        assert reason in caught.value.what
        assert (caught.value.hint == "write `data.turns: each`") == ((name, scenario) in ONLY_EACH)
        return
    assert trained_spans(chat, SCENARIOS[scenario]) == [
        [expected_text(name, text) for text in expected]
    ]


@pytest.mark.parametrize(("name", "scenario"), TRAINED)
def test_only_the_last_turn_is_trained_on_request(name: str, scenario: str):
    expected = GOLDEN[name][1][scenario]
    spans = trained_spans(family_encoder(name, turns="last"), SCENARIOS[scenario])
    assert spans == [[expected_text(name, expected[-1])]]


@pytest.mark.parametrize("name", [name for name, scenario in TRAINED if scenario == "multi"])
def test_what_comes_before_an_answer_is_what_transformers_would_serve(name: str):
    chat = family_encoder(name, turns="each")
    conversation = SCENARIOS["multi"]
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
    for count, document in zip((1, 3), chat.conversation(conversation), strict=True):
        served = chat.vocabulary.tokenizer.apply_chat_template(
            messages[:count],
            chat_template=chat.template.text,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert document.tokens[: document.trained.index(True)] == tuple(served)
    assert chat.prompt(conversation) == tuple(served)


def test_a_thinking_prompt_fits_answers_that_begin_with_their_thinking():
    chat = family_encoder("deepseek_r1_distill_training")
    answer = "<think>\nI know it.\n</think>\n\nParis."
    conversation = Conversation(
        messages=(
            Message(role="user", content="Capital of France?"),
            Message(role="assistant", content=answer),
        )
    )
    expected = "I know it.\n</think>\n\nParis.<｜end▁of▁sentence｜>"
    with pytest.raises(RowError, match="preceded by") as caught:
        family_encoder("deepseek_r1_distill").conversation(conversation)
    assert trained_spans(chat, conversation) == [[expected]], caught.value.what
