"""Every text of a sample is found where it stands, and can be put back changed."""

from __future__ import annotations

from framework.cleaning.sample_texts import own_text, prompt_of, texts, with_texts
from framework.core.samples import Completion, Conversation, Document, Message, PromptOnly, ToolCall

CALL = ToolCall(name="weather", arguments={"city": "Oslo", "days": 3, "to": ["a", "b"]})
TALK = Conversation(
    messages=(
        Message(role="system", content="Be brief."),
        Message(role="user", content="How is it?", name="Ada"),
        Message(role="assistant", content="", reasoning="I must look.", tool_calls=(CALL,)),
        Message(role="tool", content="rain", tool_call_id="1"),
        Message(role="assistant", content="It rains."),
    ),
    tools=({"name": "weather", "description": "forecast"},),
)


def test_a_conversation_has_the_texts_that_a_model_reads_and_says_and_no_names():
    assert [(one.where, one.role, one.text) for one in texts(TALK)] == [
        ("messages[0].content", "system", "Be brief."),
        ("messages[1].content", "user", "How is it?"),
        ("messages[2].reasoning", "assistant", "I must look."),
        ("messages[2].tool_calls[0].arguments.city", "assistant", "Oslo"),
        ("messages[2].tool_calls[0].arguments.to[0]", "assistant", "a"),
        ("messages[2].tool_calls[0].arguments.to[1]", "assistant", "b"),
        ("messages[3].content", "tool", "rain"),
        ("messages[4].content", "assistant", "It rains."),
    ]


def test_the_prompt_is_what_is_not_answered_without_the_systems_words():
    assert prompt_of(TALK) == "How is it?\nrain"
    assert prompt_of(Completion(prompt="1 + 1 =", completion="2")) == "1 + 1 ="
    assert prompt_of(Document(text="all of it")) == ""
    asked = (Message(role="user", content="Why?"),)
    assert prompt_of(PromptOnly(messages=asked, columns={"answer": "So."})) == "Why?"
    assert own_text(TALK).startswith("How is it?\nI must look.")


def test_changed_texts_stand_in_a_new_sample_and_an_unchanged_sample_stays_itself():
    loud = with_texts(TALK, lambda one: one.text.upper())
    assert isinstance(loud, Conversation)
    assert [one.text for one in texts(loud)] == [one.text.upper() for one in texts(TALK)]
    assert loud.messages[2].tool_calls[0].arguments == {"city": "OSLO", "days": 3, "to": ["A", "B"]}
    assert loud.messages[1].name == "Ada"
    assert loud.tools == TALK.tools
    assert with_texts(TALK, lambda one: "".join(list(one.text))) is TALK
