"""A sample written as a row is read as the same sample."""

from __future__ import annotations

import json
import typing

import pytest
import yaml

from framework.cleaning.sample_rows import FORMATS, row_of
from framework.core import samples
from framework.core.registries import registry
from framework.core.samples import Conversation, Document, Message, ToolCall

CALL = ToolCall(name="weather", arguments={"city": "Oslo"}, identifier="c1")
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)
ASKED = (Message(role="system", content="Be brief."), Message(role="user", content="Rain?"))
YES = (Message(role="assistant", content="Yes.", reasoning="It pours.", train=False),)
NO = (Message(role="assistant", content="No."),)
LONG = (
    *ASKED,
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="rain", tool_call_id="c1", name="weather"),
    *YES,
)
SAMPLES = (
    Conversation(messages=LONG, tools=TOOLS),
    samples.Completion(prompt="1 + 1 =", completion=" 2"),
    Document(text="All of it.\n"),
    samples.Tokenized(tokens=(5, 6, 7), trained=(False, True, True)),
    samples.Preference(messages=ASKED, chosen=YES, rejected=NO, tools=TOOLS, margin=0.5),
    samples.UnpairedPreference(messages=ASKED, completion=YES, label=False),
    samples.PromptOnly(messages=ASKED, columns={"answer": "Yes.", "level": 3}),
    samples.StepwiseSupervision(messages=ASKED, steps=("One.", "Two."), labels=(1.0, 0.0)),
    samples.Classified(content=Document(text="good"), label="positive"),
    samples.Scored(content=Conversation(messages=(*ASKED, *NO)), score=0.25),
)


def test_every_type_of_sample_is_here():
    assert {type(one) for one in SAMPLES} == set(typing.get_args(samples.Sample))
    assert {type(one).__name__ for one in SAMPLES} == set(FORMATS)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: type(one).__name__)
def test_a_written_sample_is_read_again_as_it_was(sample):
    written = yaml.safe_load(FORMATS[type(sample).__name__])
    name, fields = (written, {}) if isinstance(written, str) else (written.pop("type"), written)
    read = registry("formatters").get(name)(**fields)
    assert read(json.loads(json.dumps(row_of(sample)))) == sample
