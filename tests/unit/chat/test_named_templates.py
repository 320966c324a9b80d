"""The templates that a recipe can name: exact trained texts, exact prompts, or the refusal."""

# ruff: noqa: RUF001 - DeepSeek writes its special tokens with a fullwidth bar

from __future__ import annotations

import re

import pytest
from chat_families import (
    GRANITE,
    NAMED,
    SCENARIOS,
    WEATHER,
    byte_level_tokenizer,
    encoder,
    trained_spans,
)

from framework.chat.template import template_messages, template_names, template_tools
from framework.chat.template_header import check_special_tokens, template_header
from framework.core.problems import UserError
from framework.core.samples import Conversation, Message, RowError, ToolCall

PROMPTS = {
    "alpaca": "<s>Be brief.\n\n### Instruction:\nCapital of France?\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital of France?"
    "<|im_end|>\n<|im_start|>assistant\n",
    "command_r": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Capital of France?<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "deepseek": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Capital of France?<｜Assistant｜>",
    "falcon3": "<|system|>\nBe brief.\n<|user|>\nCapital of France?\n<|assistant|>\n",
    "gemma": "<bos><start_of_turn>user\nBe brief.\n\nCapital of France?<end_of_turn>\n"
    "<start_of_turn>model\n",
    "gemma3": "<bos><start_of_turn>user\nBe brief.\n\nCapital of France?<end_of_turn>\n"
    "<start_of_turn>model\n",
    "glm4": "[gMASK]<sop><|system|>\nBe brief.<|user|>\nCapital of France?<|assistant|>\n",
    "granite": "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>Capital of France?<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nCapital of France? [/INST]",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nCapital of France?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Capital of France?[/INST]",
    "olmo2": "<|endoftext|><|system|>\nBe brief.\n<|user|>\nCapital of France?\n<|assistant|>\n",
    "openchat": "<s>Be brief.<|end_of_turn|>GPT4 Correct User: Capital of France?<|end_of_turn|>"
    "GPT4 Correct Assistant:",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nCapital of France?<|end|>\n<|assistant|>\n",
    "phi4": "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>"
    "Capital of France?<|im_end|><|im_start|>assistant<|im_sep|>",
    "vicuna": "<s>Be brief. USER: Capital of France? ASSISTANT:",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nCapital of France?</s>\n<|assistant|>\n",
}
PROMPTS |= {"llama3.1": PROMPTS["llama3"], "tulu3": PROMPTS["falcon3"]}
PROMPTS |= {"qwen2.5": PROMPTS["chatml"], "qwen3": PROMPTS["chatml"]}

ENDS = {
    "alpaca": ("", "</s>"),
    "chatml": ("", "<|im_end|>"),
    "command_r": ("", "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("", "<｜end▁of▁sentence｜>"),
    "falcon3": ("", "<|endoftext|>"),
    "gemma": ("", "<end_of_turn>"),
    "gemma3": ("", "<end_of_turn>"),
    "glm4": ("", "<|user|>"),
    "granite": ("", "<|end_of_text|>"),
    "llama2": (" ", " </s>"),
    "llama3": ("", "<|eot_id|>"),
    "llama3.1": ("", "<|eot_id|>"),
    "mistral": ("", "</s>"),
    "olmo2": ("", "<|endoftext|>"),
    "openchat": (" ", "<|end_of_turn|>"),
    "phi3": ("", "<|end|>"),
    "phi4": ("", "<|im_end|>"),
    "qwen2.5": ("", "<|im_end|>"),
    "qwen3": ("<think>\n\n</think>\n\n", "<|im_end|>"),
    "tulu3": ("", "</s>"),
    "vicuna": (" ", "</s>"),
    "zephyr": ("", "</s>"),
}
"""What is trained around a plain answer."""

HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLS = {
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    '```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "granite": '<|tool_call|>[{"name": "weather", "arguments": {"city": "Paris"}}]',
    "llama3.1": '{"name": "weather", "parameters": {"city": "Paris"}}',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}, '
    '"id": "call00001"}]',
    "qwen2.5": HERMES,
    "qwen3": HERMES,
}
THOUGHTS = {"deepseek": "<think>\n{}\n</think>\n\n", "qwen3": "<think>\n{}\n</think>\n\n"}

TOOL_PROMPTS = {
    "deepseek": "<｜begin▁of▁sentence｜>\n\n## Tools\nYou have access to the following tools:\n\n"
    '### weather\nDescription: Tells the weather.\n\nParameters: {"type": "object"',
    "granite": "<|start_of_role|>available_tools<|end_of_role|>[\n    {\n",
    "llama3.1": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nGiven the "
    "following functions, please respond with a JSON",
    "mistral": '<s>[AVAILABLE_TOOLS][{"type": "function"',
    "qwen2.5": "<|im_start|>system\n# Tools\n\nYou may call one or more functions",
    "qwen3": "<|im_start|>system\n# Tools\n\nYou may call one or more functions",
}
RESULTS = {
    "deepseek": "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>sunny<｜tool▁output▁end｜>"
    "<｜tool▁outputs▁end｜>",
    "granite": "<|start_of_role|>tool<|end_of_role|>sunny<|end_of_text|>\n",
    "llama3.1": "<|start_header_id|>ipython<|end_header_id|>\n\nsunny<|eot_id|>",
    "mistral": "[TOOL_RESULTS]call00001[TOOL_CONTENT]sunny[/TOOL_RESULTS]",
    "qwen2.5": "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n",
    "qwen3": "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n",
}


def chat(name: str, **choices: object):
    return NAMED[name].encoder(name, **choices)


def expected(name: str, scenario: str) -> list[str] | None:
    """The trained stretches; None where the template refuses."""
    begin, end = ENDS[name]
    if scenario == "tools":
        if name not in CALLS:
            return None
        return [f"{begin}{CALLS[name]}{end}", f"{begin}It is sunny.{end}"]
    if scenario.startswith("thinking"):
        if name not in THOUGHTS:
            return None
        said = [("I know it.", "Paris."), ("That too.", "Rome.")]
        wanted = said if scenario == "thinking_multi" else said[:1]
        return [f"{THOUGHTS[name].format(thought)}{answer}{end}" for thought, answer in wanted]
    answers = ("Paris.", "Rome.") if scenario == "multi" else ("Paris.",)
    return [f"{begin}{answer}{end}" for answer in answers]


def test_every_named_template_is_tested_here():
    names = set(template_names())
    assert len(names) == 22
    assert names == set(NAMED) == set(PROMPTS) == set(ENDS)


@pytest.mark.parametrize("name", template_names())
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("turns", ["all", "each"])
def test_every_turn_is_trained_exactly_or_refused_aloud(name: str, scenario: str, turns: str):
    wanted = expected(name, scenario)
    if wanted is None:
        part = "tool" if scenario == "tools" else "thinking"
        with pytest.raises(
            RowError, match=re.escape(f"The template {name} has no place for {part}")
        ):
            chat(name, turns=turns).conversation(SCENARIOS[scenario])
        return
    spans = trained_spans(chat(name, turns=turns), SCENARIOS[scenario])
    assert spans == ([wanted] if turns == "all" else [[one] for one in wanted])


@pytest.mark.parametrize("name", template_names())
def test_the_prompt_is_the_familys(name: str):
    encoded = chat(name)
    text = encoded.vocabulary.decode(list(encoded.prompt(SCENARIOS["system"])))
    assert text == PROMPTS[name]


@pytest.mark.parametrize("name", TOOL_PROMPTS)
def test_tools_calls_and_results_stand_where_the_family_has_them(name: str):
    encoded = chat(name)
    text = encoded.vocabulary.decode(list(encoded.prompt(SCENARIOS["tools"])))
    assert text.startswith(TOOL_PROMPTS[name])
    assert RESULTS[name] in text
    assert CALLS[name] in text


@pytest.mark.parametrize("name", TOOL_PROMPTS)
def test_several_calls_and_results_are_kept(name: str):
    calls = tuple(
        ToolCall(name="weather", arguments={"city": city}, identifier=f"call0000{number}")
        for number, city in enumerate(("Paris", "Rome"))
    )
    results = (
        Message(
            role="tool", content=f"sun in {call.arguments['city']}", tool_call_id=call.identifier
        )
        for call in calls
    )
    conversation = Conversation(
        messages=(
            Message(role="user", content="Weather?"),
            Message(role="assistant", content="", tool_calls=calls),
            *results,
            Message(role="assistant", content="Sunny."),
        ),
        tools=(WEATHER,),
    )
    if name == "llama3.1":
        with pytest.raises(RowError, match="takes one tool call in a turn"):
            chat(name).conversation(conversation)
        return
    (spans,) = trained_spans(chat(name), conversation)
    assert len(spans) == 2
    assert all(city in spans[0] for city in ("Paris", "Rome"))
    (document,) = chat(name).conversation(conversation)
    text = chat(name).vocabulary.decode(list(document.tokens))
    assert text.index("sun in Paris") < text.index("sun in Rome")


@pytest.mark.parametrize("name", template_names())
def test_the_header_is_true(name: str):
    encoded = chat(name)
    assert encoded.template is not None
    header = template_header(encoded.template.text)
    assert header.declares
    text = encoded.template.text.partition("-#}")[2]
    assert [
        one for one in (*header.special_tokens, *header.tool_tokens) if not written(one, text)
    ] == []
    assert header.writes_bos == ("bos_token" in text)
    assert header.trims == ("content | trim" in text)
    assert ("tools: yes" in encoded.template.text) == (name in CALLS)
    assert ("thinking: yes" in encoded.template.text) == (name in THOUGHTS)
    check_special_tokens(encoded.template, encoded.vocabulary)


def written(token: str, text: str) -> bool:
    # Phi, GLM: '<|' + message.role + '|>'.
    role = token.removeprefix("<|").removesuffix("|>")
    return token in text or (f"'{role}'" in text and "'<|' + message.role + '|>" in text)


def test_special_tokens_that_the_tokenizer_lacks_are_named_with_the_line_to_write():
    encoded = encoder(byte_level_tokenizer(("<|start_header_id|>",), "</s>", "<s>"), "llama3")
    with pytest.raises(UserError) as caught:
        check_special_tokens(encoded.template, encoded.vocabulary)
    (problem,) = caught.value.problems
    assert problem.key == "tokenizer.chat_template"
    assert problem.what.endswith("<|end_header_id|> <|eot_id|>")
    assert '`tokenizer.add_tokens: ["<|end_header_id|>", "<|eot_id|>"]`' in problem.hint


def test_a_template_without_a_header_is_not_asked_for_its_tokens():
    encoded = encoder(byte_level_tokenizer((), "</s>"), "{#- hello: world -#}{{ '<|x|>' }}")
    check_special_tokens(encoded.template, encoded.vocabulary)


def test_tool_tokens_are_needed_only_where_there_are_tools():
    bare = encoder(byte_level_tokenizer(GRANITE[:2], "<|end_of_text|>"), "granite")
    check_special_tokens(bare.template, bare.vocabulary)
    assert trained_spans(bare, SCENARIOS["single"]) == [["Paris.<|end_of_text|>"]]
    with pytest.raises(RowError, match="that this tokenizer does not have") as caught:
        bare.conversation(SCENARIOS["tools"])
    assert '`tokenizer.add_tokens: ["<|tool_call|>"]`' in caught.value.hint


# ---- arguments


def test_qwen3_puts_empty_thinking_into_the_prompt_on_request():
    quiet = chat("qwen3", template_arguments={"enable_thinking": False})
    assert trained_spans(quiet, SCENARIOS["multi"]) == [["Paris.<|im_end|>", "Rome.<|im_end|>"]]
    prompt = quiet.vocabulary.decode(list(quiet.prompt(SCENARIOS["single"])))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(RowError, match="A message thinks, though enable_thinking is false"):
        quiet.conversation(SCENARIOS["thinking"])


def test_qwen3_leaves_earlier_thinking_out_on_request_as_its_own_template_does():
    choices = {"template_arguments": {"keep_thinking": False}}
    with pytest.raises(RowError, match="thinking is left out of earlier turns") as caught:
        chat("qwen3", **choices).conversation(SCENARIOS["thinking_multi"])
    assert caught.value.hint == "write `data.turns: each`"
    each = chat("qwen3", turns="each", **choices)
    assert trained_spans(each, SCENARIOS["thinking_multi"]) == [
        ["<think>\nI know it.\n</think>\n\nParis.<|im_end|>"],
        ["<think>\nThat too.\n</think>\n\nRome.<|im_end|>"],
    ]
    second = each.conversation(SCENARIOS["thinking_multi"])[1]
    assert "I know it." not in each.vocabulary.decode(list(second.tokens))


def test_qwen3_takes_thinking_out_of_a_text_that_begins_with_it():
    written = Conversation(
        messages=(
            Message(role="user", content="Capital of France?"),
            Message(role="assistant", content="<think>\nI know it.\n</think>\n\nParis."),
        )
    )
    assert trained_spans(chat("qwen3"), written) == trained_spans(
        chat("qwen3"), SCENARIOS["thinking"]
    )


def test_deepseek_opens_the_thinking_in_the_prompt_on_request():
    thinking = chat("deepseek", template_arguments={"enable_thinking": True})
    end = ENDS["deepseek"][1]
    assert trained_spans(thinking, SCENARIOS["thinking_multi"]) == [
        [f"I know it.\n</think>\n\nParis.{end}", f"That too.\n</think>\n\nRome.{end}"]
    ]
    with pytest.raises(RowError, match="must begin with its thinking"):
        thinking.conversation(SCENARIOS["single"])


@pytest.mark.parametrize("name", ["gemma", "gemma3", "glm4", "llama2", "deepseek"])
def test_a_system_message_between_turns_is_refused_where_there_is_no_place_for_it(name: str):
    messages = SCENARIOS["multi"].messages
    system = Message(role="system", content="Be brief.")
    conversation = Conversation(messages=(*messages[:2], system, *messages[2:]))
    with pytest.raises(RowError, match="takes a system message only at the start"):
        chat(name).conversation(conversation)


@pytest.mark.parametrize("name", template_names())
def test_what_is_served_by_transformers_is_what_is_trained(name: str):
    encoded = chat(name, turns="each")
    assert encoded.template is not None
    tried = [key for key in SCENARIOS if expected(name, key) is not None]
    assert len(tried) >= 3
    for key in tried:
        messages, tools = template_messages(SCENARIOS[key]), template_tools(SCENARIOS[key])
        answers = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
        documents = encoded.conversation(SCENARIOS[key])
        for index, document in zip(answers, documents, strict=True):
            served = encoded.vocabulary.tokenizer.apply_chat_template(
                messages[:index],
                tools=tools or None,
                chat_template=encoded.template.text,
                add_generation_prompt=True,
                return_dict=False,
            )
            assert document.tokens[: document.trained.index(True)] == tuple(served)
