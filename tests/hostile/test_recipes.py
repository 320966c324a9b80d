"""A stranger's recipe is data: no command runs what it says, or shows what it may not read."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from hostile.adapters import SLOW
from hostile.recipes import ESCAPED, GOOD, REFUSED
from prove import fuzz

from framework.__main__ import main
from framework.recipe.resolve import resolve

SECRET = "canary-f0e1d2c3"
VERBS = ("check", "explain", "plan", "preview", "train")


@pytest.fixture
def folder(tmp_path: Path, write_recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a hostile recipe lies, beside what it may try to include."""
    write_recipe()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_CANARY", SECRET)
    (tmp_path / "circle.yaml").write_text("extends: recipe.yaml")
    (tmp_path / "link.yaml").symlink_to("recipe.yaml")
    (tmp_path / "evil.py").write_text("open('canary', 'w')\nclass Evil: pass\n")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def run_command(verb: str, *arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a command of ours and what it said."""
    code = 0
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framework", verb, *arguments])
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    said = capfd.readouterr()
    return code, said.out + said.err


def test_there_are_many_hostile_recipes():
    assert len(REFUSED) > 40


@pytest.mark.parametrize("name", REFUSED)
def test_no_command_does_what_a_hostile_recipe_says(name, folder, tiny_model_dir, capfd):
    recipe = folder / "recipe.yaml"
    recipe.write_text(REFUSED[name].replace("MODEL", str(tiny_model_dir)))
    before = {path.name for path in folder.iterdir()}
    verbs = VERBS if "template" not in name else ("preview", "train")
    for verb in verbs:
        started = time.thread_time()
        code, said = run_command(verb, "recipe.yaml", capfd=capfd)
        assert code == 2, (verb, said)
        assert said.strip() and "Traceback" not in said
        assert SECRET not in said
        assert time.thread_time() - started < 8
    assert {path.name for path in folder.iterdir()} - before <= {"run"}
    assert not list(folder.rglob("canary*"))


PATTERNS = {
    "target_modules": f"{{type: lora, target_modules: '{SLOW}'}}",
    "exclude_modules": f"{{type: lora, exclude_modules: '{SLOW}'}}",
    "rank_pattern": f"{{type: lora, rank_pattern: {{'{SLOW}': 2}}}}",
    "alpha_pattern": f"{{type: lora, alpha_pattern: {{'{SLOW}': 2}}}}",
    "modules_to_save": f"{{type: lora, modules_to_save: ['{SLOW}']}}",
    "trainable": f"{{type: freeze, trainable: ['{SLOW}']}}",
    "frozen": f"{{type: freeze, frozen: ['{SLOW}']}}",
}


@pytest.mark.parametrize("key", [*PATTERNS, "parameter_groups"])
def test_a_pattern_that_takes_minutes_is_stopped(key, folder, tiny_model_dir, capfd):
    text = GOOD.replace("MODEL", str(tiny_model_dir))
    if key in PATTERNS:
        text += f"adapter: {PATTERNS[key]}\n"
    else:
        groups = f"trainer: {{parameter_groups: [{{pattern: '{SLOW}', weight_decay: 0}}], "
        text = text.replace("trainer: {", groups)
    (folder / "recipe.yaml").write_text(text)
    started = time.thread_time()
    code, said = run_command("train", "recipe.yaml", capfd=capfd)
    assert code == 2, said
    assert key in said and "Traceback" not in said
    assert "takes more than 1 s for one name" in said or key == "modules_to_save"
    assert time.thread_time() - started < 15


def test_what_may_be_read_is_read(folder, tiny_model_dir, capfd):
    recipe = folder / "recipe.yaml"
    recipe.write_text(GOOD.replace("MODEL", str(tiny_model_dir)))
    assert run_command("check", "recipe.yaml", capfd=capfd)[0] == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    data = folder.resolve() / "train.jsonl"
    (elsewhere / "own.yaml").write_text(
        f"extends: ../recipe.yaml\ndata: {{train: [{{source: {data}}}]}}\n"
        "output: {dir: '${oc.decode:${oc.env:SECRET_CANARY}}'}\n"
    )
    own = resolve("elsewhere/own.yaml", allowed_environment=["SECRET_CANARY"])
    assert Path(own.output.dir).name == SECRET
    arguments = ("elsewhere/own.yaml", "--allow-env", "SECRET_CANARY")
    code, said = run_command("explain", *arguments, capfd=capfd)
    assert (code, SECRET in said) == (0, False), "explain shows where a value is from"


@pytest.mark.parametrize("verb", VERBS)
def test_no_terminal_obeys_a_recipe_or_a_row(verb, folder, tiny_model_dir, capfd):
    recipe = folder / "recipe.yaml"
    good = GOOD.replace("MODEL", str(tiny_model_dir))
    recipe.write_text(f"{good}\n{ESCAPED.encode('unicode_escape').decode()}: 1\n")
    code, said = run_command(verb, "recipe.yaml", f"output.dir={ESCAPED}", capfd=capfd)
    assert code == 2
    assert "\x1b" not in said and "\x07" not in said
    said = {"user": "\x1b]0;owned\x07", "assistant": "\x1b[2J\x9b2J"}
    row = {"messages": [{"role": role, "content": text} for role, text in said.items()]}
    (folder / "train.jsonl").write_text((json.dumps(row) + "\n") * 4)
    recipe.write_text(good)
    code, said = run_command(verb, "recipe.yaml", capfd=capfd)
    assert code == 0, said
    assert "\x1b]" not in said and "\x1b[2J" not in said and "\x07" not in said
    assert "\x9b" not in said


def test_recipes_damaged_at_random_are_read_or_refused(tmp_path):
    row = fuzz.run(tmp_path, tmp_path, num_cases=300, seed=2)
    assert (row.tries, row.failures) == (300, 0), row.notes
    assert all(f" {kind}" in row.notes and f" 0 {kind}" not in row.notes for kind in fuzz.KINDS)
