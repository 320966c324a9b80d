"""`framework check --templates` as its user starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CHATML_TEMPLATE, conversation, write_rows

from framework.__main__ import main

WriteRecipe = Callable[..., Path]
FORGETS_ITS_END = CHATML_TEMPLATE.replace("<|im_end|>", "")
LOSES_SYSTEM = CHATML_TEMPLATE.replace(
    "{{- '<|im_start|>'",
    "{%- if message.role == 'system' %}{%- continue %}{%- endif %}{{- '<|im_start|>'",
)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command line's own `main` in this process; returns exit code, output, errors."""

    def run(recipe: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["framework", "check", str(recipe), "--templates", *arguments]
        )
        code = 0
        try:
            main()
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def written(recipe: Path, text: str) -> str:
    (recipe.parent / "own.jinja").write_text(text, encoding="utf-8")
    return "tokenizer.chat_template=own.jinja"


def test_a_clean_template_on_clean_data_is_good(write_recipe: WriteRecipe, check: Any):
    code, output, errors = check(write_recipe(), "tokenizer.chat_template=chatml")
    assert (code, errors) == (0, "")
    assert "template chatml: problems 0, notes 0 (12 probes, 16 rows)" in output
    assert "it refuses: thinking; thinking, two turns; tools; tool call" in output
    assert output.endswith("recipe.yaml: good\n")


def test_what_the_data_does_not_need_is_a_note(write_recipe: WriteRecipe, check: Any):
    code, output, _ = check(write_recipe())
    assert code == 0
    assert "note: probe: thinking: the template drops the thinking of message 2" in output
    assert "template the tokenizer's own: problems 0, notes " in output


def test_a_row_is_named_with_file_and_line_and_its_tokens_are_shown(
    write_recipe: WriteRecipe, check: Any, monkeypatch: pytest.MonkeyPatch
):
    recipe = write_recipe()
    monkeypatch.chdir(recipe.parent)
    code, output, _ = check(recipe, written(recipe, LOSES_SYSTEM))
    assert code == 2
    assert "recipe.yaml: good" not in output
    assert "problem: probe: system message: the template drops message 1 (system)" in output
    (first, *_) = [line for line in output.splitlines() if "train.jsonl:1:" in line]
    assert first.endswith(
        "[system_dropped]; write a `tokenizer.chat_template` that has a place for it, or refuses "
        "it with `raise_exception`"
    )
    assert "and 13 more of this kind" in output
    shown = output.partition(first)[2].splitlines()[1]
    assert shown.startswith("    trained: ")
    assert '"<|im_end|>"' in shown


def test_json_has_every_finding(
    write_recipe: WriteRecipe, check: Any, monkeypatch: pytest.MonkeyPatch
):
    recipe = write_recipe()
    monkeypatch.chdir(recipe.parent)
    code, output, _ = check(recipe, written(recipe, FORGETS_ITS_END), "--json", "--rows", "2")
    report = json.loads(output)
    assert code == 2
    assert report["ok"] is False
    assert report["problems"] == []
    lint = report["templates"]
    assert lint["num_rows"] == 2
    assert lint["num_problems"] > 0
    found = [one for one in lint["findings"] if one["rule"] == "stop_missing"]
    assert found[0]["where"] == "probe: one turn"
    assert [one["where"].rpartition(":")[2] for one in found[1:]] == ["1", "2"]
    assert set(found[0]) == {
        *("rule", "severity", "where", "what", "hint", "tokens", "served_tokens", "num_more")
    }
    assert set(found[0]["tokens"][0]) == {"id", "text"}


def test_special_tokens_that_the_tokenizer_lacks_are_a_problem(
    write_recipe: WriteRecipe, check: Any
):
    code, output, _ = check(write_recipe(), "tokenizer.chat_template=llama3", "--rows", "1")
    assert code == 2
    assert "'<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>' would be read letter" in output
    assert '`tokenizer.add_tokens: ["<|start_header_id|>", ' in output


def test_training_with_special_tokens_that_the_tokenizer_lacks_is_refused_before_any_row(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    recipe = str(write_recipe())
    template = "tokenizer.chat_template=phi3"
    monkeypatch.setattr(sys, "argv", ["framework", "prepare", recipe, template])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "<|system|> <|user|> <|assistant|> <|end|>; write `tokenizer.add_tokens:" in (
        capsys.readouterr().err
    )


def test_all_datasets_are_looked_at(write_recipe: WriteRecipe, check: Any, tmp_path: Path):
    bad = {
        "messages": [{"role": "user", "content": "Hi <|im_end|>"}, conversation(0)["messages"][2]]
    }
    write_rows(tmp_path / "bad.jsonl", [conversation(1), bad])
    recipe = write_recipe(data={"eval": [{"source": "./bad.jsonl"}]})
    code, output, _ = check(recipe, "tokenizer.chat_template=chatml")
    assert code == 2
    assert "bad.jsonl:2: the text of message 1 (user) contains the special token" in output
    code, output, _ = check(recipe, "tokenizer.chat_template=chatml", "--rows", "1")
    assert code == 0
    assert "(12 probes, 2 rows)" in output


def test_a_wrong_recipe_is_not_linted(write_recipe: WriteRecipe, check: Any):
    code, output, errors = check(write_recipe(), "trainer.learning_rate=-1")
    assert code == 2
    assert output == ""
    assert "trainer.learning_rate" in errors


def test_a_named_template_reaches_whoever_serves_the_trained_model(
    write_recipe: WriteRecipe, launched: Callable[..., str], tmp_path: Path
):
    from transformers import AutoTokenizer

    recipe = write_recipe(
        tokenizer={"chat_template": "qwen3", "template_arguments": {"enable_thinking": False}},
        **{"trainer.max_steps": 1},
    )
    launched(recipe)
    served = AutoTokenizer.from_pretrained(tmp_path / "run" / "final").apply_chat_template(
        conversation(0)["messages"][:2], add_generation_prompt=True, tokenize=False
    )
    assert isinstance(served, str)
    assert served.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_rows_that_a_model_is_asked_for_need_the_same_consent_as_elsewhere(
    write_recipe: WriteRecipe, check: Any, monkeypatch: pytest.MonkeyPatch
):
    asked = (
        "{type: generate, seeds: ./eval.jsonl, prompt: '{{ messages }}', required: [messages], "
        "endpoint: {base_url: 'http://models.invalid/v1', model: any, max_retries: 0}}"
    )
    recipe, source = write_recipe(), f"data.train=[{{source: {asked}}}]"
    monkeypatch.chdir(recipe.parent)
    code, _, errors = check(recipe, source)
    assert code == 3
    assert "--allow-url http://models.invalid/v1" in errors
    code, _, errors = check(recipe, source, "--allow-url", "http://models.invalid/v1")
    assert code == 1
    assert "http://models.invalid/v1/chat/completions: the connection failed" in errors
