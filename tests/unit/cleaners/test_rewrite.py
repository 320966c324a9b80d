"""A real model's words take the place of an answer or a prompt, and the old ones are listed."""

from __future__ import annotations

import pytest
from conftest import NUM_TRAIN_ROWS, read_rows

from framework.core.problems import UserError
from framework.core.samples import Completion, Conversation, Document, Message
from framework.data.prepared import prepare_data
from framework.endpoints.questions import part_of, with_part
from framework.recipe.resolve import resolve

ENDPOINT = {"model": "tiny", "max_tokens": 40, "temperature": 1.0, "extra": {"stop": "e"}}
PROMPT = "{{ instruction }} {{ target }}"


@pytest.fixture
def rewritten(write_recipe, chat_server):
    """`rewritten(target="prompt")`: the prepared data of a recipe that rewrites."""
    chat_server.fail()

    def make(endpoint=None, **settings):
        where = {"base_url": chat_server.base_url, **ENDPOINT, **(endpoint or {})}
        stage = {"type": "rewrite", "instruction": "Shorter:", "prompt": PROMPT, **settings}
        keys = {"data.cleaners": [{**stage, "endpoint": where}]}
        return prepare_data(resolve(write_recipe(**keys)))

    return make


def listed(store):
    (counts,) = store.details["cleaners"]
    return counts, read_rows(store.folder / counts["file"])


def texts(data):
    for index in range(data.train.num_samples):
        (document,) = data.train.features(index).documents
        yield data.tokenizer.decode(document.tokens)


@pytest.mark.parametrize(("target", "at"), [("answer", -1), ("prompt", 1)])
def test_what_is_trained_is_rewritten_and_the_original_is_listed_whole(
    rewritten, tmp_path, target, at
):
    data = rewritten(target=target, on_failure="drop", max_attempts=6)
    counts, rows = listed(data.train)
    originals = [row["messages"][at]["content"] for row in read_rows(tmp_path / "train.jsonl")]
    changed = [row for row in rows if row["action"] == "change"]
    assert len(changed) > NUM_TRAIN_ROWS // 2
    assert counts["num_change"] == len(changed) == data.train.num_samples
    for row, text in zip(changed, texts(data), strict=True):
        (excerpt,) = row["excerpts"]
        assert excerpt["before"] == originals[row["row"] - 1]
        assert excerpt["before"] not in text
        assert excerpt["after"] in text
        assert excerpt["after"] != excerpt["before"]


def test_what_the_model_was_asked_is_the_instruction_and_the_text(rewritten, chat_server):
    before = len(chat_server.requests())
    rewritten(on_failure="drop", instruction="In verse:")
    asked = {one["body"]["messages"][0]["content"] for one in chat_server.requests()[before:]}
    assert "In verse: The capital of France is Paris." in asked


def test_an_answer_that_is_cut_is_never_trained(rewritten):
    with pytest.raises(UserError, match=r"the answer is not rewritten: .* cut at max_tokens"):
        rewritten(endpoint={"extra": {}, "max_tokens": 3})


def test_rows_that_fail_can_stay_as_they_were(rewritten):
    data = rewritten(endpoint={"extra": {}, "max_tokens": 3}, on_failure="keep", max_attempts=1)
    counts, rows = listed(data.train)
    assert (counts["num_failures"], counts["num_report"]) == (NUM_TRAIN_ROWS, NUM_TRAIN_ROWS)
    assert all("cut at max_tokens" in row["reason"] for row in rows)
    assert all("The capital of " in text for text in texts(data))


@pytest.mark.parametrize("target", ["answer", "prompt"])
def test_only_the_last_turn_of_a_conversation_is_replaced(target):
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = tuple(Message(role=role, content=f"{n}") for n, role in enumerate(roles))
    talk = Conversation(messages=messages)
    at = 4 if target == "answer" else 3
    assert part_of(talk, target) == str(at)
    changed = with_part(talk, target, "new")
    assert isinstance(changed, Conversation)
    assert [one.content for one in changed.messages] == [
        "new" if n == at else f"{n}" for n in range(5)
    ]


def test_completions_and_raw_text_can_be_rewritten_too():
    completion = Completion(prompt="p", completion="c")
    assert with_part(completion, "prompt", "x") == Completion(prompt="x", completion="c")
    assert with_part(completion, "answer", "x") == Completion(prompt="p", completion="x")
    assert with_part(Document(text="t"), "answer", "x") == Document(text="x")
    assert part_of(Document(text="t"), "prompt") == ""
