"""The text of an answer says what was thought in it, whatever kind of token the tags are."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from framework.chat.answer_text import answer_text
from framework.core.samples import Completion
from framework.evaluators.exact_match import ExactMatch

THOUGHT = "<think>Rome? No.</think>\n\nParis"


@pytest.fixture(params=["special", "ordinary", "no tokens"])
def tokenizer(request, tiny_model_dir) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    if request.param != "no tokens":
        tags = [AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")]
        tokenizer.add_tokens(tags, special_tokens=request.param == "special")
    return tokenizer


def said(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text of an answer that ends, and is followed by padding."""
    ending = "<|im_end|><|endoftext|><|endoftext|>"
    tokens = tokenizer.encode(f"<|im_start|>{text}{ending}", add_special_tokens=False)
    return answer_text(tokenizer, tokens)


@pytest.mark.parametrize("text", [THOUGHT, "Rome? No.</think> Paris", "Paris, é 漢", ""])
def test_special_tokens_are_left_out_but_for_the_tags_of_thinking(tokenizer, text):
    assert said(tokenizer, text) == text


@pytest.mark.parametrize(("answer", "value"), [(THOUGHT, 1.0), ("<think>Paris", 0.0)])
def test_exact_match_tells_thinking_apart(tokenizer, answer, value):
    sample = Completion(prompt="The capital?", completion="Paris")
    found = ExactMatch().evaluate([sample], lambda samples: [said(tokenizer, answer)])
    assert found.value == value
