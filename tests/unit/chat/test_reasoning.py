"""Thinking is kept, stripped or only read, wherever rows and templates write it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from chat_families import (
    CHATML,
    FAMILIES,
    SCENARIOS,
    byte_level_tokenizer,
    encoder,
    template_text,
    trained_spans,
)
from chat_golden import GOLDEN, family_encoder

from framework.chat.reasoning import without_thinking
from framework.chat.tokens import vocabulary_of
from framework.core.problems import UserError
from framework.core.samples import Conversation, Message, RowError
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

USER = Message(role="user", content="Capital of France?")


def talk(content: str, **more: object) -> Conversation:
    return Conversation(messages=(USER, Message(role="assistant", content=content, **more)))


WRITTEN = {
    "a field": talk("Paris.", reasoning="I know it."),
    "inline": talk("<think>\nI know it.\n</think>\n\nParis."),
    "inline after white space": talk("\n<think>I know it.</think>Paris."),
    "without the opening tag": talk("I know it.\n</think>\n\nParis."),
    "both": talk("<think>I know it.</think>\n\nParis.", reasoning="Or do I?"),
    "empty": talk("<think>\n\n</think>\n\nParis."),
    "none": talk("Paris."),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_strip_leaves_the_answer_alone(name):
    assert without_thinking(WRITTEN[name]) == talk("Paris.")


def test_strip_takes_the_thinking_of_every_answer_and_of_nobody_else():
    asked = Message(role="user", content="What does <think>x</think> mean?")
    call = SCENARIOS["tools"].messages[1]
    sample = Conversation(
        messages=(asked, replace(call, reasoning="Look."), *WRITTEN["a field"].messages)
    )
    stripped = without_thinking(sample).messages
    assert stripped == (asked, call, USER, Message(role="assistant", content="Paris."))


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        (talk("<think>I know it."), "message 2 (assistant) has '<think>' where no thinking"),
        (talk("Well. <think>Hm.</think> Paris."), "has '<think>' where no thinking"),
        (talk("<think>a</think>b</think>c"), "has '</think>' where no thinking"),
        (talk("<think>a<think>b</think>c"), "has '<think>' where no thinking"),
        (talk("<think>I know it.</think>\n"), "is only thinking: nothing follows it"),
        (talk("", reasoning="I know it."), "is only thinking: nothing follows it"),
    ],
)
@pytest.mark.parametrize("choice", ["strip", "final"])
def test_thinking_that_cannot_be_told_apart_is_refused(sample, what, choice):
    template = template_text("qwen3_training") if sample.messages[1].reasoning else "chatml"
    chat = FAMILIES["chatml"].encoder(template, reasoning="final")
    with pytest.raises(RowError) as caught:
        without_thinking(sample) if choice == "strip" else chat.conversation(sample)
    assert what in caught.value.what
    assert "data.reasoning: keep" in caught.value.hint


TAGS = byte_level_tokenizer((*CHATML, "<think>", "</think>"), "<|im_end|>")


@pytest.mark.parametrize("name", ["a field", "inline", "empty", "none"])
def test_final_trains_all_that_follows_a_closing_tag_that_is_a_token(name):
    chat = encoder(TAGS, template_text("qwen3_training"), reasoning="final")
    # Such tags are special here, so that a row can't write them into its content.
    if name in {"inline", "empty"}:
        chat = replace(chat, vocabulary=without_special_tags())
    assert trained_spans(chat, WRITTEN[name]) == [["\n\nParis.<|im_end|>"]]


def without_special_tags():
    """As in Qwen 3's own files: the tags are tokens, but no special ones."""
    tokenizer = byte_level_tokenizer(CHATML, "<|im_end|>")
    tokenizer.add_tokens(["<think>", "</think>"])
    return vocabulary_of(tokenizer)


def test_final_trains_each_answer_of_a_conversation_and_its_calls():
    asked, call, result, answer = SCENARIOS["tools"].messages
    thought = replace(call, reasoning="I look it up.")
    sample = replace(SCENARIOS["tools"], messages=(asked, thought, result, answer))
    chat = FAMILIES["chatml"].encoder(template_text("qwen3_training"), reasoning="final")
    ((first, second),) = trained_spans(chat, sample)
    assert first.startswith("<tool_call>")
    assert second == "It is sunny.<|im_end|>"


def test_final_leaves_thinking_out_where_every_role_is_trained():
    roles = ("system", "user", "assistant", "tool")
    chat = FAMILIES["chatml"].encoder(
        template_text("qwen3_training"), reasoning="final", train_on=roles
    )
    assert "I know it" not in str(trained_spans(chat, WRITTEN["a field"]))
    assert "Capital of France?" in str(trained_spans(chat, WRITTEN["a field"]))


def test_final_trains_the_end_of_what_keep_trains_in_every_template():
    templates = set()
    for template, name in itertools.product(GOLDEN, ("a field", "inline", "both")):
        kept = family_encoder(template)
        final = replace(kept, final_only=True)
        try:
            ((whole,),) = trained_spans(kept, WRITTEN[name])
        except RowError:
            continue
        ((part,),) = trained_spans(final, WRITTEN[name])
        assert whole.endswith(part), (template, name)
        assert "I know it." in whole, (template, name)
        assert "know" not in part, (template, name)
        assert "think" not in part, (template, name)
        assert part.strip() != "", (template, name)
        assert "Paris." in part, (template, name)
        (kept_document,) = kept.conversation(WRITTEN[name])
        (final_document,) = final.conversation(WRITTEN[name])
        assert kept_document.tokens == final_document.tokens
        templates.add((template, name))
    assert {name for _, name in templates} == {"a field", "inline", "both"}
    assert len(templates) > 40


def test_a_special_token_that_ends_the_thinking_is_not_trained():
    final = family_encoder("gptoss", reasoning="final")
    assert trained_spans(final, WRITTEN["a field"]) == [
        ["<|start|>assistant<|channel|>final<|message|>Paris.<|return|>"]
    ]


@pytest.mark.parametrize(
    ("choice", "trained"),
    [
        ("keep", "<think>I know it.</think>\nParis.<|im_end|>"),
        ("strip", "Paris.<|im_end|>"),
        ("final", "\nParis.<|im_end|>"),
    ],
)
def test_a_recipe_decides_what_becomes_of_thinking(write_recipe, tmp_path, choice, trained):
    answer = {"role": "assistant", "content": "<think>I know it.</think>\nParis."}
    row = {"messages": [{"role": "user", "content": "Capital of France?"}, answer]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    data = prepare_data(resolve(write_recipe(), [f"data.reasoning={choice}"]))
    (document,) = data.train.features(0).documents
    pairs = zip(document.tokens, document.trained, strict=True)
    text = data.tokenizer.decode([token for token, is_trained in pairs if is_trained])
    assert text == trained
    other = prepare_data(resolve(write_recipe(), ["data.reasoning=keep"]))
    assert (other.train.folder == data.train.folder) == (choice == "keep")


def test_a_row_of_thinking_alone_is_a_bad_row_with_its_line(write_recipe, tmp_path):
    answer = {"role": "assistant", "content": "<think>I know it.</think>"}
    row = {"messages": [{"role": "user", "content": "Capital of France?"}, answer]}
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(row))
    with pytest.raises(
        UserError, match=r"train.jsonl:17: message 2 \(assistant\) is only thinking"
    ):
        prepare_data(resolve(write_recipe(), ["data.reasoning=strip"]))


@pytest.mark.parametrize("choice", ["strip", "final"])
def test_thinking_in_a_plain_completion_is_never_trained_as_an_answer(
    write_recipe, tmp_path, choice
):
    """Beside conversations, of which the recipe's choice says what is left out."""
    (tmp_path / "plain.jsonl").write_text(
        json.dumps({"prompt": "Capital of France?", "completion": " Paris."})
        + "\n"
        + json.dumps({"prompt": "Of Italy?", "completion": " <think>Easy.</think> Rome."})
    )
    form = {"type": "prompt_completion", "chat": False}
    path = write_recipe()
    dataset = f"+data.train={{source: {tmp_path / 'plain.jsonl'}, format: {json.dumps(form)}}}"
    with pytest.raises(
        UserError, match=r"plain.jsonl:2: the completion has '<think>', .* as it stands"
    ):
        prepare_data(resolve(path, [dataset, f"data.reasoning={choice}"]))
    data = prepare_data(
        resolve(path, [dataset, f"data.reasoning={choice}", "+data.train[1].rows=:1"])
    )
    assert data.train.num_samples == 17
    assert prepare_data(resolve(path, [dataset])).train.num_samples == 18
