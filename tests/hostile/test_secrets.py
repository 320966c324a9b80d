"""Secrets in the environment and in addresses appear in nothing that commands say or write."""

from __future__ import annotations

import io
import sys
import traceback
from pathlib import Path

import pytest
from hostile.test_recipes import run_command

from framework.runs.rehearsal import Rehearsal
from framework.train import run as train

VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "AZURE_CLIENT_SECRET"),
    *("GITHUB_TOKEN", "DATABASE_URL", "PIP_INDEX_URL", "NETRC_PASSWORD", "SSH_PASSPHRASE"),
)
CANARIES = {name: f"canary{number:02d}secret" for number, name in enumerate(VARIABLES)}
ADDRESSES = {
    "data.train": "[{source: 'https://ada:canary20secret@example.com/rows.jsonl'}]",
    "data.eval": "[{source: 's3://canary21secret:canary22secret@bucket/rows'}]",
    "model.source": "https://canary23secret@example.com/model",
    "output.url": "ftp://ada:canary24secret@example.com",
    "tokenizer.chat_template": "https://ada:canary25secret@example.com/a.jinja",
}


TOKEN = "hf_" + "canary26secret" * 3
WRITTEN = {
    "output": f"{{dir: ./run, run_name: {TOKEN}}}",
    "tokenizer": f"{{template_arguments: {{a: 'x {TOKEN}'}}}}",
    "adapter": f"{{type: lora, rank_pattern: [1, {{c: ['x {TOKEN}']}}]}}",
    "tracking": "{trackers: [{type: wandb, project: 'https://ada:canary27secret@example.com/p'}]}",
    "data": "{max_length: 64, train: [{source: ./train.jsonl, "
    "system_prompt: 'postgres://ada:canary28secret@db/rows'}]}",
    "model": "{source: {type: hub, repo: a/b, revision: sk-canary29secret0123456789abcdefghij}}",
    "extends": "git+ssh://ada:canary30secret@example.com/recipe.yaml",
}
"""Written into a recipe as they should not be: tokens, and passwords in addresses, at any depth."""


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def leaks(folder: Path) -> set[str]:
    """Files below a folder that hold a canary, archives and weights included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path.relative_to(folder)) for path in files if b"secret" in path.read_bytes()}


def test_there_are_twenty_secrets_in_the_environment_and_beside_it():
    assert len(CANARIES) + len(ADDRESSES) + 1 >= 20
    assert len(WRITTEN) >= 6


def test_a_run_says_and_writes_no_secret_of_the_environment(write_recipe, tmp_path, capfd):
    recipe = write_recipe(**{"trainer.max_steps": 2, "checkpoint": {"every_steps": 1}})
    for verb in ("check", "explain", "plan", "preview", "train"):
        code, said = run_command(verb, str(recipe), capfd=capfd)
        assert code == 0, said
        assert "secret" not in said
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"log.txt", "metrics.jsonl", "resolved.yaml", "report.html", "checkpoints"} <= written
    assert leaks(tmp_path) == set()


@pytest.mark.parametrize("key", WRITTEN)
@pytest.mark.parametrize("where", ["recipe", "included", "override"])
def test_a_secret_that_is_written_into_a_recipe_is_refused_and_not_repeated(
    key, where, write_recipe, tmp_path, capfd
):
    recipe = write_recipe()
    text = f"extends: recipe.yaml\n{key}: {WRITTEN[key]}\n"
    overrides: list[str] = []
    if key == "extends":
        text = f"extends: [recipe.yaml, '{WRITTEN[key]}']\n"
    elif where == "override":
        text, overrides = "extends: recipe.yaml\n", [f"{key}={WRITTEN[key]}"]
    (tmp_path / "other.yaml").write_text(text)
    (tmp_path / "outer.yaml").write_text("extends: other.yaml\n")
    name = "outer.yaml" if where == "included" else "other.yaml"
    for verb in ("check", "explain", "train"):
        code, said = run_command(verb, str(recipe.with_name(name)), *overrides, capfd=capfd)
        assert code == 2, said
        assert "canary" not in said, said
        wrong_anyway = ("extends", "output", "adapter")
        assert key in wrong_anyway or "${oc.env:NAME}" in said, said
    assert not (tmp_path / "run").exists()


def test_a_traceback_of_a_fault_of_ours_shows_no_secret(write_recipe):
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    settings = {"template_arguments": {"note": "${oc.env:MY_KEY}"}}
    recipe = write_recipe(tokenizer=settings, **{"trainer.max_steps": 1})
    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe, (), ["MY_KEY"], rehearsal=Rehearsal(before_training=fault))
    told = "".join(traceback.format_exception(caught.value))
    assert "a fault of ours" in told and "canary" not in told


@pytest.mark.slow
def test_no_command_on_a_run_and_no_tracker_shows_what_a_recipe_read(
    write_recipe, tmp_path, capfd, monkeypatch
):
    """A value from the environment in nested values and in an override; two trackers, evaluations,
    checkpoints, and every command that reads the run."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    nested = {"note": "${oc.env:MY_KEY}", "again": "x ${tokenizer.template_arguments.note}"}
    recipe = write_recipe(
        tokenizer={"template_arguments": nested},
        adapter={"type": "lora", "r": 2},
        tracking={"trackers": ["tensorboard", {"type": "wandb", "mode": "offline"}]},
        checkpoint={"every_steps": 1},
        **{"trainer.max_steps": 2, "trainer.learning_rate": 1e-1},
    )
    override = "+tokenizer.template_arguments.more=${oc.env:MY_KEY}"
    allowed = ("--allow-env", "MY_KEY")
    run, monkey = tmp_path / "run", monkeypatch
    monkey.setenv("FRAMEWORK_ALLOW_ENV", "MY_KEY")
    monkey.setattr(sys, "stdin", io.StringIO("hello\n\n"))
    for command in (
        ("train", str(recipe), override, *allowed),
        ("explain", str(recipe), override, *allowed),
        ("report", str(run)),
        ("report", str(run), "--blame", "1", *allowed),
        ("replay", str(run), *allowed),
        ("merge", str(run), "-o", str(tmp_path / "merged")),
        ("chat", str(run), "--max-new-tokens", "2"),
    ):
        code, said = run_command(*command, capfd=capfd)
        assert "canary" not in said, (command, said)
        assert code in (0, 2, 3), (command, said)
    for name in ("tensorboard", "wandb", "checkpoints", "final", "report.html", "lock.json"):
        assert (run / name).exists(), name
    # The model's template has what it was trained with, so that servers render the same.
    allowed_files = {
        f"{one}/chat_template.jinja" for one in ("run/final", "merged", "run-replay/final")
    }
    assert leaks(tmp_path) <= allowed_files


def test_an_allowed_variable_is_used_and_not_written(write_recipe, tmp_path, capfd):
    template = (
        "{{ note and '' }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    arguments = {"note": "${oc.env:MY_KEY}", "again": "${tokenizer.template_arguments.note}"}
    settings = {"chat_template": template, "template_arguments": arguments}
    recipe = write_recipe(tokenizer=settings, **{"trainer.max_steps": 1})
    for verb in ("check", "explain", "train"):
        code, said = run_command(verb, str(recipe), "--allow-env", "MY_KEY", capfd=capfd)
        assert code == 0, said
        assert CANARIES["MY_KEY"] not in said
    # The model's template has what it was trained with, so that servers render the same.
    assert leaks(tmp_path) == {"run/final/chat_template.jinja"}


@pytest.mark.parametrize("key", ADDRESSES)
@pytest.mark.parametrize("where", ["recipe", "override"])
def test_a_password_in_an_address_is_never_shown(key, where, write_recipe, capfd):
    recipe = write_recipe()
    overrides = [f"{key}={ADDRESSES[key]}"] if where == "override" else []
    if where == "recipe":
        section, _, name = key.partition(".")
        other = recipe.with_name("other.yaml")
        other.write_text(f"extends: recipe.yaml\n{section}: {{{name}: {ADDRESSES[key]}}}\n")
        recipe = other
    for verb in ("check", "explain", "plan", "preview", "train"):
        for form in ([], ["--json"] if verb == "check" else []):
            code, said = run_command(verb, str(recipe), *overrides, *form, capfd=capfd)
            assert code in {1, 2}, said
            assert "secret" not in said
