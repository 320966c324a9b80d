"""Another tokenizer backend is used where it gives the same ids, and only there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from framework.chat.backend import Comparison, FirstThatAgrees, choose_backend
from framework.chat.hard_texts import hard_texts
from framework.chat.tokens import BackendDisagrees
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve
from framework.tokenizer_backends.auto import Auto
from framework.tokenizer_backends.kitoken import Kitoken
from framework.tokenizer_backends.snaptokens import Snaptokens
from framework.tokenizer_backends.tokenizers import Tokenizers


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """The reference, but for texts that hold `word`: there it swaps the first two ids."""

    word: str

    def load(self, tokenizer_json: str) -> Callable[[str], Sequence[int]]:
        reference = Tokenizers().load(tokenizer_json)

        def encode(text: str) -> Sequence[int]:
            ids = list(reference(text))
            return [*ids[1::-1], *ids[2:]] if self.word in text else ids

        return encode


@pytest.fixture
def chat(write_recipe):
    return prepare_data(resolve(write_recipe())).chat


def test_hard_texts_are_the_same_every_time_and_hold_special_tokens(chat):
    texts = list(hard_texts(chat.vocabulary))
    assert len(texts) > 600
    assert texts == list(hard_texts(chat.vocabulary))
    assert any("<|im_start|>" in text for text in texts)


@pytest.mark.parametrize("backend", [Snaptokens(), Kitoken()])
def test_a_backend_that_agrees_is_used_and_compared_all_along(chat, backend):
    chosen = choose_backend(chat, backend)
    assert chosen.difference == ""
    assert isinstance(chosen.compared, Comparison)
    before = chosen.compared.num_compared
    for number in range(1000):
        text = f"<|im_start|>user\nnumber {number}: " + "long enough not to be remembered " * 3
        assert chosen.chat.vocabulary.ids(text) == chat.vocabulary.ids(text)
    assert chosen.compared.num_compared - before == 1000 // 512
    assert chosen.record()["used"] == chosen.asked


def test_a_backend_that_differs_on_hard_texts_is_not_used(chat):
    chosen = choose_backend(chat, Wrong(word="can't"))
    assert chosen.compared is None
    assert chosen.chat is chat
    assert 'makes other tokens of "can\'t"' in chosen.difference
    (warning,) = chosen.warnings()
    assert "tokenizers tokenizes in its place" in warning.what


def test_a_backend_that_differs_only_on_the_data_is_found_there(chat):
    comparison = Comparison(chat.vocabulary, Wrong(word="zebra"))
    with pytest.raises(BackendDisagrees, match="zebra"):
        for _ in range(512):
            comparison("a zebra")


def test_a_text_that_a_backend_refuses_goes_to_the_reference(chat):
    @dataclass(frozen=True, kw_only=True)
    class Refusing:
        def load(self, tokenizer_json: str) -> Callable[[str], Sequence[int]]:
            def encode(text: str) -> Sequence[int]:
                raise ValueError("no token for a byte")

            return encode

    comparison = Comparison(chat.vocabulary, Refusing())
    assert comparison("hello") == chat.vocabulary.ids("hello")


@pytest.mark.parametrize("backend", ["snaptokens", "kitoken"])
def test_prepared_data_are_the_same_with_any_backend_and_the_outcome_is_recorded(
    write_recipe, backend
):
    reference = prepare_data(resolve(write_recipe())).train
    store = prepare_data(resolve(write_recipe(), [f"tokenizer.backend={backend}"])).train
    assert (store.folder / "tokens.bin").read_bytes() == (
        reference.folder / "tokens.bin"
    ).read_bytes()
    assert store.details["tokenizer"]["used"] == backend
    assert store.details["tokenizer"]["num_compared_texts"] > 600


def test_a_preparation_starts_again_with_the_reference_when_the_data_show_a_difference(
    write_recipe, tmp_path, capsys
):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Does zebra number {n} run? " + "Please say. " * 6},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for n in range(700)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train.jsonl").write_text(text)
    recipe = resolve(write_recipe())
    reference = prepare_data(recipe).train
    tokenizer = replace(recipe.tokenizer, backend=Wrong(word="zebra"))
    other = replace(recipe, tokenizer=tokenizer)
    store = prepare_data(other).train
    assert "makes other tokens" in capsys.readouterr().err
    assert store.details["tokenizer"]["used"] == "tokenizers"
    assert (store.folder / "tokens.bin").read_bytes() == (
        reference.folder / "tokens.bin"
    ).read_bytes()


class TestAuto:
    """`auto` tokenizes with the first backend that agrees, when there were texts enough."""

    @staticmethod
    def texts(count):
        return [f"number {n}: " + "long enough not to be remembered " * 3 for n in range(count)]

    def test_few_texts_are_the_references(self, chat):
        chosen = choose_backend(chat, Auto())
        for text in self.texts(255):
            chosen.chat.vocabulary.ids(text)
        assert chosen.record()["used"] == "tokenizers"

    def test_more_are_a_faster_ones_with_the_same_ids_which_are_compared_all_along(self, chat):
        chosen = choose_backend(chat, Auto())
        num_compared = []
        for text in self.texts(256 + 512):
            assert chosen.chat.vocabulary.ids(text) == chat.vocabulary.ids(text)
            num_compared.append(chosen.record()["num_compared_texts"])
        assert chosen.record()["used"] == "snaptokens"
        assert num_compared[254] == 0
        assert num_compared[255] > 600
        assert num_compared[-1] == num_compared[255] + 1

    def test_those_that_differ_are_passed_over_and_named(self, chat):
        first = FirstThatAgrees(chat.vocabulary, [Wrong(word="can't"), Snaptokens()])
        first.choose()
        assert first.name == "snaptokens"
        assert first.difference.startswith('Wrong makes other tokens of "can\'t"')

    def test_with_none_that_agrees_the_reference_goes_on(self, chat):
        first = FirstThatAgrees(chat.vocabulary, [Wrong(word="can't")])
        first.choose()
        assert first.name == "tokenizers"
        assert first("can't") == chat.vocabulary.ids("can't")

    def test_only_installed_ones_are_offered(self, monkeypatch):
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "snaptokens" else found(name)
        )
        assert [type(one) for one in Auto().choices()] == [Kitoken]

    @pytest.mark.parametrize(("num_rows", "num_compared"), [(1023, 1), (1024, 2)])
    def test_data_known_to_have_many_rows_have_one_from_the_start(
        self, write_recipe, tmp_path, chat, num_rows, num_compared
    ):
        rows = [
            [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
            for text in self.texts(num_rows)
        ]
        text = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
        (tmp_path / "train.jsonl").write_text(text)
        store = prepare_data(resolve(write_recipe())).train
        num_hard = len(list(hard_texts(chat.vocabulary)))
        # One of 512 texts: the first 256 of fewer rows are the reference's own.
        assert store.details["tokenizer"]["num_compared_texts"] == num_hard + num_compared

    def test_workers_have_one_from_the_start(self, write_recipe, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        store = prepare_data(resolve(write_recipe()), workers=2).train
        assert store.details["tokenizer"]["used"] == "snaptokens"
