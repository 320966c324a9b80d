"""Secrets in the environment and in addresses appear in nothing that commands say or write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile.test_recipes import run_command

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


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def leaks(folder: Path) -> set[str]:
    """Files below a folder that hold a canary, archives and weights included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path.relative_to(folder)) for path in files if b"secret" in path.read_bytes()}


def test_there_are_twenty_secrets():
    assert len(CANARIES) + 6 >= 20


def test_a_run_says_and_writes_no_secret_of_the_environment(write_recipe, tmp_path, capfd):
    recipe = write_recipe(**{"trainer.max_steps": 2, "checkpoint": {"every_steps": 1}})
    for verb in ("check", "explain", "plan", "preview", "train"):
        code, said = run_command(verb, str(recipe), capfd=capfd)
        assert code == 0, said
        assert "secret" not in said
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"log.txt", "metrics.jsonl", "resolved.yaml", "report.html", "checkpoints"} <= written
    assert leaks(tmp_path) == set()


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
