"""A run writes into a folder of its own, whatever the recipe names as `output.dir`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile.test_recipes import run_command


def contents(folder: Path) -> dict[str, object]:
    """Every entry below the folder: what it holds, or where it leads."""
    return {
        str(path.relative_to(folder)): path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with what one holds."""
    home = tmp_path / "home"
    for name in (".bashrc", ".ssh/authorized_keys", "editor/settings.json", "thesis/final/a.tex"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine\n")
    (home / "editor" / "settings.json").write_text('{"editor.fontSize": 12}')
    (home / "other").mkdir()
    (home / "other" / "settings.json").write_text("// {not json\n")
    (home / "locks").mkdir()
    (home / "locks" / "metrics.jsonl").write_text('{"step": 99}\n')
    monkeypatch.setenv("HOME", str(home))
    return home


PLACES = (
    "~",
    "~/",
    "~/.ssh",
    "~/editor",
    "~/other",
    "~/thesis",
    "~/thesis/final",
    "~/locks",
    "/",
    "~/.bashrc",
)


@pytest.mark.parametrize("place", PLACES)
def test_no_command_writes_among_files_that_are_not_a_runs(place, home, write_recipe, capfd):
    recipe = write_recipe(**{"output.dir": place, "trainer.max_steps": 1})
    before = contents(home)
    code, said = run_command("train", str(recipe), capfd=capfd)
    assert code in (2, 3), said
    assert "output.dir" in said
    assert contents(home) == before


def test_links_in_a_run_are_not_written_through(home, write_recipe, tmp_path, capfd):
    """A stranger's archive holds a run that is about to go on, and its files lead elsewhere."""
    recipe = write_recipe(**{"trainer.max_steps": 1})
    assert run_command("train", str(recipe), capfd=capfd)[0] == 0
    run = tmp_path / "run"
    (run / "result.json").unlink()
    before = contents(home)
    for name in ("metrics.jsonl", "log.txt", "samples.jsonl", "checkpoints", "recipe.yaml"):
        kept = run.with_name("kept")
        (run / name).rename(kept)
        (run / name).symlink_to(home / ".bashrc" if kept.is_file() else home / ".ssh")
        code, said = run_command("train", str(recipe), capfd=capfd)
        assert (code, f"holds the link '{name}'" in said) == (3, True), said
        (run / name).unlink()
        kept.rename(run / name)
    assert contents(home) == before


def test_an_editors_settings_are_not_taken_for_a_runs(home, write_recipe, capfd):
    text = json.dumps({"output.dir": 7, "trainer.seed": "0"})
    (home / "editor" / "settings.json").write_text(text)
    recipe = write_recipe(**{"output.dir": "~/editor"})
    code, said = run_command("train", str(recipe), capfd=capfd)
    assert code == 3, said
    assert (home / "editor" / "settings.json").read_text() == text
