"""A real model's scores decide what stays; what gets none is counted, kept or dropped as asked."""

from __future__ import annotations

import json

import pytest
from conftest import NUM_TRAIN_ROWS, read_rows

from framework.cleaners.judge import mean_score, written_score
from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

RUBRIC = "{{ text }} How good?"
REPLY = 'Reply with JSON: {"reason": "one sentence", "score": N}'


@pytest.fixture
def judged(write_recipe, chat_server):
    """`judged(threshold=3)`: the prepared training data of a recipe with a judge."""
    chat_server.fail()

    def make(dry_run=False, recipe_keys=(), endpoint=None, **settings):
        settings = {"rubric": RUBRIC, "answer": "json", **settings}
        where = {
            "base_url": chat_server.base_url,
            "model": "tiny",
            "temperature": 1.0,
            **(endpoint or {}),
        }
        judge = {"type": "judge", "endpoint": where, **settings}
        keys = {"data.cleaners": [judge], "data.dry_run": dry_run, **dict(recipe_keys)}
        return prepare_data(resolve(write_recipe(**keys))).train

    return make


def talks_of(rows):
    """As prompts show conversations."""
    turns = [[f"{one['role']}: {one['content']}" for one in row["messages"]] for row in rows]
    return ["\n\n".join(one) for one in turns]


def scores_of_the_server(chat_server, rows):
    """Row number -> score, asked without any code of ours, with our request's own schema."""
    (schema,) = {
        json.dumps(one["body"]["response_format"])
        for one in chat_server.requests()
        if "response_format" in one["body"]
    }
    scores = {}
    for number, talk in enumerate(talks_of(rows), start=1):
        content = f"{talk} How good?\n\n{REPLY}"
        body = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 1.0,
            "max_tokens": 512,
            "seed": 0,
            "response_format": json.loads(schema),
        }
        said = chat_server.ask(body)["choices"][0]["message"]["content"]
        scores[number] = json.loads(said)["score"]
    return scores


def test_rows_below_the_threshold_are_dropped_and_every_score_is_listed(
    judged, chat_server, tmp_path
):
    judged(threshold=1)
    scores = scores_of_the_server(chat_server, read_rows(tmp_path / "train.jsonl"))
    _, threshold, *_ = sorted(set(scores.values()))  # the test needs several opinions
    asked = len(chat_server.requests())
    store = judged(threshold=threshold)
    assert len(chat_server.requests()) == asked
    kept = [store.sample_id(index) for index in range(store.num_samples)]
    assert kept == [f"train0:{row}" for row, score in scores.items() if score >= threshold]
    assert 0 < len(kept) < NUM_TRAIN_ROWS
    (counts,) = store.details["cleaners"]
    listed = read_rows(store.folder / counts["file"])
    assert {one["row"]: one["score"] for one in listed} == scores
    assert {one["row"] for one in listed if one["action"] == "drop"} == {
        row for row, score in scores.items() if score < threshold
    }
    assert counts["num_drop"] == NUM_TRAIN_ROWS - len(kept)
    assert counts["num_failures"] == 0
    assert counts["num_answers_from_cache"] == NUM_TRAIN_ROWS
    assert store.details["datasets"][0]["num_cleaned_rows"] == counts["num_drop"]


def test_a_dry_run_lists_scores_and_drops_nothing(judged):
    store = judged(threshold=5, dry_run=True)
    assert store.num_samples == NUM_TRAIN_ROWS
    assert store.details["cleaners"][0]["num_drop"] > 0


def test_how_it_is_asked_makes_no_other_data_but_what_is_asked_does(judged):
    first = judged(threshold=1.0).folder
    assert (
        judged(threshold=1.0, endpoint={"max_concurrency": 2, "max_requests": 99}).folder == first
    )
    assert judged(threshold=1.0, rubric="{{ answer }} Is it good?").folder != first
    assert judged(threshold=1.0, endpoint={"seed": 3}).folder != first


FREE = {"answer": "text", "max_attempts": 2, "endpoint": {"max_tokens": 4, "temperature": 0.0}}


class TestWithoutScore:
    """The tiny model's free text never holds a score."""

    def test_every_such_row_is_an_error_with_file_and_line(self, judged, tmp_path):
        with pytest.raises(UserError) as caught:
            judged(**FREE)
        first = caught.value.problems[0]
        assert (first.file, first.line) == (str(tmp_path / "train.jsonl"), 1)
        assert "the judge gave no score" in first.what
        assert "on_failure" in first.hint

    def test_it_is_asked_again_with_another_seed_and_then_kept(self, judged, chat_server):
        before = len(chat_server.requests())
        store = judged(on_failure="keep", rubric="Keep? {{ answer }}", **FREE)
        assert store.num_samples == NUM_TRAIN_ROWS
        assert store.details["cleaners"][0]["num_failures"] == NUM_TRAIN_ROWS
        asked = [one["body"] for one in chat_server.requests()[before:]]
        settings = {(one["seed"], one["temperature"]) for one in asked}
        assert settings == {(0, 0.0), (1, 0.5)}

    def test_dropping_all_says_where_the_rows_went(self, judged):
        with pytest.raises(UserError, match="16 removed by cleaners"):
            judged(on_failure="drop", **FREE)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good, but short.\nScore: 4", 4),
        ("**Score:** 3.5", 3.5),
        ("score = 2.", 2),
        ("On a scale of 1 to 5 I say: Score: 5/5", 5),
        ("Score: 2, no, Score: 3", 3),
        ("4", 4),
        (" 4/5 ", 4),
        ("3 out of 5.", 3),
        ("On a scale of 1 to 5, it is good", None),
        ("Score: 0", None),
        ("Score: 42", None),
        ("Score: 5.5", None),
        ("Score: 10", None),
        ("I give no score", None),
        ("7", None),
        ("", None),
    ],
)
def test_only_a_score_that_is_written_as_one_is_read(text, score):
    assert written_score(text) == score


def test_the_mean_score_is_over_what_the_model_would_say_first():
    from math import log

    assert mean_score({"4": log(0.5), " 5": log(0.25), "5": log(0.25)}) == pytest.approx(4.5)
    assert mean_score({"The": log(0.95), "3": log(0.05)}) is None
    assert mean_score({}) is None


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        ({"rubric": "{{ answr }}"}, ".rubric", "no variable 'answr'"),
        ({"rubric": "Good?"}, ".rubric", "shows nothing"),
        ({"rubric": "{% if %}"}, ".rubric", "is not Jinja"),
        ({"threshold": 6}, ".threshold", "at most 5"),
        ({"treshold": 3}, ".treshold", "is not a key here"),
        (
            {"endpoint": {"base_url": "ftp://x", "model": "m"}},
            ".endpoint.base_url",
            "is not an address",
        ),
        (
            {"endpoint": {"base_url": "http://me:pw@host/v1", "model": "m"}},
            ".endpoint.base_url",
            "is not an address",
        ),
        (
            {"endpoint": {"base_url": "http://h/../v1", "model": "m"}},
            ".endpoint.base_url",
            "is not an ad",
        ),
        (
            {"endpoint": {"base_url": "http://h/v1?a=b", "model": "m"}},
            ".endpoint.base_url",
            "is not an",
        ),
        ({"endpoint": {"base_url": "http://h/v1"}}, ".endpoint.model", "required and missing"),
        (
            {"endpoint": {"base_url": "http://h", "model": "m", "extra": {"messages": "x"}}},
            ".endpoint.extra.messages",
            "a key of its own",
        ),
    ],
)
def test_wrong_settings_are_found_without_network(write_recipe, settings, key, what):
    judge = {"type": "judge", "endpoint": {"base_url": "http://h/v1", "model": "m"}, **settings}
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(**{"data.cleaners": [judge]}))
    (problem,) = caught.value.problems
    assert problem.key == f"data.cleaners[0]{key}"
    assert what in problem.what
    assert "pw" not in str(problem)


def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_shown(write_recipe):
    endpoint = {"base_url": "http://h/v1", "model": "m", "api_key_env": "sk-abcdef0123456789"}
    recipe = write_recipe(**{"data.cleaners": [{"type": "judge", "endpoint": endpoint}]})
    with pytest.raises(UserError, match="never the key") as caught:
        resolve(recipe)
    assert "sk-abc" not in str(caught.value)
