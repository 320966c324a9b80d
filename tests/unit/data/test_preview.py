"""The preview shows every token of the prepared data as it is, in readable text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.chat.tokens import Vocabulary, vocabulary_of
from framework.core.batch import Encoded, Features
from framework.data.counts import Counts
from framework.data.pack import single
from framework.data.preview import (
    Piece,
    data_numbers,
    length_histogram,
    readable_pieces,
    shown_samples,
    visible,
)
from framework.data.store import Store, StoreWriter

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="session")
def vocabulary(tiny_model_dir: Path) -> Vocabulary:
    from transformers import AutoTokenizer

    return vocabulary_of(AutoTokenizer.from_pretrained(tiny_model_dir))


@pytest.fixture(scope="session")
def spaced_vocabulary() -> Vocabulary:
    """A tokenizer like Llama 2's: a space before every text, single bytes as `<0x0A>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "x", "▁x", "a"]
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate([*pieces, "b", "▁a"])},
        merges=[("▁", "x"), ("▁", "a")],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"))


def encoded(vocabulary: Vocabulary, text: str, first_trained: int = 0) -> Encoded:
    tokens = tuple(vocabulary.encode(text).ids)
    return Encoded(
        tokens=tokens, trained=tuple(place >= first_trained for place in range(len(tokens)))
    )


def pieces_of(document: Encoded, vocabulary: Vocabulary) -> list[Piece]:
    pieces = list(readable_pieces(document, vocabulary))
    ids = [token for piece in pieces for token in piece.token_ids]
    assert ids == list(document.tokens), "every token is shown once, in order"
    trained = [piece.trained for piece in pieces for _ in piece.token_ids]
    assert trained == list(document.trained)
    return pieces


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France",
        "日本語 🎉👩‍👩‍👧 naïve",
        "a\n\n\tb",
        "<|im_start|>user\nhi<|im_end|>\n",
    ],
)
def test_the_text_of_all_pieces_is_the_text(vocabulary: Vocabulary, text: str) -> None:
    assert joined(pieces_of(encoded(vocabulary, text), vocabulary)) == text


@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp"))))
def test_any_text_is_shown_as_it_is(vocabulary: Vocabulary, text: str) -> None:
    pieces = pieces_of(encoded(vocabulary, text), vocabulary)
    if REPLACEMENT not in text:
        assert joined(pieces) == text
    assert REPLACEMENT not in joined(pieces)


@given(text=st.text(), first_trained=st.integers(0, 20))
def test_no_text_and_no_mask_shows_a_replacement_character_or_a_control_character(
    vocabulary: Vocabulary, text: str, first_trained: int
) -> None:
    text = text.encode("utf-8", "replace").decode("utf-8")
    shown = joined(pieces_of(encoded(vocabulary, text, first_trained), vocabulary))
    assert REPLACEMENT not in shown
    assert not {character for character in shown if character < " "} - {"\n", "\t"}


def test_only_the_tokens_of_one_character_are_joined(vocabulary: Vocabulary) -> None:
    pieces = pieces_of(encoded(vocabulary, "日a本"), vocabulary)
    assert [(piece.text, len(piece.token_ids), piece.position) for piece in pieces] == [
        ("日", 3, 0),
        ("a", 1, 3),
        ("本", 3, 4),
    ]


def test_a_character_cut_in_the_middle_shows_as_token_ids(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode("a日").ids[:-1]
    document = Encoded(tokens=tuple(tokens), trained=(False,) * len(tokens))
    assert joined(pieces_of(document, vocabulary)) == f"a⟨{tokens[1]}⟩⟨{tokens[2]}⟩"


def test_tokens_are_not_joined_over_the_edge_of_what_is_trained(vocabulary: Vocabulary) -> None:
    tokens = tuple(vocabulary.encode("日").ids)
    document = Encoded(tokens=tokens, trained=(False, True, True))
    assert len(pieces_of(document, vocabulary)) == 3


def test_special_tokens_are_shown_and_marked(vocabulary: Vocabulary) -> None:
    pieces = pieces_of(encoded(vocabulary, "<|im_start|>user<|im_end|>"), vocabulary)
    assert [piece.text for piece in pieces if piece.special] == ["<|im_start|>", "<|im_end|>"]


def test_spaces_before_words_and_single_bytes_are_shown(spaced_vocabulary: Vocabulary) -> None:
    document = encoded(spaced_vocabulary, "<s>a b\n日")
    pieces = pieces_of(document, spaced_vocabulary)
    assert [piece.text for piece in pieces] == ["<s>", "a", " ", "b", "\n", "日"]


def test_characters_that_command_a_terminal_become_signs() -> None:
    assert visible("\x1b[31m\x00\x7f\u202eab\u2028") == "␛[31m␀⟨U+007F⟩⟨U+202E⟩ab⟨U+2028⟩"
    assert visible("a\nb\tc 👩\u200d👧") == "a\nb\tc 👩\u200d👧"


# ---- numbers


def make_store(
    folder: Path, samples: list[list[int]], details: dict[str, Any] | None = None
) -> Store:
    """Samples as lists of their documents' lengths."""
    folder.mkdir(exist_ok=True)
    writer = StoreWriter(folder)
    for row, lengths in enumerate(samples, start=1):
        documents = tuple(
            Encoded(tokens=(7,) * length, trained=(False, *[True] * (length - 1)))
            for length in lengths
        )
        writer.add(Features(documents=documents), dataset=0, row=row, part=0)
    counts = Counts(name="train0", num_rows=len(samples), num_trained_tokens=5)
    given_details = details or {
        "datasets": [asdict(counts)],
        "packing_efficiency": None,
    }
    writer.write_units([single(len(samples))])
    writer.write_details(given_details)
    return Store(folder)


def test_numbers_are_summed_over_datasets(tmp_path: Path) -> None:
    names = (
        "num_rows",
        "num_trained_tokens",
        "num_over_length_rows",
        "num_cut_rows",
        "num_split_rows",
        "num_dropped_rows",
        "num_cut_answers",
        "num_lost_trained_tokens",
        "num_untrained_rows",
        "num_skipped_rows",
    )
    first = {name: 10**place for place, name in enumerate(names)}
    second = {name: 2 * number for name, number in first.items()}
    details = {
        "datasets": [{"name": "a", **first}, {"name": "b", **second}],
        "packing_efficiency": 0.75,
    }
    numbers = data_numbers(make_store(tmp_path, [[10, 20], [5], [5]], details))
    assert {name: getattr(numbers, name) for name in names} == {
        name: 3 * number for name, number in first.items()
    }
    assert (numbers.num_samples, numbers.num_documents, numbers.num_tokens) == (3, 4, 40)
    assert numbers.longest == 20
    assert numbers.trained_share == 0.75
    assert (numbers.num_packs, numbers.packing_efficiency) == (3, 0.75)


def test_unpacked_data_has_no_packs(tmp_path: Path) -> None:
    numbers = data_numbers(make_store(tmp_path, [[3]]))
    assert numbers.num_packs is None
    assert numbers.packing_efficiency is None


def test_the_histogram_has_round_bars_from_the_shortest_on(tmp_path: Path) -> None:
    store = make_store(tmp_path, [[20], [39, 40], [99]])
    assert length_histogram(store) == {
        "edges": [20, 30, 40, 50, 60, 70, 80, 90, 100],
        "counts": [1, 1, 1, 0, 0, 0, 0, 1],
    }


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_every_document_is_in_its_bar(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    store = make_store(tmp_path_factory.mktemp("store"), [[length] for length in lengths])
    histogram = length_histogram(store)
    expected, _ = np.histogram(lengths, bins=[edge - 0.5 for edge in histogram["edges"]])
    assert histogram["counts"] == expected.tolist()
    assert sum(histogram["counts"]) == len(lengths)
    assert len(histogram["counts"]) <= 16
    assert histogram["counts"][0] > 0
    assert json.loads(json.dumps(histogram)) == histogram


def test_the_samples_shown_are_those_that_are_trained(
    write_recipe: Callable[..., Path],
) -> None:
    from framework.data.prepared import prepare_data
    from framework.recipe.resolve import resolve

    data = prepare_data(resolve(write_recipe()))
    shown = list(shown_samples(data.train, data.chat.vocabulary, 1000))
    assert len(shown) == 16
    first = shown[0]
    assert first.identifier == "train0:1"
    (pieces,) = first.documents
    assert joined(list(pieces)) == (
        "<|im_start|>system\nAnswer in one sentence.<|im_end|>\n"
        "<|im_start|>user\nQuestion 0: what is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\nThe capital of France is Paris.<|im_end|>\n"
    )
    trained = [piece for piece in pieces if piece.trained]
    assert joined(trained) == "The capital of France is Paris.<|im_end|>"
    assert first.num_tokens == len(data.train.features(0).documents[0].tokens)
    assert first.num_trained_tokens == len(trained)
    assert len(list(shown_samples(data.train, data.chat.vocabulary, 2))) == 2
