"""The lint of templates: silent on clean ones, and every seeded fault found under its rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from chat_families import (
    CHATML,
    FAMILIES,
    NAMED,
    SCENARIOS,
    byte_level_tokenizer,
    encoder,
    template_text,
)
from tokenizers.processors import TemplateProcessing

import framework
from framework.chat.encoder import ChatEncoder
from framework.chat.template import load_template, template_names
from framework.core.problems import UserError
from framework.core.samples import Conversation, Message, RowError
from framework.lint.template_lint import LintedRow, TemplateReport, lint_template
from framework.lint.template_probes import PROBES
from framework.lint.template_rules import NOTES, RULES

SUPPORTED = {
    "deepseek": {"tools", "thinking", "thinking_multi"},
    "qwen3": {"tools", "thinking", "thinking_multi"},
    "granite": {"tools"},
    "llama3.1": {"tools"},
    "mistral": {"tools"},
    "qwen2.5": {"tools"},
}


def row(conversation: Conversation | RowError, place: str = "train.jsonl:1") -> LintedRow:
    return LintedRow(place=lambda: place, conversation=conversation)


def rules(report: TemplateReport) -> set[str]:
    return {finding.rule for finding in report.findings}


@pytest.mark.parametrize("name", template_names())
@pytest.mark.parametrize("turns", ["all", "last", "each"])
def test_a_named_template_on_clean_data_gives_no_findings(name: str, turns: str):
    scenarios = {"single", "multi", "system", *SUPPORTED.get(name, ())}
    rows = [row(SCENARIOS[scenario]) for scenario in sorted(scenarios)]
    report = lint_template(NAMED[name].encoder(name, turns=turns), rows)
    assert report.findings == ()
    assert report.num_rows == len(rows)
    assert report.num_probes == len(PROBES) == 12


@pytest.mark.parametrize("name", template_names())
def test_what_a_named_template_refuses_is_listed(name: str):
    refused = " ".join(lint_template(NAMED[name].encoder(name)).refused)
    supported = SUPPORTED.get(name, set())
    assert ("thinking" in refused) == ("thinking" not in supported)
    assert ("tool call" in refused) == ("tools" not in supported)


# ---- seeded faults


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A clean template with one thing broken."""

    family: str
    broken: Callable[[str], str]
    rule: str
    choices: dict[str, Any] = field(default_factory=dict)


def swapped(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def change(text: str) -> str:
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text

    return change


def cut(first: str, last: str) -> Callable[[str], str]:
    """Takes out everything from `first` through the next `last`."""

    def change(text: str) -> str:
        before, found, rest = text.partition(first)
        assert found
        _, found, after = rest.partition(last)
        assert found
        return before + after

    return change


GENERATION = "{%- if add_generation_prompt %}"
CHATML_TURN = "'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'"
EARLIER = "{%- if not loop.last and message.role == 'assistant' %}"

SEEDS = {
    "no turn is ended": Seed(
        family="chatml", broken=swapped(("<|im_end|>\\n", "\\n")), rule="stop_missing"
    ),
    "the answer alone is not ended": Seed(
        family="chatml",
        broken=swapped(
            (
                "message.content + '<|im_end|>\\n'",
                "message.content + ('\\n' if message.role == 'assistant' else '<|im_end|>\\n')",
            )
        ),
        rule="stop_missing",
    ),
    "only the last turn is ended": Seed(
        family="llama3",
        broken=swapped(("{{- '<|eot_id|>' }}", "{{- '<|eot_id|>' if loop.last else '' }}")),
        rule="stop_missing",
    ),
    "the end of sequence follows the whole conversation only": Seed(
        family="vicuna",
        broken=swapped(
            ("message.content | trim + eos_token", "message.content | trim + ' '"),
            (
                "{%- endfor %}\n",
                "{%- endfor %}\n{{- '' if add_generation_prompt else eos_token }}\n",
            ),
        ),
        rule="stop_missing",
    ),
    "the end is a word": Seed(
        family="llama3", broken=swapped(("<|eot_id|>", "<|eot|>")), rule="stop_missing"
    ),
    "the recipe's stop token is appended": Seed(
        family="alpaca",
        broken=swapped(("message.content | trim + eos_token", "message.content | trim")),
        rule="stop_appended",
        choices={"stop_tokens": ("</s>",)},
    ),
    "the end is not a stop of the settings": Seed(
        family="phi3",
        broken=swapped(),
        rule="stop_not_in_settings",
        choices={"generation_stops": ("<|endoftext|>",)},
    ),
    "the answer goes on after its end": Seed(
        family="llama3",
        broken=swapped(("{{- '<|eot_id|>' }}", "{{- '<|eot_id|>(end)' }}")),
        rule="text_after_stop",
    ),
    "the answer begins with its end": Seed(
        family="chatml",
        broken=swapped(
            (
                CHATML_TURN,
                "'<|im_start|>' + message.role + '\\n<|im_end|>' + message.content + '\\n'",
            )
        ),
        rule="text_after_stop",
    ),
    "the prompt is not opened": Seed(
        family="chatml",
        broken=cut(GENERATION, "{%- endif %}"),
        rule="no_generation_prompt",
    ),
    "the prompt of a text format is not opened": Seed(
        family="alpaca",
        broken=cut(GENERATION, "{%- endif %}"),
        rule="no_generation_prompt",
    ),
    "the prompt is opened half": Seed(
        family="chatml",
        broken=swapped(("'<|im_start|>assistant\\n'", "'<|im_start|>'")),
        rule="no_generation_prompt",
    ),
    "the prompt has another role": Seed(
        family="gemma",
        broken=swapped(
            ("{{- '<start_of_turn>model\\n' }}", "{{- '<start_of_turn>assistant\\n' }}")
        ),
        rule="generation_prompt",
    ),
    "the prompt has a line break too many": Seed(
        family="chatml",
        broken=swapped(("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n\\n'")),
        rule="generation_prompt",
    ),
    "the prompt opens a thinking that training has not": Seed(
        family="chatml",
        broken=swapped(("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")),
        rule="generation_prompt",
    ),
    "earlier answers are shortened": Seed(
        family="chatml",
        broken=swapped(
            (
                "    {{- '<|im_start|>' + message.role",
                f"    {EARLIER}{{{{- '<|im_start|>assistant\\n...<|im_end|>\\n' }}}}"
                "{%- continue %}{%- endif %}\n    {{- '<|im_start|>' + message.role",
            )
        ),
        rule="earlier_turn_changes",
    ),
    "the number of turns stands at the start": Seed(
        family="chatml",
        broken=lambda text: "{{- messages | length }}" + text,
        rule="earlier_turn_changes",
    ),
    "the system message moves to the last question": Seed(
        family="mistral",
        broken=swapped(
            (
                "{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}",
                "{%- set state.system = message.content %}",
            ),
            (
                "{{- state.tools + '[INST]' + message.content",
                "{%- set late = loop.index0 >= messages | length - 2 %}"
                "{{- state.tools + '[INST]' + (state.system + '\\n' if late else '') "
                "+ message.content",
            ),
            ("namespace(tools='')", "namespace(tools='', system='')"),
        ),
        rule="earlier_turn_changes",
    ),
    "thinking is left out of earlier turns": Seed(
        family="qwen3",
        broken=swapped(
            ("loop.index0 > state.last_user", "loop.last or not message.reasoning_content")
        ),
        rule="thinking_stripped",
    ),
    "thinking is left out of every turn": Seed(
        family="deepseek",
        broken=swapped(("{%- if message.reasoning_content %}", "{%- if false %}")),
        rule="thinking_dropped",
    ),
    "BOS is written twice": Seed(
        family="llama3",
        broken=swapped(("{{- bos_token }}", "{{- bos_token + bos_token }}")),
        rule="double_bos",
    ),
    "BOS is written before every turn": Seed(
        family="gemma",
        broken=swapped(
            ("{{- bos_token }}\n", ""), ("{{- '<start_of_turn>", "{{- bos_token + '<start_of_turn>")
        ),
        rule="repeated_bos",
    ),
    "BOS is written within": Seed(
        family="mistral",
        broken=swapped(("'[/INST]'", "'[/INST]' + bos_token")),
        rule="repeated_bos",
    ),
    "the system message is dropped": Seed(
        family="phi4",
        broken=swapped(
            ("('system', 'user', 'assistant')", "('user', 'assistant')"), ("else", "elif false")
        ),
        rule="system_dropped",
    ),
    "only the first system message is kept": Seed(
        family="chatml",
        broken=swapped(
            (
                "    {{- '<|im_start|>'",
                "    {%- if message.role == 'system' and not loop.first %}{%- continue %}"
                "{%- endif %}"
                "\n    {{- '<|im_start|>'",
            )
        ),
        rule="system_dropped",
    ),
    "a system message is put in": Seed(
        family="qwen2.5",
        broken=swapped(
            (
                "{%- for message in turns %}",
                "{%- if messages[0].role != 'system' %}"
                "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
                "{%- endif %}\n{%- for message in turns %}",
            )
        ),
        rule="default_system",
    ),
    "the date is written": Seed(
        family="granite",
        broken=swapped(
            (
                "{%- if tools %}",
                "{{- \"Today's Date: \" + strftime_now('%d %B %Y') + '\\n' }}\n{%- if tools %}",
            )
        ),
        rule="date_dependent",
    ),
    "texts are trimmed": Seed(
        family="chatml",
        broken=swapped(("message.content +", "message.content | trim +")),
        rule="content_trimmed",
    ),
    "texts are escaped for HTML": Seed(
        family="chatml",
        broken=swapped(("message.content +", "message.content | e | string +")),
        rule="content_changed",
    ),
    "line breaks become spaces": Seed(
        family="chatml",
        broken=swapped(("message.content +", "message.content.replace('\\n', ' ') +")),
        rule="content_changed",
    ),
    "only the last question is kept": Seed(
        family="openchat",
        broken=swapped(
            (
                "{%- if message.role in names %}",
                "{%- if message.role == 'user' and loop.index0 < messages | length - 2 %}"
                "{%- elif message.role in names %}",
            )
        ),
        rule="content_dropped",
    ),
    "the question is written twice": Seed(
        family="zephyr",
        broken=swapped(
            (
                "message.content + eos_token",
                "(message.content * (2 if message.role == 'user' else 1)) + eos_token",
            )
        ),
        rule="content_repeated",
    ),
    "the newest comes first": Seed(
        family="tulu3",
        broken=swapped(("for message in messages %}", "for message in messages[::-1] %}")),
        rule="messages_reordered",
    ),
    "tools are dropped": Seed(
        family="qwen2.5",
        broken=swapped(("{%- if tools %}", "{%- if false %}")),
        rule="tools_dropped",
    ),
    "tool calls are dropped": Seed(
        family="qwen3",
        broken=swapped(("message.tool_calls or []", "[]")),
        rule="tool_calls_dropped",
    ),
    "the arguments of tool calls are dropped": Seed(
        family="granite",
        broken=swapped(("call.function.arguments | tojson", "'{}'")),
        rule="tool_calls_dropped",
    ),
    "tool results are dropped": Seed(
        family="mistral",
        broken=swapped(("'[TOOL_CONTENT]' + message.content", "'[TOOL_CONTENT]'")),
        rule="tool_results_dropped",
    ),
    "tool arguments are taken for text": Seed(
        family="qwen2.5",
        broken=swapped(("call.function.arguments | tojson", "call.function.arguments")),
        rule="refused",
    ),
    "a plain question is refused": Seed(
        family="gemma",
        broken=swapped(
            (
                "{%- set state =",
                "{{- raise_exception('no') if messages | length > 2 }}{%- set state =",
            )
        ),
        rule="refused",
    ),
    "a special token is misspelt": Seed(
        family="chatml",
        broken=lambda text: swapped(("<|im_start|>", "<|start|>"))(text).partition("-#}")[2],
        rule="split_special_token",
    ),
    "a declared special token is not the tokenizer's": Seed(
        family="phi4",
        broken=swapped(("<|im_sep|>", "<|sep|>")),
        rule="split_special_token",
    ),
    "an argument is misspelt": Seed(
        family="qwen3",
        broken=swapped(),
        rule="argument_unused",
        choices={"template_arguments": {"enable_thinkin": False}},
    ),
    "prompt and answer merge": Seed(
        family="chatml",
        broken=swapped(
            (
                "+ '\\n' + message.content",
                "+ '\\n' + ('\\n' if message.role == 'assistant' else '') + message.content",
            )
        ),
        rule="tokens_merge",
    ),
    "the answer quotes the question": Seed(
        family="chatml",
        broken=swapped(
            (
                "message.content + '<|im_end|>",
                "message.content + (' to ' + messages[0].content if loop.last and not loop.first"
                " else '') + '<|im_end|>",
            )
        ),
        rule="prompt_trained",
    ),
    "the clock runs": Seed(
        family="chatml",
        broken=lambda text: "{{- strftime_now('%f') }}" + text,
        rule="serving_differs",
    ),
}


def seeded(seed: Seed, **choices: object) -> ChatEncoder:
    family = NAMED[seed.family]
    named = load_template(seed.family, byte_level_tokenizer((), "</s>"))
    assert named is not None
    stops = seed.choices.get("generation_stops", family.generation_stops)
    return encoder(
        byte_level_tokenizer(family.special, family.eos, family.bos),
        seed.broken(named.text),
        **{**seed.choices, "generation_stops": stops, **choices},
    )


@pytest.mark.parametrize("fault", SEEDS)
def test_a_seeded_fault_is_found_under_its_rule(fault: str):
    seed = SEEDS[fault]
    report = lint_template(seeded(seed))
    assert seed.rule in rules(report), report.findings
    assert rules(report) <= set(RULES)
    for finding in report.findings:
        assert (finding.severity == "note") == (finding.rule in NOTES)
        assert finding.where.startswith("probe: ") or finding.where == "recipe"
        assert finding.tokens or finding.where == "recipe" or finding.rule == "refused"


def test_enough_faults_are_seeded():
    assert len(SEEDS) >= 40
    assert len({seed.rule for seed in SEEDS.values()}) >= 25


class Forgetful(ChatEncoder):
    """An encoder that masks the last trained token of every document."""

    def conversation(self, sample: Conversation):
        return tuple(
            replace(
                document, trained=(*document.trained[:last], False, *document.trained[last + 1 :])
            )
            for document in super().conversation(sample)
            if (last := len(document.trained) - 1 - document.trained[::-1].index(True)) >= 0
        )


def test_a_mask_that_leaves_out_the_stop_token_is_found():
    good = NAMED["chatml"].encoder("chatml")
    arguments = {name: getattr(good, name) for name in ChatEncoder.__dataclass_fields__}
    report = lint_template(Forgetful(**arguments))
    assert rules(report) == {"stop_not_trained"}
    (finding,) = report.findings
    assert "ends with" in finding.what


# ---- BOS and the tokenizer


def with_bos(template: str, bos: str = "<s>") -> ChatEncoder:
    """A tokenizer that puts BOS before every text by itself, as Llama's does."""
    tokenizer = byte_level_tokenizer(CHATML, "</s>", bos)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )
    return encoder(tokenizer, template, stop_tokens=("<|im_end|>",))


def test_bos_from_both_template_and_tokenizer_is_noted():
    report = lint_template(with_bos("vicuna"))
    assert rules(report) == {"tokenizer_adds_bos"}
    (finding,) = report.findings
    assert finding.severity == "note"
    assert finding.hint == "a server that tokenizes rendered text must not add special tokens"
    assert finding.num_more == 5


def test_a_template_without_the_bos_that_the_tokenizer_adds_is_noted():
    assert rules(lint_template(with_bos("chatml"))) == {"no_bos"}


def test_a_template_with_a_bos_that_the_tokenizer_lacks_is_noted():
    report = lint_template(encoder(byte_level_tokenizer((), "</s>"), "vicuna"))
    assert rules(report) == {"no_bos"}
    assert "this tokenizer has none" in report.findings[0].what


def test_a_bos_that_opens_every_turn_is_none_inside():
    assert (
        lint_template(encoder(byte_level_tokenizer(CHATML, *CHATML[::-1]), "chatml")).findings == ()
    )


# ---- rows


def qwen3(**choices: object) -> ChatEncoder:
    return FAMILIES["chatml"].encoder(template_text("qwen3"), **choices)


def test_a_row_is_named_and_its_tokens_are_shown_as_trained_and_as_served():
    rows = [row(SCENARIOS["single"], "a.jsonl:1"), row(SCENARIOS["multi"], "a.jsonl:2")]
    report = lint_template(qwen3(), rows)
    (finding,) = [one for one in report.findings if one.where == "a.jsonl:2"]
    assert finding.rule == "earlier_turn_changes"
    assert finding.severity == "problem"
    assert finding.what == (
        "message 2 (assistant) changes when later turns follow: "
        "'<think>\\n\\n</think>\\n\\nParis.<|im_end|>\\n' becomes "
        "'Paris.<|im_end|>\\n<|im_start|>user\\nOf Ita'"
    )
    trained = "".join(token.text for token in finding.tokens)
    served = "".join(token.text for token in finding.served_tokens)
    assert "assistant\nParis" in trained
    assert "assistant\n<think>" in served
    vocabulary = qwen3().vocabulary
    assert vocabulary.decode([token.id for token in finding.tokens]) == trained
    assert not [one for one in report.findings if one.where == "a.jsonl:1"]


def test_what_turn_by_turn_training_makes_harmless_is_a_note_and_no_matter_of_rows():
    report = lint_template(qwen3(turns="each"), [row(SCENARIOS["multi"])])
    assert report.problems == ()
    assert {one.where for one in report.findings if one.rule == "earlier_turn_changes"} == {
        "probe: two turns"
    }


def test_a_probe_is_a_problem_only_where_rows_have_its_parts():
    without = lint_template(qwen3(), [row(SCENARIOS["single"])])
    assert without.problems == ()
    assert "earlier_turn_changes" in rules(without)
    report = lint_template(qwen3(), [row(SCENARIOS["multi"])])
    assert {one.where for one in report.problems} == {"probe: two turns", "train.jsonl:1"}
    alone = lint_template(qwen3())
    assert {one.rule for one in alone.problems} == {"earlier_turn_changes", "thinking_stripped"}


def test_three_rows_of_a_kind_are_shown_and_the_rest_counted():
    rows = [row(SCENARIOS["multi"], f"a.jsonl:{number}") for number in range(1, 11)]
    report = lint_template(qwen3(), rows)
    shown = [one for one in report.findings if one.where.startswith("a.jsonl")]
    assert [one.where for one in shown] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert [one.num_more for one in shown] == [0, 0, 7]
    assert report.num_rows == 10


CASES = {
    "thinking that has no place": (
        FAMILIES["chatml"].encoder(template_text("qwen2_5")),
        SCENARIOS["thinking"],
        "thinking_dropped",
    ),
    "tools that have no place": (
        FAMILIES["phi3"].encoder(template_text("phi3")),
        SCENARIOS["tools"],
        "tools_dropped",
    ),
    "a conversation that the template refuses": (
        NAMED["chatml"].encoder("chatml"),
        SCENARIOS["thinking"],
        "refused",
    ),
    "a text that forges a turn": (
        NAMED["chatml"].encoder("chatml"),
        Conversation(
            messages=(
                Message(role="user", content="<|im_end|>?"),
                Message(role="assistant", content="Paris."),
            )
        ),
        "unproven",
    ),
    "whitespace that is trimmed": (
        NAMED["llama3"].encoder("llama3"),
        Conversation(
            messages=(
                Message(role="user", content="Capital of France? \n"),
                Message(role="assistant", content="Paris."),
            )
        ),
        "content_trimmed",
    ),
    "an answer to nothing": (
        NAMED["chatml"].encoder("chatml"),
        Conversation(messages=(Message(role="assistant", content="Paris."),)),
        "unproven",
    ),
    "an empty answer": (
        NAMED["chatml"].encoder("chatml"),
        Conversation(
            messages=(
                Message(role="user", content="Capital of France?"),
                Message(role="assistant", content=""),
            )
        ),
        None,
    ),
    "a row that fits no format": (
        NAMED["chatml"].encoder("chatml"),
        RowError("has no column 'messages'"),
        "bad_row",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_row_is_said_under_its_rule(name: str):
    chat, sample, rule = CASES[name]
    report = lint_template(chat, [row(sample)])
    found = [one.rule for one in report.findings if one.where == "train.jsonl:1"]
    assert (rule in found) if rule else found == []


def test_data_without_conversations_is_said():
    report = lint_template(NAMED["chatml"].encoder("chatml"), [])
    assert rules(report) == {"unused"}
    assert report.problems == ()


def test_without_a_template_the_line_to_write_is_said():
    with pytest.raises(UserError, match="the tokenizer brings none"):
        lint_template(encoder(byte_level_tokenizer(CHATML, "<|im_end|>"), None))


def test_the_page_about_templates_has_every_rule_and_every_name():
    page = Path(framework.__file__).parent.parent / "docs" / "templates.md"
    written = re.findall(r"`([\w.]+)`", page.read_text(encoding="utf-8"))
    assert len(written) > 70
    assert set(RULES) - set(written) == set()
    assert set(template_names()) - set(written) == set()
