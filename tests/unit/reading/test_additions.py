"""A dataset's system prompt and task prefix are in its samples, and nowhere else."""

from __future__ import annotations

import json

import pytest

from framework.core.problems import UserError
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    RowError,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)
from framework.data.prepared import prepare_data
from framework.reading.additions import with_system_prompt, with_task_prefix
from framework.recipe.resolve import resolve

ASKED = Message(role="user", content="Hi?")
AGAIN = Message(role="user", content="Who?")
SAID = (Message(role="assistant", content="Hello."),)
SYSTEM = Message(role="system", content="Be kind.")
TALKS = [
    Conversation(messages=(ASKED, *SAID, AGAIN, *SAID)),
    Preference(messages=(ASKED,), chosen=SAID, rejected=SAID),
    UnpairedPreference(messages=(ASKED,), completion=SAID, label=True),
    PromptOnly(messages=(ASKED,)),
    StepwiseSupervision(messages=(ASKED,), steps=("a",), labels=(1.0,)),
]


def kind(sample):
    return type(sample).__name__


@pytest.mark.parametrize("sample", TALKS, ids=kind)
def test_conversations_of_every_kind_take_both(sample):
    with_both = with_task_prefix(with_system_prompt(sample, "Be kind."), "Greet: ")
    asked = Message(role="user", content="Greet: Hi?")
    assert with_both.messages == (SYSTEM, asked, *sample.messages[1:])
    rest = {name: value for name, value in vars(sample).items() if name != "messages"}
    assert {name: value for name, value in vars(with_both).items() if name != "messages"} == rest


def test_a_row_that_has_a_system_turn_keeps_it():
    own = Conversation(messages=(Message(role="system", content="Be brief."), ASKED, *SAID))
    assert with_system_prompt(own, "Be kind.") == own


def test_a_conversation_or_text_with_a_class_takes_them():
    talk = Classified(content=Conversation(messages=(ASKED,)), label=1)
    assert with_system_prompt(talk, "Be kind.").content.messages == (SYSTEM, ASKED)
    text = Classified(content=Document(text="a"), label=1)
    assert with_task_prefix(text, "Spam? ").content == Document(text="Spam? a")


def test_a_completions_prompt_takes_the_prefix():
    plain = Completion(prompt="1+1", completion="2")
    assert with_task_prefix(plain, "Add: ") == Completion(prompt="Add: 1+1", completion="2")


@pytest.mark.parametrize(
    ("add", "sample"),
    [
        (with_system_prompt, Completion(prompt="a", completion="b")),
        (with_system_prompt, Document(text="a")),
        (with_system_prompt, Classified(content=Document(text="a"), label=1)),
        (with_system_prompt, Tokenized(tokens=(1,), trained=(True,))),
        (with_task_prefix, Document(text="a")),
        (with_task_prefix, Tokenized(tokens=(1,), trained=(True,))),
        (with_task_prefix, Conversation(messages=SAID)),
    ],
)
def test_what_has_no_place_for_them_is_refused(add, sample):
    with pytest.raises(RowError):
        add(sample, "x")


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"format": "completion", "task_prefix": "a"}, ["task_prefix"]),
        ({"format": "completion", "system_prompt": "a"}, ["system_prompt"]),
        ({"format": "pretokenized", "task_prefix": "a"}, ["task_prefix"]),
        (
            {"format": {"type": "prompt_completion", "chat": False}, "system_prompt": "a"},
            ["system_prompt"],
        ),
        ({"system_prompt": ""}, ["system_prompt"]),
    ],
)
def test_check_refuses_them_where_no_row_can_take_them(write_recipe, settings, keys):
    dataset = {"source": "./train.jsonl", **settings}
    trainer = "pretrain" if settings.get("format") == "completion" else "sft"
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(**{"data.train": [dataset], "trainer.type": trainer}))
    assert [problem.key for problem in caught.value.problems] == [
        f"data.train[0].{key}" for key in keys
    ]


def test_each_dataset_is_rendered_with_its_own(write_recipe, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yo."}]}
    ]
    rows.append({"messages": [{"role": "system", "content": "Own."}, *rows[0]["messages"]]})
    recipe = write_recipe(
        **{
            "data.train": [
                {"source": "./train.jsonl", "system_prompt": "Be kind.", "task_prefix": "Greet: "},
                {"source": "./train.jsonl"},
            ]
        }
    )
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepare_data(resolve(recipe))
    texts = [
        data.tokenizer.decode(data.train.features(index).documents[0].tokens) for index in range(4)
    ]
    user, answer = "<|im_start|>user\n{}Hi?<|im_end|>\n", "<|im_start|>assistant\nYo.<|im_end|>\n"
    system = "<|im_start|>system\n{}<|im_end|>\n"
    assert texts == [
        system.format("Be kind.") + user.format("Greet: ") + answer,
        system.format("Own.") + user.format("Greet: ") + answer,
        user.format("") + answer,
        system.format("Own.") + user.format("") + answer,
    ]


@pytest.mark.parametrize("setting", ["system_prompt", "task_prefix"])
def test_another_text_makes_other_data(write_recipe, setting):
    prints = {
        prepare_data(resolve(write_recipe(), overrides)).train.folder
        for overrides in ([], [f"+data.train.0.{setting}=a"], [f"+data.train.0.{setting}=b"])
    }
    assert len(prints) == 3
