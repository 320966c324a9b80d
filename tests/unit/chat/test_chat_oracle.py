"""Our masks against those that transformers reads off `{% generation %}` tags."""

from __future__ import annotations

import pytest
from chat_families import SCENARIOS
from chat_golden import GOLDEN, ONLY_EACH, TRAINED, family_encoder

from framework.chat.template import template_messages, template_tools

BREAK = ("\n",)
ONLY_TAGGED = {
    # These tags begin with the line break of the assistant's header, which a server writes.
    "qwen2_5_training": ("\n", "\n"),
    "qwen3_instruct_2507_training": BREAK,
    "qwen3_training": BREAK,
    # ... or with the thinking tag that the server's prompt ends with.
    "qwen3_8_training": ("<think>\n", "\n"),
    "lfm2_2_5_v2": BREAK,
    "llama3_training": (),
    "gemma_training": BREAK,
    "gemma3_training": BREAK,
    # The final end of text comes after the token at which Phi stops.
    "phi3_training": ("\n", "\n<|endoftext|>"),
    "phi3_5_training": ("\n", "\n<|endoftext|>"),
    "cohere_training": (),
    "cohere2_training": (),
    "glm4moe_training": (),
    "gptoss_training": ("<|start|>assistant",),
}
"""What the tags hold besides the answer: parts of the prompt, or what follows the stop token."""

CASES = [
    (name, scenario)
    for name, scenario in TRAINED
    if name in ONLY_TAGGED and (name, scenario) not in ONLY_EACH
]


def test_every_tagged_template_of_the_table_is_compared():
    refused = {"deepseekv3_training", "deepseek_r1_distill_training"}
    tagged = {name for name in GOLDEN if name.endswith("_training")} - refused
    assert set(ONLY_TAGGED) == tagged | {"lfm2_2_5_v2"}
    assert len(CASES) == 52


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_the_mask_is_the_tagged_one_without_prompt_and_line_breaks(name: str, scenario: str):
    chat = family_encoder(name)
    conversation = SCENARIOS[scenario]
    (document,) = chat.conversation(conversation)
    tagged = chat.vocabulary.tokenizer.apply_chat_template(
        template_messages(conversation),
        tools=template_tools(conversation) or None,
        chat_template=chat.template.text,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    if name == "qwen3_8_training" and scenario in {"single", "system"}:
        # Its prompt ends with a line break that merges with the answer's in transformers' ids.
        assert list(document.tokens) != tagged["input_ids"]
        return
    assert list(document.tokens) == tagged["input_ids"]
    mask = [bool(flag) for flag in tagged["assistant_masks"]]
    assert all(theirs for theirs, ours in zip(mask, document.trained, strict=True) if ours)
    expected = set(ONLY_TAGGED[name])
    assert set(only_tagged(chat, document, mask)) <= expected
    assert bool(expected) == (mask != list(document.trained))


def only_tagged(chat, document, mask):
    """The text of every stretch that is tagged and not trained."""
    stretch: list[int] = []
    for token, theirs, ours in zip(document.tokens, mask, document.trained, strict=True):
        if theirs and not ours:
            stretch.append(token)
        elif stretch:
            yield chat.vocabulary.decode(stretch)
            stretch = []
    if stretch:
        yield chat.vocabulary.decode(stretch)
