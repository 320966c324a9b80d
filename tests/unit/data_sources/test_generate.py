"""A real model makes rows of seeds; what is none is counted, and nothing is made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import CITIES, read_rows, write_rows

from framework.core.cache import cache_directory
from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.data_sources.generate import Generate
from framework.recipe.resolve import resolve

PROMPT = "Ask about {{ country }}."


@pytest.fixture
def generated(write_recipe, chat_server, tmp_path):
    """`generated(num_per_seed=2)`: the data source of a recipe, with seeds in `seeds.jsonl`."""
    chat_server.fail()
    write_rows(tmp_path / "seeds.jsonl", [{"country": one, "city": CITIES[one]} for one in CITIES])

    def make(endpoint=None, **settings) -> Generate:
        where = {"base_url": chat_server.base_url, "model": "tiny", "temperature": 1.0}
        source = {"type": "generate", "seeds": "./seeds.jsonl", "prompt": PROMPT, **settings}
        source["endpoint"] = {**where, "max_tokens": 40, **(endpoint or {})}
        dataset = {"source": source, "format": "prompt_completion"}
        source = resolve(write_recipe(**{"data.train": [dataset]})).data.train[0].source
        assert isinstance(source, Generate)
        return source

    return make


GUIDED = {"guided": True, "required": ["prompt", "completion"]}


def test_each_seed_becomes_rows_that_differ_and_are_the_models(generated, chat_server):
    before = len(chat_server.requests())
    source = generated(num_per_seed=2, keep=["city"], **GUIDED)
    rows = list(source.rows())
    assert [number for number, _ in rows] == list(range(1, 2 * len(CITIES) + 1))
    assert [row["city"] for _, row in rows] == [one for one in CITIES.values() for _ in range(2)]
    asked = [one["body"] for one in chat_server.requests()[before:]]
    assert len(asked) == 16
    for number, row in rows:
        country, seed = list(CITIES)[(number - 1) // 2], (number - 1) % 2
        (body,) = [
            one
            for one in asked
            if one["messages"][0]["content"] == f"Ask about {country}." and one["seed"] == seed
        ]
        said = json.loads(chat_server.ask(body)["choices"][0]["message"]["content"])
        assert row == {"city": CITIES[country], **said}
    assert len({row["prompt"] + row["completion"] for _, row in rows}) == 16
    assert source.tally()["num_rows"] == 16


def test_rows_are_made_once_and_again_from_kept_answers_when_they_are_lost(generated, chat_server):
    first = list(generated(**GUIDED).rows())
    before = len(chat_server.requests())
    assert list(generated(**GUIDED).rows()) == first
    assert list(generated(**GUIDED).rows(start=5)) == first[4:]
    shutil.rmtree(cache_directory() / "generated")
    assert list(generated(**GUIDED).rows()) == first
    assert len(chat_server.requests()) == before


def test_the_fingerprint_asks_nothing_and_changes_with_what_is_asked_and_with_the_seeds(
    generated, chat_server, tmp_path
):
    before = len(chat_server.requests())
    first = generated(**GUIDED).fingerprint()
    assert generated(**GUIDED, endpoint={"max_concurrency": 1}).fingerprint() == first
    assert generated(**GUIDED, prompt="Tell {{ country }}").fingerprint() != first
    assert generated(**GUIDED, keep=["city"]).fingerprint() != first
    write_rows(tmp_path / "seeds.jsonl", [{"country": "Peru"}])
    assert generated(**GUIDED).fingerprint() != first
    assert len(chat_server.requests()) == before


def test_text_goes_into_a_column(generated):
    rows = list(
        generated(into="completion", keep=["country"], endpoint={"extra": {"stop": "e"}}).rows()
    )
    assert rows
    assert all(set(row) == {"country", "completion"} and row["completion"] for _, row in rows)


def test_answers_that_are_no_row_are_counted_and_listed_with_the_reason(generated):
    short = {"extra": {"stop": "e"}, "max_tokens": 8}
    source = generated(into="completion", num_per_seed=4, endpoint=short)
    tally = source.tally()
    assert tally["num_rows"] + tally["num_invalid_answers"] == 32
    assert tally["num_rows"] == sum(1 for _ in source.rows())
    assert tally["num_invalid_answers"] > 0, "of 32 answers of a random model, one is cut or empty"
    invalid = read_rows(Path(source.place(1)[0]).with_name("invalid.jsonl"))
    assert len(invalid) == tally["num_invalid_answers"]
    assert all(set(one) == {"seed", "copy", "reason"} for one in invalid)


def test_no_row_at_all_is_an_error_that_shows_the_first_answer(generated):
    with pytest.raises(UserError, match="made no row of 8 answers; the first: is cut") as caught:
        list(generated(endpoint={"max_tokens": 3}).rows())
    assert "guided: true" in str(caught.value)


def test_a_seed_without_the_prompts_column_is_an_error_with_its_line(generated, tmp_path):
    write_rows(tmp_path / "seeds.jsonl", [{"country": "Peru"}, {"land": "Chile"}])
    with pytest.raises(UserError, match="'country' is undefined") as caught:
        list(generated(**GUIDED).rows())
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "seeds.jsonl"), 2)


def test_a_template_can_reach_nothing_but_the_row(generated):
    for attempt in (
        "{{ country.__class__.__mro__ }}",
        "{% set own = namespace(a=1) %}{{ own.a }} {{ country }}",
    ):
        with pytest.raises(UserError, match=r"the prompt fails"):
            list(generated(prompt=attempt, **GUIDED).rows())


def test_what_is_made_is_prepared_counted_and_made_into_samples(
    generated, write_recipe, chat_server
):
    source = generated(**GUIDED)
    recipe = resolve(
        write_recipe(
            **{
                "data.train": [
                    {
                        "source": {
                            "type": "generate",
                            "seeds": "./seeds.jsonl",
                            "prompt": PROMPT,
                            **GUIDED,
                            "endpoint": {
                                "base_url": chat_server.base_url,
                                "model": "tiny",
                                "temperature": 1.0,
                                "max_tokens": 40,
                            },
                        },
                        "format": "prompt_completion",
                    }
                ]
            }
        )
    )
    store = prepare_data(recipe).train
    assert store.num_samples == sum(1 for _ in source.rows()) == 8
    assert store.details["sources"]["train0"]["num_rows"] == 8


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"prompt": "Ask something."}, ".prompt"),
        ({"prompt": "{{ country"}, ".prompt"),
        ({"into": "x", "guided": True}, ".into"),
        ({"num_per_seed": 2, "endpoint": {"temperature": 0}}, ".num_per_seed"),
        ({"seeds": "./sedes.jsonl"}, ".seeds.path"),
    ],
)
def test_wrong_settings_are_found_without_network(generated, settings, key):
    with pytest.raises(UserError) as caught:
        generated(**settings)
    assert [one.key for one in caught.value.problems] == [f"data.train[0].source{key}"]
