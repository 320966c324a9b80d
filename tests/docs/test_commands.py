"""The commands, recipes and links of README and docs do what the text says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import warm_start
from conftest import conversation, write_rows

import framework

pytestmark = pytest.mark.usefixtures("warm")

ROOT = Path(framework.__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CLI = ROOT / "framework" / "cli"
GROUPS = sorted(file.parent.name for file in CLI.glob("*/__init__.py"))
"""First words of verbs of two words, such as `data stats`."""
VERBS = sorted(
    " ".join(file.relative_to(CLI).with_suffix("").parts) for file in CLI.rglob("[!_]*.py")
)
LIGHT = ("check", "explain", "list", "schema")
"""Verbs that need no model."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """Every command line of a shell block, and of the README's table, without its comment."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    readme = PAGES[0].read_text(encoding="utf-8")
    lines += re.findall(r"^\| `(framework [^`]*)`", readme, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


FRAMEWORK = sorted({line for line in commands() if line.startswith("framework ")})
LAUNCHES = sorted({line for line in commands() if "accelerate launch" in line})
MAKES = sorted({line for line in commands() if line.startswith("make ")})


def verb_and_rest(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of the verb, one or two of them, and those after it."""
    count = 2 if words[0] in GROUPS else 1
    return words[:count], words[count:]


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*warm_start.FRAMEWORK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )


def test_the_tests_below_see_the_commands():
    assert len(PAGES) > 12
    assert len(FRAMEWORK) > 10
    assert len(LAUNCHES) >= 2
    assert set(commands()) == {*FRAMEWORK, *LAUNCHES, *MAKES}


def test_the_readme_needs_exactly_two_commands_to_set_up():
    assert blocks(PAGES[0], "sh") == ["make quickstart\nmake test\n"]


@pytest.mark.parametrize("line", MAKES)
def test_a_make_command_has_its_target(line):
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_describes_every_verb():
    readme = PAGES[0].read_text(encoding="utf-8")
    table = re.findall(r"^\| `framework ([^`]*)`", readme, re.MULTILINE)
    # A verb with an option that makes it another thing has a line of its own.
    assert sorted({" ".join(verb_and_rest(line.split())[0]) for line in table}) == VERBS


@pytest.mark.parametrize("line", FRAMEWORK)
def test_a_framework_command_has_the_verb_and_options_that_the_text_uses(line):
    verb, rest = verb_and_rest(shlex.split(line)[1:])
    help_text = run(*verb, "--help").stdout
    options = [part.partition("=")[0] for part in rest if re.match(r"-\w|--", part)]
    assert help_text.startswith("Usage:")
    assert [option for option in options if option not in help_text] == []


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in FRAMEWORK
        if line.split()[1] in LIGHT and ("recipe.yaml" not in line) and "my.yaml" not in line
    ],
)
def test_a_light_command_works_as_it_is_written(line):
    _, *arguments = shlex.split(line.replace("[KIND]", "formatters"))
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("line", LAUNCHES)
def test_a_launch_command_names_a_good_recipe(line):
    words = shlex.split(line)
    assert words[words.index("-m") + 1] == "framework.train"
    recipe, *overrides = words[words.index("framework.train") + 1 :]
    if not recipe.startswith("recipes/"):
        assert recipe == "my.yaml"
        return
    done = run("check", recipe, *overrides)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page",
    [PAGES[0], ROOT / "docs" / "quickstart.md", ROOT / "docs" / "synthetic-data.md"],
    ids=lambda p: p.name,
)
def test_a_recipe_in_the_text_is_good(page, tmp_path, tiny_model_dir):
    for name in ("train", "eval"):
        write_rows(tmp_path / f"{name}.jsonl", [conversation(0)])
    # `check` looks at the first rows, so they are what the pages say.
    write_rows(tmp_path / "my.jsonl", [{"question": "What is the tide?", "answer": "The sea."}])
    write_rows(tmp_path / "seeds.jsonl", [{"topic": "tides"}])
    (tmp_path / "my-model").symlink_to(tiny_model_dir)
    written = blocks(page, "yaml")
    assert len(written) == 1
    (tmp_path / "my.yaml").write_text(written[0], encoding="utf-8")
    done = run("check", "my.yaml", "data.max_length=512", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def test_every_relative_link_leads_somewhere():
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(links) > 30
    broken = [
        f"{page.relative_to(ROOT)}: {target}" for page, target in links if not leads(page, target)
    ]
    assert broken == []


def leads(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


def test_the_run_directory_holds_what_the_concepts_say(write_recipe, tmp_path):
    recipe = write_recipe(
        adapter="lora",
        data={"eval": [{"source": "./eval.jsonl"}], "test": [{"source": "./eval.jsonl"}]},
        evaluation={
            "num_generations": 1,
            "evaluators": [{"type": "exact_match", "num_rows": 1, "max_new_tokens": 4}],
            "max_new_tokens": 4,
        },
        tracking={"trackers": ["tensorboard", {"type": "wandb", "mode": "offline"}]},
    )
    done = run("train", str(recipe))
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \|", page.partition("## The run directory")[2], re.MULTILINE)
    described = {name.partition("/")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    written = {path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"}
    assert written == {name for name in described if not name.isdigit()}
