"""Masks over the real templates of model families: exact trained texts, or the exact refusal."""

# ruff: noqa: RUF001 - DeepSeek writes its special tokens with a fullwidth bar

from __future__ import annotations

import pytest
from chat_families import (
    FAMILIES,
    MISTRAL_TEMPLATE,
    SCENARIOS,
    template_folder,
    template_text,
    trained_spans,
)

from framework.core.samples import Conversation, Message, RowError

NO_TOOLS = "the template drops the tool 'weather'"
NO_TOOL_TURN = "the template drops the tool message (message 3)"
NO_CALL = "the template drops the call of tool 'weather' in message 2"
NO_THINKING = "the template strips the thinking of message 2"
TWO_ROLES = "Only user and assistant roles are supported!"
ALTERNATE = "Conversation roles must alternate"
CHANGES = "message 2 (assistant) changes when later turns are added"
MERGE = "tokens merge across the start of message 2"
THINK_PROMPT = "preceded by '<think>\\n', in training by ''"
NOT_STRING = "TypeError: can only concatenate str"

LATE = {NO_TOOL_TURN, ALTERNATE, TWO_ROLES}

Outcome = tuple[str, ...] | str
"""The trained stretches, or a part of the refusal."""


def plain(stop: str, **others: Outcome) -> dict[str, Outcome]:
    """A family that says just the answers, ended by `stop`, and knows no tools or thinking."""
    paris, rome = f"Paris.{stop}", f"Rome.{stop}"
    return {
        "single": (paris,),
        "multi": (paris, rome),
        "system": (paris,),
        "tools": NO_TOOLS,
        "thinking": NO_THINKING,
        "thinking_multi": NO_THINKING,
        **others,
    }


def thought(before: str, after: str, stop: str, call: str, empty: str) -> dict[str, Outcome]:
    """A family that keeps the thinking of every turn; `empty` is said where there is none."""
    return {
        "single": (f"{empty}Paris.{stop}",),
        "multi": (f"{empty}Paris.{stop}", f"{empty}Rome.{stop}"),
        "system": (f"{empty}Paris.{stop}",),
        "tools": (f"{empty}{call}", f"{empty}It is sunny.{stop}"),
        "thinking": (f"{before}I know it.{after}Paris.{stop}",),
        "thinking_multi": (
            f"{before}I know it.{after}Paris.{stop}",
            f"{before}That too.{after}Rome.{stop}",
        ),
    }


HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
XML = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
    "</tool_call><|im_end|>"
)
LFM_CALL = "<|tool_call_start|>[weather(city='Paris')]<|tool_call_end|><|im_end|>"
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'
GLM_CALL = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
    "<|observation|>"
)
HARMONY_CALL = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>'

CHATML_TOOLS = plain("<|im_end|>", tools=(HERMES, "It is sunny.<|im_end|>"))
GEMMA = plain("<end_of_turn>", system="System role not supported", tools=ALTERNATE)
GEMMA3 = plain("<end_of_turn>", tools=ALTERNATE)
PHI3 = plain("<|end|>", tools=NO_TOOL_TURN)
COHERE = plain("<|END_OF_TURN_TOKEN|>", tools=ALTERNATE)
COHERE2 = plain("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", tools=ALTERNATE)
LLAMA3_1 = plain("<|eot_id|>", tools=(LLAMA_CALL, "It is sunny.<|eot_id|>"))
QWEN3 = thought(
    "<think>\n", "\n</think>\n\n", "<|im_end|>", HERMES, empty="<think>\n\n</think>\n\n"
)
QWEN3_5 = thought("", "\n</think>\n\n", "<|im_end|>", XML, empty="\n</think>\n\n")
LFM2_5 = thought("<think>", "</think>", "<|im_end|>", LFM_CALL, empty="")
GLM = thought("\n<think>", "</think>\n", "<|user|>", GLM_CALL, empty="\n<think></think>\n")
HARMONY = thought(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|return|>",
    "",
    empty="",
) | {
    "single": ("<|channel|>final<|message|>Paris.<|return|>",),
    "multi": (
        "<|channel|>final<|message|>Paris.<|return|>",
        "<|channel|>final<|message|>Rome.<|return|>",
    ),
    "system": ("<|channel|>final<|message|>Paris.<|return|>",),
    "tools": (HARMONY_CALL, "<|channel|>final<|message|>It is sunny.<|return|>"),
}
DEEPSEEK: dict[str, Outcome] = dict.fromkeys(SCENARIOS, THINK_PROMPT)

GOLDEN: dict[str, tuple[str, dict[str, Outcome]]] = {
    "qwen2_5": ("chatml", CHATML_TOOLS),
    "qwen2_5_training": ("chatml", CHATML_TOOLS),
    "qwen3_instruct_2507": ("chatml", CHATML_TOOLS),
    "qwen3_instruct_2507_training": ("chatml", CHATML_TOOLS),
    "qwen3": ("chatml", QWEN3),
    "qwen3_training": ("chatml", QWEN3),
    "qwen3_5_think": ("chatml", QWEN3_5),
    "qwen3_8": ("chatml", QWEN3_5),
    "qwen3_8_training": ("chatml", QWEN3_5),
    "lfm2": ("chatml", plain("<|im_end|>", tools=NO_CALL)),
    "lfm2_v2": ("chatml", plain("<|im_end|>", tools=(LFM_CALL, "It is sunny.<|im_end|>"))),
    "lfm2_2_5_v2": ("chatml", LFM2_5),
    "llama3": ("llama3", plain("<|eot_id|>")),
    "llama3_training": ("llama3", plain("<|eot_id|>")),
    "llama3_1": ("llama3", LLAMA3_1),
    "llama3_2": ("llama3", LLAMA3_1),
    "gemma": ("gemma", GEMMA),
    "gemma_training": ("gemma", GEMMA),
    "gemma3": ("gemma", GEMMA3),
    "gemma3_training": ("gemma", GEMMA3),
    "phi3": ("phi3", PHI3),
    "phi3_training": ("phi3", PHI3),
    "phi3_5": ("phi3", PHI3),
    "phi3_5_training": ("phi3", PHI3),
    "cohere": ("cohere", COHERE),
    "cohere_training": ("cohere", COHERE),
    "cohere2": ("cohere", COHERE2),
    "cohere2_training": ("cohere", COHERE2),
    "deepseekv3": ("deepseek", DEEPSEEK | {"tools": NOT_STRING}),
    "deepseekv3_training": (
        "deepseek",
        DEEPSEEK | {"tools": "preceded by '<think>\\n', in training by '<｜tool▁calls▁begin｜>"},
    ),
    "deepseek_r1_distill": ("deepseek", DEEPSEEK | {"tools": NO_TOOLS}),
    "deepseek_r1_distill_training": ("deepseek", DEEPSEEK | {"tools": NO_TOOLS}),
    "glm4moe": ("glm", GLM),
    "glm4moe_training": ("glm", GLM),
    "gptoss": ("gptoss", HARMONY),
    "gptoss_training": ("gptoss", HARMONY),
    "mistral": ("mistral", plain("</s>", system=TWO_ROLES, tools=TWO_ROLES)),
}

ONLY_EACH = {
    ("qwen3", "multi"): CHANGES,
    ("qwen3", "tools"): CHANGES,
    ("qwen3", "thinking_multi"): CHANGES,
    (
        "qwen3_5_think",
        "multi",
    ): "preceded by 'assistant\\n<think>\\n', in training by 'assistant\\n'",
    ("qwen3_5_think", "thinking_multi"): "preceded by 'assistant\\n<think>\\n', in training by",
    ("qwen3_5_think", "tools"): MERGE,
    ("qwen3_8", "multi"): MERGE,
    ("qwen3_8", "tools"): MERGE,
    ("qwen3_8_training", "multi"): MERGE,
    ("qwen3_8_training", "tools"): MERGE,
    ("lfm2_2_5_v2", "thinking_multi"): CHANGES,
    ("glm4moe", "thinking_multi"): CHANGES,
    ("glm4moe_training", "thinking_multi"): CHANGES,
    ("gptoss", "multi"): CHANGES,
    ("gptoss", "thinking_multi"): CHANGES,
    ("gptoss_training", "multi"): CHANGES,
    ("gptoss_training", "thinking_multi"): CHANGES,
}
"""Templates that render earlier turns differently: refused as a whole, provable turn by turn."""

CASES = [(name, scenario) for name in GOLDEN for scenario in SCENARIOS]
TRAINED = [case for case in CASES if not isinstance(GOLDEN[case[0]][1][case[1]], str)]


def family_encoder(name: str, **choices: object):
    text = MISTRAL_TEMPLATE if name == "mistral" else template_text(name)
    return FAMILIES[GOLDEN[name][0]].encoder(text, **choices)


def expected_text(name: str, text: str) -> str:
    # Only Mistral begins its answers with a space.
    return f" {text}" if name == "mistral" else text


def test_the_table_covers_the_files_it_names():
    files = {path.stem for path in template_folder().glob("*.jinja")}
    assert len(files) >= 72
    assert len(GOLDEN) == 37
    assert len(TRAINED) == 133
    assert set(GOLDEN) - files == {"mistral"}


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_each_turn_is_trained_exactly_or_refused_for_its_reason(name: str, scenario: str):
    expected = GOLDEN[name][1][scenario]
    chat = family_encoder(name, turns="each")
    if isinstance(expected, str):
        with pytest.raises(RowError) as caught:
            chat.conversation(SCENARIOS[scenario])
        # Turn by turn, the first answer is reached before the tool's turn is refused.
        reason = NO_TOOLS if scenario == "tools" and expected in LATE else expected
        assert reason in caught.value.what
        return
    documents = trained_spans(chat, SCENARIOS[scenario])
    assert documents == [[expected_text(name, text)] for text in expected]


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_a_whole_conversation_is_trained_exactly_or_refused_for_its_reason(
    name: str, scenario: str
):
    expected = GOLDEN[name][1][scenario]
    chat = family_encoder(name)
    reason = ONLY_EACH.get((name, scenario), expected)
    if isinstance(reason, str):
        with pytest.raises(RowError) as caught:
            chat.conversation(SCENARIOS[scenario])
        assert reason in caught.value.what
        assert (caught.value.hint == "write `data.turns: each`") == ((name, scenario) in ONLY_EACH)
        return
    assert trained_spans(chat, SCENARIOS[scenario]) == [
        [expected_text(name, text) for text in expected]
    ]


@pytest.mark.parametrize(("name", "scenario"), TRAINED)
def test_only_the_last_turn_is_trained_on_request(name: str, scenario: str):
    expected = GOLDEN[name][1][scenario]
    spans = trained_spans(family_encoder(name, turns="last"), SCENARIOS[scenario])
    assert spans == [[expected_text(name, expected[-1])]]


@pytest.mark.parametrize("name", [name for name, scenario in TRAINED if scenario == "multi"])
def test_what_comes_before_an_answer_is_what_transformers_would_serve(name: str):
    chat = family_encoder(name, turns="each")
    conversation = SCENARIOS["multi"]
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
    for count, document in zip((1, 3), chat.conversation(conversation), strict=True):
        served = chat.vocabulary.tokenizer.apply_chat_template(
            messages[:count],
            chat_template=chat.template.text,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert document.tokens[: document.trained.index(True)] == tuple(served)
    assert chat.prompt(conversation) == tuple(served)


def test_a_thinking_prompt_fits_answers_that_begin_with_their_thinking():
    chat = family_encoder("deepseek_r1_distill_training")
    answer = "<think>\nI know it.\n</think>\n\nParis."
    conversation = Conversation(
        messages=(
            Message(role="user", content="Capital of France?"),
            Message(role="assistant", content=answer),
        )
    )
    expected = "I know it.\n</think>\n\nParis.<｜end▁of▁sentence｜>"
    with pytest.raises(RowError, match="preceded by") as caught:
        family_encoder("deepseek_r1_distill").conversation(conversation)
    assert trained_spans(chat, conversation) == [[expected]], caught.value.what
