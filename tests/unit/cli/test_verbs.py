"""Files of framework/cli are verbs, its folders are groups of them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import framework.cli

FOLDER = Path(framework.cli.__file__).parent


def help_of(*words: str) -> str:
    command = [sys.executable, "-m", "framework", *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_file_is_a_verb_and_every_folder_a_group_of_verbs():
    verbs = {file.stem.strip("_") for file in FOLDER.glob("*.py")} - {"init"}
    groups = {file.parent.name for file in FOLDER.glob("*/__init__.py")}
    assert len(verbs) >= 10
    assert groups == {"data"}
    listed = help_of().partition("Commands:")[2].splitlines()
    assert {line.split()[0] for line in listed if line.strip()} == verbs | groups


def test_the_version_is_that_of_the_installed_package():
    command = [sys.executable, "-m", "framework", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout) == (0, f"framework {version('framework')}\n"), said.stderr


def test_a_group_says_what_it_is_for_and_lists_its_verbs():
    text = help_of("data")
    assert "Look at the data of a recipe, and clean it." in text
    listed = text.partition("Commands:")[2].splitlines()
    verbs = {file.stem for file in (FOLDER / "data").glob("[!_]*.py")}
    assert {line.split()[0] for line in listed if line.strip()} == verbs
