"""What is said about prepared data, held against planted rows and against counting one by one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import sys
import zlib
from collections import Counter

import numpy as np
import pytest
from conftest import CHATML_TEMPLATE, write_rows
from rich.console import Console

from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve
from framework.reports import data_copies, data_numbers, data_statistics
from framework.reports.data_copies import Missing
from framework.reports.data_lines import source_lines, template_lines
from framework.reports.data_page import data_page
from framework.reports.data_text import print_statistics

GERMAN = "Die Hauptstadt von Frankreich ist Paris, und sie liegt an der Seine im Norden des Landes."
FRENCH = "La capitale de la France est Paris, et elle se trouve au bord de la Seine, dans le nord."
ENGLISH = "The capital of France is Paris, and it lies on the river Seine in the north of France."


def row(question, *answers, system=None, **keys):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for answer in answers:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **keys},
        ]
    return {"messages": messages}


def words(seed, count=80):
    chosen = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(chosen.choices(letters, k=6)) for _ in range(count)]


def near_texts(count):
    """Texts that differ in one word of eighty."""
    base = words(0)
    return [" ".join([*base[:20], f"change{number}", *base[21:]]) for number in range(count)]


@pytest.fixture
def found_in(write_recipe, tmp_path):
    """Statistics of the rows, and the store and chat that they are of."""

    def find(rows, *overrides, seed=0, num_samples=20, second=()):
        write_rows(tmp_path / "train.jsonl", rows)
        train = [{"source": "./train.jsonl", "name": "first"}]
        if second:
            write_rows(tmp_path / "second.jsonl", list(second))
            train.append({"source": "./second.jsonl", "name": "second"})
        model = {"rope_scaling": {"type": "yarn", "factor": 4}}
        data = {"train": train, "max_length": 2048}
        recipe = resolve(write_recipe(model=model, data=data), overrides)
        data = prepare_data(recipe)
        statistics = data_statistics.data_statistics(
            data.train,
            data.chat,
            recipe.tokenizer.chat_template,
            num_samples=num_samples,
            seed=seed,
        )
        return statistics, data.train

    return find


def varied_rows(count):
    return [row(f"Say {k}", *(" ".join(words(k * 10 + t, 3 + k)) for t in range(1 + k % 3)))
            for k in range(count)]  # fmt: skip


# ---- counts


def test_every_count_is_what_counting_one_by_one_gives(found_in, monkeypatch):
    monkeypatch.setattr(data_numbers, "_STRETCH_TOKENS", 300)
    statistics, store = found_in(varied_rows(30))
    samples = [store.features(number) for number in range(store.num_samples)]
    assert len(list(data_numbers.stretches(store))) > 5
    lengths = [one.num_tokens for one in samples]
    trained = [one.num_trained_tokens for one in samples]
    turns = [1 + number % 3 for number in range(30)]
    shares = [100 * part / whole for part, whole in zip(trained, lengths, strict=True)]
    values = (lengths, trained, turns, shares)
    for distribution, of_samples in zip(statistics.distributions, values, strict=True):
        ordered = sorted(of_samples)
        summary = distribution.summary
        assert summary["minimum"] == pytest.approx(ordered[0])
        assert summary["maximum"] == pytest.approx(ordered[-1])
        assert summary["median"] == pytest.approx(ordered[14])
        assert summary["percentile_90"] == pytest.approx(ordered[26])
        assert summary["mean"] == pytest.approx(sum(ordered) / 30)
        edges, counts = distribution.histogram["edges"], distribution.histogram["counts"]
        for left, right, count in zip(edges, edges[1:], counts, strict=False):
            assert count == sum(left <= value < right for value in of_samples)
        assert sum(counts) == 30


def test_each_dataset_has_its_share_of_what_is_trained(found_in):
    statistics, store = found_in([row("Q", "one two")] * 3, second=[row("Q", "three")])
    first, second = statistics.datasets
    trained = [store.features(number).num_trained_tokens for number in range(4)]
    tokens = [store.features(number).num_tokens for number in range(4)]
    assert first.counts.num_trained_tokens == sum(trained[:3])
    assert first.trained_share == sum(trained[:3]) / sum(tokens[:3])
    assert first.share_of_trained == sum(trained[:3]) / sum(trained)
    assert second.share_of_trained == trained[3] / sum(trained)


def test_what_became_of_rows_is_said_with_their_numbers(found_in, capsys):
    rows = [
        row("Q", "fine"),
        {"text": "no messages"},
        row("Q", "word " * 900),
        row("Q", "not trained", train=False),
    ]
    statistics, _ = found_in(
        rows, "data.on_bad_row=skip", "data.over_length=drop", "data.max_length=200"
    )
    print_statistics("train", statistics, Console(width=120))
    said = capsys.readouterr().out
    assert "train.jsonl:2: " in said
    assert "first, over length (1 left out): rows 3\n" in said
    assert "first, nothing to train: rows 4\n" in said
    table = next(line.split() for line in said.splitlines() if line.startswith("first  "))
    assert table == ["first", "messages", "4", "1", "0", "1", "1", "1"]


def test_what_cleaners_did_is_said(found_in, capsys):
    rows = varied_rows(4)
    statistics, _ = found_in([*rows, rows[0], rows[1]], "data.cleaners=[exact_duplicates]")
    assert statistics.exact_copies.num_copies == 0
    print_statistics("train", statistics, Console(width=120))
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["first", "messages", "6", "0", "2", "0", "0", "4"] in said
    assert ["exact_duplicates", "0", "2", "0", "cleaner-1-exact_duplicates.jsonl"] in said
    assert "cleaner-1-exact_duplicates.jsonl" in data_page("recipe.yaml", "train", statistics)


def test_the_template_is_named_with_its_hash_and_stop_tokens(found_in):
    own, _ = found_in([row("Q", "A")])
    assert own.template.name == "the tokenizer's own"
    assert own.template.sha256 == hashlib.sha256(CHATML_TEMPLATE.encode()).hexdigest()
    assert own.template.stop_tokens == ("<|im_end|>",)
    named, _ = found_in([row("Q", "A")], "tokenizer.chat_template=chatml")
    assert named.template.name == "chatml"
    assert named.template.sha256 != own.template.sha256


# ---- copies


def test_exact_copies_are_found_with_their_ids_and_trained_tokens(found_in, monkeypatch):
    monkeypatch.setattr(data_numbers, "_STRETCH_TOKENS", 60)
    rows = varied_rows(8)
    rows = [*rows, rows[2], rows[5], rows[2]]
    statistics, store = found_in(rows)
    copies = statistics.exact_copies
    assert (copies.num_compared, copies.num_copies, copies.num_groups) == (11, 3, 2)
    assert [(one.size, one.identifiers) for one in copies.largest] == [
        (3, ("first:3", "first:9", "first:11")),
        (2, ("first:6", "first:10")),
    ]
    assert copies.num_trained_tokens == sum(
        store.features(number).num_trained_tokens for number in (8, 9, 10)
    )


def test_samples_of_the_same_tokens_in_another_order_are_no_copies(found_in):
    statistics, store = found_in([row("Q", "a b c"), row("Q", "c b a"), row("Q", "a b c d")])
    tokens = [store.features(number).documents[0].tokens for number in (0, 1)]
    assert Counter(tokens[0]) == Counter(tokens[1])
    assert statistics.exact_copies.num_copies == 0


def test_near_copies_are_found_without_the_exact_ones(found_in, monkeypatch):
    monkeypatch.setattr(data_numbers, "_STRETCH_TOKENS", 2000)
    others = [row(f"Q{k}", " ".join(words(k + 1))) for k in range(30)]
    near = [row("Near", text) for text in near_texts(3)]
    rows = [*others[:10], near[0], *others[10:], near[1], near[1], near[2]]
    statistics, _ = found_in(rows)
    copies = statistics.near_copies
    assert not isinstance(copies, Missing)
    assert statistics.exact_copies.num_copies == 1
    assert (copies.num_compared, copies.num_copies, copies.num_groups) == (33, 2, 1)
    assert copies.largest[0].identifiers == ("first:11", "first:32", "first:34")


def test_two_thirds_of_a_text_in_common_is_not_near(found_in):
    base, other = words(0), words(1)
    rows = [row("Q", " ".join(base)), row("Q", " ".join([*base[:62], *other[62:]]))]
    statistics, _ = found_in(rows)
    copies = statistics.near_copies
    assert not isinstance(copies, Missing)
    assert copies.num_copies == 0


def test_a_system_prompt_that_all_rows_share_makes_no_near_copies(found_in):
    system = " ".join(words(99, 100))
    rows = [row(f"Q{k}", " ".join(words(k, 4)), system=system) for k in range(40)]
    statistics, store = found_in(rows)
    copies = statistics.near_copies
    assert not isinstance(copies, Missing)
    pieces = [pieces_of(store, number) for number in (0, 1)]
    alike = len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])
    assert alike > data_copies.SIMILARITY, "they would be near copies if the prompt counted"
    assert (copies.num_compared, copies.num_copies) == (40, 0)


def pieces_of(store, number):
    tokens = store.features(number).documents[0].tokens
    return {tokens[at : at + 5] for at in range(len(tokens) - 4)}


def test_of_many_samples_some_are_compared_and_it_is_said(found_in, monkeypatch, capsys):
    monkeypatch.setattr(data_copies, "MOST_COMPARED", 12)
    monkeypatch.setattr(data_statistics, "MOST_READ_SAMPLES", 7)
    monkeypatch.setattr(data_statistics, "MOST_COMPRESSED_SAMPLES", 9)
    rows = [row(f"Q{k}", " ".join(words(k))) for k in range(20)]
    statistics, _ = found_in(rows)
    assert statistics.near_copies.num_compared == 12
    assert statistics.languages.num_samples == 7
    print_statistics("train", statistics, Console(width=120))
    said = capsys.readouterr().out
    assert "0 (0.0 % of 12 of 20 samples)" in said
    assert "of 7 of 20 samples" in said
    assert "most repetitive, of 9 of 20 samples" in said


# ---- languages


def test_languages_are_those_of_what_is_trained(found_in):
    rows = [
        row(ENGLISH, GERMAN),
        row(ENGLISH, f"{GERMAN} Ja."),
        row(GERMAN, FRENCH),
        row(GERMAN, ENGLISH),
        row(GERMAN, "42"),
    ]
    statistics, _ = found_in(rows)
    assert not isinstance(statistics.languages, Missing)
    found = [(one.code, one.num_samples, one.identifiers) for one in statistics.languages.found]
    assert found == [
        ("de", 2, ("first:1", "first:2")),
        ("en", 1, ("first:4",)),
        ("fr", 1, ("first:3",)),
        ("too short to tell", 1, ("first:5",)),
    ]


def test_without_the_packages_the_extra_is_named_and_the_rest_is_there(
    found_in, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "rensa", None)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    statistics, _ = found_in([row("Q", ENGLISH)] * 2)
    print_statistics("train", statistics, Console(width=120))
    said = capsys.readouterr().out
    for package in ("rensa", "py3langid"):
        assert f"needs the package '{package}': pip install 'framework[cleaning]'" in said
        assert package in data_page("recipe.yaml", "train", statistics)
    found = json.loads(json.dumps(statistics.as_json()))
    assert found["near_copies"] == {"package": "rensa", "extra": "cleaning"}
    assert found["exact_copies"]["num_copies"] == 1


# ---- samples


def test_the_worst_samples_are_the_planted_ones(found_in):
    rows = [row(f"Q{k}", " ".join(words(k, 12))) for k in range(10)]
    rows[3] = row("Q", " ".join(words(50, 150)))
    rows[6] = row("Q", "again " * 100)
    rows[8] = row(" ".join(words(51, 60)), "Ja")
    statistics, store = found_in(rows)
    longest, repetitive, least = statistics.worst
    assert [len(one.samples) for one in statistics.worst] == [5, 5, 5]
    assert longest.samples[0].identifier == "first:4"
    assert repetitive.samples[0].identifier == "first:7"
    assert least.samples[0].identifier == "first:9"
    tokens = np.array(store.features(6).documents[0].tokens, dtype="<u4").tobytes()
    share = 100 * len(zlib.compress(tokens, 1)) / len(tokens)
    assert repetitive.samples[0].why == f"zlib packs it to {share:.1f} %"
    features = store.features(8)
    assert (
        least.samples[0].why
        == f"{100 * features.num_trained_tokens / features.num_tokens:.1f} % trained"
    )


def test_a_seed_draws_the_same_samples_again_and_another_seed_others(found_in):
    rows = varied_rows(40)
    drawn = {
        seed: [one.identifier for one in found_in(rows, seed=seed, num_samples=5)[0].random]
        for seed in (0, 1)
    }
    assert [one.identifier for one in found_in(rows, num_samples=5)[0].random] == drawn[0]
    assert drawn[0] != drawn[1]
    assert all(len(set(one)) == 5 for one in drawn.values())
    assert len(found_in(rows, num_samples=0)[0].random) == 0
    assert len(found_in(rows, num_samples=99)[0].random) == 40


def test_a_long_sample_shows_its_beginning_and_end(found_in, capsys):
    statistics, store = found_in([row("FIRST", " ".join([*words(0, 200), "LAST"]))])
    one = statistics.random[0]
    num_tokens = store.features(0).num_tokens
    assert one.num_left_out == num_tokens - 400 > 0
    assert "FIRST" in one.text
    assert "LAST<|im_end|>" in one.text
    shown = [sum(len(piece.token_ids) for piece in part) for part in one.parts]
    assert shown == [200, 200]
    print_statistics("train", statistics, Console(width=120))
    assert f"[... {num_tokens - 400:,} tokens ...]" in capsys.readouterr().out


# ---- terminal, page


def test_the_terminal_marks_what_is_trained_and_commands_it_nothing(found_in, capsys):
    statistics, _ = found_in([row("Q\x1b[2J [bold]x[/bold]", "An\x1bswer")])
    print_statistics("train", statistics, Console(width=120))
    said = capsys.readouterr().out
    assert "⟦An␛swer<|im_end|>⟧" in said
    assert "Q␛[2J [bold]x[/bold]" in said
    assert "\x1b" not in said


def test_the_page_needs_nothing_else_and_runs_nothing_of_the_data(found_in):
    evil = '<script>alert("x")</script><img src=http://example.org/a.png onerror=alert(1)>\x07'
    statistics, _ = found_in([row(evil, evil, evil), *varied_rows(5)], second=[row("Q", "A")])
    page = data_page("<b>recipe</b>.yaml", "train", statistics)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>recipe" not in page
    assert "\x07" not in page
    assert "␇" in page
    assert page.count("<svg") == 4
    assert page.count("&lt;|im_start|&gt;") > 20
    assert "default-src 'none'" in page
    for worst in statistics.worst:
        assert worst.title in page
    assert page.count('<details class="card sample"') == len(statistics.random) + 15


def test_a_found_format_and_a_backend_that_was_not_used_are_said(found_in):
    statistics, _ = found_in([row("Q", "A")])
    assert template_lines(statistics)[-1] == "tokenized by: tokenizers"
    assert source_lines(statistics) == []
    other = {"asked": "fast", "used": "tokenizers", "difference": "fast makes others of 'x'"}
    changed = dataclasses.replace(
        statistics,
        tokenizer=other,
        found_formats=("first: auto finds messages, as it has messages",),
        sources={"first": {"num_calls": 1200, "num_failed": 3}},
    )
    assert template_lines(changed)[-1] == "tokenized by: tokenizers, as fast makes others of 'x'"
    assert source_lines(changed) == [
        "first: auto finds messages, as it has messages",
        "first, as its source counts: calls 1,200, failed 3",
    ]
