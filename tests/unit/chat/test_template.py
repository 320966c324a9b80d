"""Chat templates: what a recipe may write, and that they render as transformers renders them."""

from __future__ import annotations

import jinja2
import pytest
from chat_families import (
    CHATML,
    FAMILIES,
    SCENARIOS,
    byte_level_tokenizer,
    template_folder,
)

from framework.chat.template import (
    ChatTemplate,
    load_template,
    served_template,
    template_messages,
    template_names,
    template_tools,
    template_variables,
)
from framework.core.problems import UserError
from framework.core.samples import Conversation, Message, RowError, ToolCall

QUESTION = [{"role": "user", "content": "a < b & 'c'?"}]


def load(written: str | None, **more: object) -> ChatTemplate:
    template = load_template(written, byte_level_tokenizer(CHATML, bos="<s>", eos="</s>"), **more)
    assert template is not None
    return template


def render(written: str, messages: list | None = None, **more: object) -> str:
    return load(written).render(messages or QUESTION, add_generation_prompt=False, **more)


def test_every_known_template_renders_as_transformers_renders_it():
    tokenizer = byte_level_tokenizer(CHATML, bos="<s>", eos="</s>")
    files = sorted(template_folder().glob("*.jinja"))
    assert len(files) >= 72
    num_rendered = 0
    for path in files:
        template = load(path.read_text(encoding="utf-8"))
        for conversation in SCENARIOS.values():
            messages, tools = template_messages(conversation), template_tools(conversation)
            for add_generation_prompt in (False, True):
                num_rendered += same_rendering(
                    tokenizer, template, messages, tools, add_generation_prompt
                )
    # The rest is refused by the templates themselves, in both.
    assert num_rendered > len(files) * len(SCENARIOS)


def same_rendering(tokenizer, template, messages, tools, add_generation_prompt) -> bool:
    try:
        expected = tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            chat_template=template.text,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
    except (jinja2.TemplateError, TypeError) as error:
        with pytest.raises(RowError) as caught:
            template.render(messages, tools, add_generation_prompt=add_generation_prompt)
        assert str(error) in caught.value.what
        return False
    ours = template.render(messages, tools, add_generation_prompt=add_generation_prompt)
    assert ours == expected
    return True


def test_the_named_templates_are_these():
    assert template_names() == (
        *("alpaca", "chatml", "command_r", "deepseek", "falcon3", "gemma", "gemma3", "glm4"),
        *("granite", "llama2", "llama3", "llama3.1", "mistral", "olmo2", "openchat", "phi3"),
        *("phi4", "qwen2.5", "qwen3", "tulu3", "vicuna", "zephyr"),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "alpaca",
            "<s>Be brief.\n\n### Instruction:\nCapital of France?\n\n### Response:\nParis.</s>",
        ),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital of France?"
            "<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n",
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nBe brief.\n\nCapital of France?<end_of_turn>\n"
            "<start_of_turn>model\nParis.<end_of_turn>\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nCapital of France?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nParis.<|eot_id|>",
        ),
        ("vicuna", "<s>Be brief. USER: Capital of France? ASSISTANT: Paris.</s>"),
    ],
)
def test_a_named_template_renders_its_format(name: str, expected: str):
    messages = template_messages(SCENARIOS["system"])
    template = load(name)
    assert template.render(messages, add_generation_prompt=False) == expected
    prompt = template.render(messages[:-1], add_generation_prompt=True)
    assert expected.startswith(prompt)
    assert prompt.endswith(("assistant\n", "model\n", "Response:\n", "<|end_header_id|>\n\n", "T:"))


TAKE_TOOLS = {"deepseek", "granite", "llama3.1", "mistral", "qwen2.5", "qwen3"}


@pytest.mark.parametrize("name", sorted(set(template_names()) - TAKE_TOOLS))
def test_a_named_template_refuses_tools_rather_than_dropping_them(name: str):
    messages = template_messages(SCENARIOS["tools"])
    for tools in (template_tools(SCENARIOS["tools"]), []):
        with pytest.raises(RowError, match=f"The template {name} has no place for tool"):
            load(name).render(messages, tools, add_generation_prompt=False)


def test_alpaca_brings_its_own_preamble_where_there_is_no_system_message():
    text = render("alpaca", template_messages(SCENARIOS["single"]))
    assert text.startswith("<s>Below is an instruction that describes a task.")


def test_an_unknown_name_lists_what_may_be_written():
    with pytest.raises(UserError) as caught:
        load("chatlm")
    problem = caught.value.problems[0]
    assert problem.key == "tokenizer.chat_template"
    assert problem.what == "there is no chat template 'chatlm'"
    assert problem.hint.startswith("did you mean 'chatml'?")


def test_a_template_file_is_read(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages[0].content }}!", encoding="utf-8")
    assert render(str(path)) == "a < b & 'c'?!"


def test_a_missing_template_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.jinja"):
        load(str(tmp_path / "missing.jinja"))


def test_broken_jinja_is_refused_with_its_line():
    with pytest.raises(UserError, match="line 2 of the chat template is not Jinja"):
        load("{% if x %}\n{% endfor %}")


def test_without_a_written_template_the_tokenizers_own_is_used():
    tokenizer = byte_level_tokenizer(CHATML)
    assert load_template(None, tokenizer) is None
    tokenizer.chat_template = "own"
    template = load_template(None, tokenizer)
    assert template is not None
    assert template.text == "own"


def test_a_tokenizers_template_for_tools_is_used_where_there_are_tools():
    tokenizer = byte_level_tokenizer(CHATML)
    tokenizer.chat_template = {"default": "plain", "tool_use": "with tools"}
    template = load_template(None, tokenizer)
    assert template is not None
    assert template.render(QUESTION, add_generation_prompt=False) == "plain"
    tools = template_tools(SCENARIOS["tools"])
    assert template.render(QUESTION, tools, add_generation_prompt=False) == "with tools"


def test_template_arguments_go_before_special_tokens():
    tokenizer = byte_level_tokenizer(CHATML, bos="<s>")
    template = load_template("{{ bos_token }}{{ mode }}", tokenizer, {"mode": "fast"})
    assert template is not None
    assert template.render(QUESTION, add_generation_prompt=False) == "<s>fast"
    template = load_template("{{ bos_token }}", tokenizer, {"bos_token": ""})
    assert template is not None
    assert template.render(QUESTION, add_generation_prompt=False) == ""


def test_a_served_template_has_the_recipes_arguments_as_defaults():
    tokenizer = byte_level_tokenizer(CHATML, bos="<s>")
    text = "{#- a comment -#}\n{{ bos_token }}{{ mode }}{{ quiet }}"
    arguments = {"mode": "'fast' %}", "quiet": True, "bos_token": "", "no name": 1}
    template = load_template(text, tokenizer, arguments)
    assert template is not None
    served = served_template(template, tokenizer.special_tokens_map)
    assert isinstance(served, str)

    def transformers(**more: object) -> str:
        return tokenizer.apply_chat_template(QUESTION, chat_template=served, tokenize=False, **more)

    assert transformers() == template.render(QUESTION, add_generation_prompt=False)
    assert transformers() == "'fast' %}True"
    assert transformers(mode="slow") == "slowTrue"


def test_a_served_template_for_tools_stays_apart():
    tokenizer = byte_level_tokenizer(CHATML)
    tokenizer.chat_template = {"default": "plain {{ x }}", "tool_use": "with tools {{ x }}"}
    template = load_template(None, tokenizer, {"x": 1})
    assert template is not None
    served = served_template(template)
    assert isinstance(served, dict)
    assert [
        load(text).render(QUESTION, add_generation_prompt=False) for text in served.values()
    ] == [
        "plain 1",
        "with tools 1",
    ]


def test_the_variables_of_a_template_are_what_it_reads_from_outside():
    template = ChatTemplate(
        text="{% set a = 1 %}{{ a }}{{ b }}{% generation %}{{ c }}{% endgeneration %}",
        text_with_tools="{{ d }}",
    )
    assert template_variables(template) == {"b", "c", "d"}


def test_json_is_not_escaped_for_html_nor_sorted():
    text = "{{ {'b': messages[0].content, 'a': 'é'} | tojson }}"
    assert render(text) == '{"b": "a < b & \'c\'?", "a": "é"}'


def test_generation_tags_are_transparent():
    text = (
        "{% for message in messages %}{% set x = 1 %}{% generation %}{% set x = 2 %}"
        "{{ x }}{{ loop.index }}{{ message.content }}{% endgeneration %}{{ x }}{% endfor %}"
    )
    assert render(text) == "21a < b & 'c'?1"


def test_the_clock_stands_still_during_a_run():
    text = "{{ strftime_now('%H:%M:%S.%f') }}"
    assert render(text) == render(text)
    assert len(render(text)) == len("12:34:56.123456")


def test_a_template_that_refuses_is_quoted():
    with pytest.raises(RowError, match="refuses this conversation: 'No chat today'"):
        render("{{ raise_exception('No chat today') }}")


@pytest.mark.parametrize(
    "text",
    ["{{ messages.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ x.__closure__ }}"],
)
def test_hidden_attributes_are_empty(text: str):
    assert render("{% set x = strftime_now %}" + text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set n = namespace() %}{% set n._hidden = 1 %}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% for i in range(999999) %}{% endfor %}",
        "{{ undefined.attribute }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox_nor_end_in_a_traceback(text: str):
    with pytest.raises(RowError, match="the chat template fails on this conversation"):
        render(text)


def test_templates_see_plain_json_only():
    class Rich:
        def __str__(self) -> str:
            return "rich"

        def write(self) -> str:
            return "written"

    conversation = Conversation(
        messages=(
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall(name="f", arguments={"x": Rich(), "y": (1, None)}),),
            ),
        )
    )
    call = template_messages(conversation)[0]["tool_calls"][0]
    assert call == {
        "type": "function",
        "function": {"name": "f", "arguments": {"x": "rich", "y": [1, None]}},
    }


def test_a_message_has_only_the_keys_that_it_needs():
    assert template_messages(SCENARIOS["single"])[0] == {
        "role": "user",
        "content": "Capital of France?",
    }
    assert template_messages(SCENARIOS["tools"])[2] == {
        "role": "tool",
        "content": "sunny",
        "tool_call_id": "call00001",
        "name": "weather",
    }
    assert template_messages(SCENARIOS["thinking"])[1]["reasoning_content"] == "I know it."


def test_families_cover_every_stop_they_name():
    for family in FAMILIES.values():
        tokenizer = byte_level_tokenizer(family.special, family.eos, family.bos)
        for token in (family.eos, *family.generation_stops):
            assert tokenizer.convert_tokens_to_ids(token) is not None
