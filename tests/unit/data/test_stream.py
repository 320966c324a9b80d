"""Streamed data: all of it, mixed by trained tokens, and the same from any place on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from framework.chat.lazy_chat import LazyChat
from framework.core.problems import UserError
from framework.data.stream import Position, Stream
from framework.data.units import ids_of
from framework.reading.parts import named_datasets
from framework.recipe.resolve import resolve

NUM_ROWS = 53


def write_numbers(path, count: int, words: int = 1) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {number}."},
                {"role": "assistant", "content": f"{number} " * words + "is said."},
            ]
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def stream_of(write_recipe, tmp_path):
    """A new stream of the recipe's data, each time from the beginning."""

    def make(buffer_rows: int = 20, train=None, **data) -> Stream:
        recipe = resolve(
            write_recipe(
                data={
                    "train": train or [{"source": "./train.jsonl", "name": "numbers"}],
                    "streaming": {"buffer_rows": buffer_rows},
                    "max_length": 64,
                    **data,
                },
                checkpoint={"every_steps": 1},
            )
        )
        lazy_chat = LazyChat(recipe, recipe.model.source.fetch())
        return Stream(recipe, named_datasets(recipe, "train"), lazy_chat)

    write_numbers(tmp_path / "train.jsonl", NUM_ROWS)
    return make


def take_ids(stream: Stream, count: int) -> list[str]:
    return ids_of(stream.take(count))


def test_a_pass_holds_every_row_once_and_is_shuffled_within_buffers(stream_of):
    stream = stream_of(packing=False)
    ids = take_ids(stream, NUM_ROWS)
    rows = [int(one.removeprefix("numbers:")) for one in ids]
    assert sorted(rows[:40]) == list(range(1, 41))
    assert rows[:40] != list(range(1, 41))
    everything = Counter(rows + [int(one.split(":")[1]) for one in take_ids(stream, 7)])
    # The last buffer goes over into the next pass.
    assert set(everything) == set(range(1, NUM_ROWS + 1))
    assert stream.cursors["numbers"].num_passes == 1


def test_a_buffer_that_is_larger_than_the_data_holds_one_pass(stream_of):
    stream = stream_of(buffer_rows=10 * NUM_ROWS, packing=False)
    for number in range(1, 4):
        rows = take_ids(stream, NUM_ROWS)
        assert len(set(rows)) == NUM_ROWS
        assert stream.position().buffer == number
        assert stream.cursors["numbers"].num_passes == number - 1


def test_a_pass_that_began_in_the_buffer_before_is_gone_over_once(stream_of):
    stream = stream_of(buffer_rows=NUM_ROWS, packing=False)
    whole = stream.position().cursors
    stream.go_to(Position(buffer=1, cursors={"numbers": {**whole["numbers"], "row": 30}}, unit=0))
    assert len(set(take_ids(stream, NUM_ROWS))) == NUM_ROWS


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_rows_that_come_again_for_their_weight_are_in_packs_of_their_own(
    stream_of, tmp_path, share_prefixes
):
    write_numbers(tmp_path / "many.jsonl", 600)
    write_numbers(tmp_path / "few.jsonl", 60)
    train = [
        {"source": "./many.jsonl", "name": "many", "weight": 1},
        {"source": "./few.jsonl", "name": "few", "weight": 1},
    ]
    stream = stream_of(5000, train, share_prefixes=share_prefixes, max_length=128)
    units = [stream.take(1)[0] for _ in range(100)]
    assert stream.position().buffer == 1
    held = Counter(ids_of(units))
    assert max(held.values()) > 4  # so often that a pack could be full of one
    for unit in units:
        assert max(Counter(unit.sample_ids).values()) == 1, unit.sample_ids


def test_packs_are_full_of_whole_documents(stream_of):
    units = stream_of(buffer_rows=50).take(8)
    lengths = [sum(len(one.documents[0].tokens) for one in unit.features) for unit in units]
    assert max(lengths) <= 64
    assert sum(lengths[:-1]) / (64 * 7) > 0.7
    assert all(len(unit.sample_ids) == len(unit.features) for unit in units)


@pytest.mark.parametrize("taken", [0, 1, 6, 19, 20, 21, 60, 131])
@pytest.mark.parametrize("packing", [True, False])
def test_a_stream_goes_on_from_any_place_as_if_it_had_never_stopped(stream_of, taken, packing):
    whole = stream_of(packing=packing)
    before = take_ids(whole, taken)
    written = json.loads(json.dumps(whole.position().as_json()))
    rest = take_ids(whole, 40)
    resumed = stream_of(packing=packing)
    resumed.go_to(Position(**written))
    assert take_ids(resumed, 40) == rest
    assert resumed.cursors == whole.cursors
    assert take_ids(stream_of(packing=packing), taken + 40) == before + rest


def test_how_much_is_taken_at_a_time_changes_nothing(stream_of):
    one, other = stream_of(), stream_of()
    singly = [unit for _ in range(30) for unit in one.take(1)]
    assert ids_of(singly) == ids_of(other.take(30))


def test_datasets_are_mixed_by_trained_tokens_whatever_their_lengths(stream_of, tmp_path):
    write_numbers(tmp_path / "short.jsonl", 300, words=1)
    write_numbers(tmp_path / "long.jsonl", 300, words=12)
    train = [
        {"source": "./short.jsonl", "name": "short", "weight": 3},
        {"source": "./long.jsonl", "name": "long", "weight": 1},
    ]
    stream = stream_of(buffer_rows=500, train=train, packing=False)
    units = stream.take(1000)
    trained = Counter()
    for unit in units:
        ((document,),) = [one.documents for one in unit.features]
        trained[unit.sample_ids[0].split(":")[0]] += sum(document.trained)
    assert trained["short"] / sum(trained.values()) == pytest.approx(0.75, abs=0.01)


def test_another_seed_shuffles_otherwise_and_other_rows_change_the_fingerprint(stream_of, tmp_path):
    stream = stream_of()
    other = stream_of()
    other._recipe = replace(
        other._recipe, trainer=replace(other._recipe.trainer, seed=other._recipe.trainer.seed + 1)
    )
    assert take_ids(stream, 10) != take_ids(other, 10)
    before = stream_of().fingerprint
    assert before == stream_of().fingerprint
    write_numbers(tmp_path / "train.jsonl", NUM_ROWS, words=2)
    assert stream_of().fingerprint != before


def test_a_bad_row_ends_the_stream_with_its_line_or_is_counted(stream_of, tmp_path):
    path = tmp_path / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4] = '{"messages": []}'
    lines[7] = "{broken"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl:5: "):
        stream_of().take(1)
    stream = stream_of(on_bad_row="skip", packing=False)
    ids = take_ids(stream, NUM_ROWS - 2)
    assert not {"numbers:5", "numbers:8"} & set(ids)
    assert stream.cursors["numbers"].num_skipped_rows >= 2


def test_data_of_which_nothing_is_left_end_with_the_reason(stream_of):
    stream = stream_of(max_length=4, over_length="drop")
    with pytest.raises(UserError, match=r"no row of numbers is left to use: 53 rows, .* 53 over"):
        stream.take(1)


def test_memory_holds_one_buffer_however_long_the_data_are(stream_of, tmp_path):
    write_numbers(tmp_path / "train.jsonl", 2000)
    stream = stream_of(buffer_rows=30, packing=False)
    stream.take(5)
    assert stream.cursors["numbers"].num_rows == 30
    assert len(list(islice(stream._units, None))) == 30
