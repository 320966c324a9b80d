"""Tokenizer: padding never costs the end-of-sequence token, and every stop token is found."""

from __future__ import annotations

import json
import shutil

import pytest

from framework.core.problems import UserError
from framework.models.tokenizer import load_tokenizer, padding_id, stop_token_ids
from framework.recipe.schema import Tokenizer


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def write_settings(folder, **settings):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_the_tokenizers_own_padding_is_kept(folder):
    assert load_tokenizer(folder, Tokenizer()).pad_token == "<|endoftext|>"


def test_missing_padding_is_never_filled_with_the_end_of_sequence_token(folder):
    write_settings(folder, pad_token=None, unk_token="<|endoftext|>")
    tokenizer = load_tokenizer(folder, Tokenizer())
    assert tokenizer.pad_token == "<|endoftext|>" != tokenizer.eos_token


def test_a_tokenizer_without_any_candidate_stays_without_padding(folder):
    write_settings(folder, pad_token=None)
    tokenizer = load_tokenizer(folder, Tokenizer())
    assert tokenizer.pad_token is None
    assert padding_id(tokenizer) == 0


def test_the_recipe_chooses_the_padding(folder):
    tokenizer = load_tokenizer(folder, Tokenizer(pad_token="<|im_start|>"))
    assert padding_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_unknown_tokens_are_reported_together(folder):
    settings = Tokenizer(pad_token="<pad>", stop_tokens=("<|im_ende|>", "<|im_end|>"))
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder, settings)
    assert [problem.key for problem in caught.value.problems] == [
        "tokenizer.stop_tokens",
        "tokenizer.pad_token",
    ]
    assert "did you mean '<|im_end|>'?" in str(caught.value)


def test_an_added_token_may_stop_and_pad(folder):
    settings = Tokenizer(add_tokens=("<|stop|>",), stop_tokens=("<|stop|>",), pad_token="<|stop|>")
    tokenizer = load_tokenizer(folder, settings)
    added = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert added in stop_token_ids(folder, tokenizer, settings)
    assert padding_id(tokenizer) == added


def test_tokens_that_exist_are_not_added(folder):
    """Their embeddings would be taken for new ones, and what they had learned would be lost."""
    settings = Tokenizer(add_tokens=("<|new|>", "<|im_start|>", "<|endoftext|>"))
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder, settings)
    assert [(problem.key, problem.what) for problem in caught.value.problems] == [
        ("tokenizer.add_tokens[1]", "'<|im_start|>' is a token of this tokenizer already"),
        ("tokenizer.add_tokens[2]", "'<|endoftext|>' is a token of this tokenizer already"),
    ]


def test_stop_tokens_are_those_of_the_generation_settings_tokenizer_and_recipe(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    settings = Tokenizer(stop_tokens=("<|im_start|>",))
    tokenizer = load_tokenizer(folder, settings)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    expected = {5, *tokenizer.convert_tokens_to_ids(names)}
    assert stop_token_ids(folder, tokenizer, settings) == tuple(sorted(expected))


def test_a_broken_tokenizer_is_a_message(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer in .* can't be read"):
        load_tokenizer(folder, Tokenizer())
