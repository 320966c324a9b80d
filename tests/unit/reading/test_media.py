"""Pictures beside a text are never left out in silence."""

from __future__ import annotations

import json

import pytest

from framework.core.problems import UserError
from framework.core.samples import Conversation, Document, Message, PromptOnly, RowError
from framework.data.prepared import prepare_data
from framework.reading.media import refuse_media
from framework.recipe.resolve import resolve

ASKED = Message(role="user", content="<image>What is this?")
SAID = Message(role="assistant", content="A cat.")


@pytest.mark.parametrize("column", ["images", "image", "videos", "video", "audios", "audio"])
def test_a_conversation_beside_what_is_no_text_is_refused(column):
    for sample in (Conversation(messages=(ASKED, SAID)), PromptOnly(messages=(ASKED,))):
        with pytest.raises(RowError, match=f"column '{column}' is not empty"):
            refuse_media(sample, {column: ["cat.png"]})


def test_a_row_that_could_have_some_and_has_none_is_good():
    for nothing in ([], None, "", {}, False):
        refuse_media(Conversation(messages=(ASKED, SAID)), {"images": nothing})
    refuse_media(Document(text="An encyclopedia's page."), {"image": "https://example.org/cat.png"})


def test_the_check_names_the_row_and_renaming_says_that_the_text_is_enough(write_recipe, tmp_path):
    turns = [{"role": one.role, "content": one.content} for one in (ASKED, SAID)]
    (tmp_path / "seen.jsonl").write_text(json.dumps({"messages": turns, "images": ["cat.png"]}))
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(**{"data.train": [{"source": "./seen.jsonl"}]}))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "seen.jsonl"), 1)
    dataset = {"source": "./seen.jsonl", "columns": {"unread": "images"}}
    assert "unread" in problem.hint
    data = prepare_data(resolve(write_recipe(**{"data.train": [dataset]})))
    assert data.train.num_samples == 1


def test_a_row_further_on_is_refused_while_data_are_prepared(write_recipe, tmp_path):
    turns = [{"role": one.role, "content": one.content} for one in (ASKED, SAID)]
    rows = [{"messages": turns, "images": []}] * 5 + [{"messages": turns, "images": ["cat.png"]}]
    (tmp_path / "seen.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    recipe = resolve(write_recipe(**{"data.train": [{"source": "./seen.jsonl"}]}))
    with pytest.raises(UserError, match=r"seen.jsonl:6: column 'images' is not empty"):
        prepare_data(recipe)
