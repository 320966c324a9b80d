"""What holds for every file of the package: imports, documentation, sizes, no foreign code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import framework
from framework.core.registries import KINDS, registry
from framework.core.settings import documentation, summary
from framework.recipe.build import field_types
from framework.recipe.schema import Recipe

PACKAGE = Path(framework.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
COMPONENTS = [(kind, name) for kind in KINDS for name in registry(kind).names()]
VERBS = sorted(file.stem for file in (PACKAGE / "cli").glob("[!_]*.py"))
BUILT_IN = {
    kind: sorted(file.stem for file in (PACKAGE / kind).glob("*.py") if file.stem != "__init__")
    for kind in KINDS
}
HEAVY = (
    "accelerate",
    "datasets",
    "matplotlib",
    "numpy",
    "peft",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
COMMAND = "import sys; from framework.__main__ import main; sys.argv[1:1] = ['check']; "
PRINT_HEAVY = f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    ).stdout


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in FILES:
        yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def test_the_tests_below_see_the_whole_package_and_the_recipes():
    assert len(FILES) > 100
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} >= {"core", "data", *KINDS}
    assert len(RECIPES) >= 1
    assert sum(len(names) for names in BUILT_IN.values()) > 25


# ---- what is loaded when


def test_checking_shipped_recipes_loads_no_heavy_library():
    started = time.monotonic()
    output = run_python(
        "import sys; from framework.__main__ import build_app\n"
        "for recipe in sys.argv[1:]:\n"
        "    refused = build_app()(['check', recipe], standalone_mode=False)\n"
        "    if refused:\n"  # what a machine without a package or a GPU says
        "        print(f'{recipe}: {refused}')\n" + PRINT_HEAVY,
        *map(str, RECIPES),
    )
    *said, heavy = output.splitlines()
    print(f"framework check of {len(said)} recipes: {time.monotonic() - started:.2f} s")
    assert heavy == "[]"
    wanted = [
        f"{one}: {'good' if 'good' in line else 2}" for one, line in zip(RECIPES, said, strict=True)
    ]
    assert said == wanted
    needing = {str(one) for one in RECIPES if "\n# needs: " in one.read_text(encoding="utf-8")}
    assert {line.rsplit(": ", 1)[0] for line in said if not line.endswith("good")} <= needing


def test_light_verbs_and_the_help_of_all_load_no_heavy_library():
    output = run_python(
        "import sys, io, contextlib; from framework.__main__ import build_app\n"
        "import framework.planning.plan\n"
        "verbs = [['list'], ['schema'], ['explain', sys.argv[1]], ['--help']]\n"
        "for words in [*verbs, *([verb, '--help'] for verb in sys.argv[2:])]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        build_app()(words, standalone_mode=False)\n"
        "    assert len(said.getvalue()) > 200, words\n" + PRINT_HEAVY,
        str(ROOT / "recipes" / "quickstart" / "lora.yaml"),
        *VERBS,
    )
    assert output.strip() == "[]"


def test_a_verb_is_all_that_is_loaded_of_the_command_line():
    recipe = str(ROOT / "recipes" / "quickstart" / "lora.yaml")
    told = "sorted(one for one in sys.modules if one.startswith(('framework.cli.', 'regex')))"
    output = run_python(
        f"import atexit; atexit.register(lambda: print({told})); {COMMAND}main()", recipe
    )
    assert output.splitlines() == [f"{recipe}: good", "['framework.cli.check']"]


def test_importing_the_package_loads_almost_nothing():
    modules = run_python("import framework, sys; print(*sys.modules)").split()
    loaded = {name for name in modules if name.partition(".")[0] == "framework"}
    assert loaded == {"framework"}
    assert not {"omegaconf", "typer", *HEAVY} & set(modules)


# ---- components


def test_the_listing_shows_every_file_of_every_component_package():
    listed = json.loads(run_python(COMMAND.replace("check", "list") + "main()", "--json"))
    assert sorted(listed) == sorted(KINDS)
    for kind in KINDS:
        built_in = [entry["name"] for entry in listed[kind] if entry["origin"] == "built-in"]
        assert sorted(built_in) == BUILT_IN[kind]
        assert all(entry["summary"] for entry in listed[kind])


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=lambda value: value)
def test_a_component_is_a_frozen_dataclass_whose_every_field_is_documented(kind, name):
    component = registry(kind).get(name)
    assert dataclasses.is_dataclass(component)
    assert component.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(component))
    assert own_docstring(component), "the first line is its line in listings"
    assert_every_field_is_documented(component)


def own_docstring(owner: type) -> str:
    """The docstring that was written: a dataclass without one is given its signature."""
    generated = f"{owner.__name__}{inspect.signature(owner)}".replace(" -> None", "")
    return "" if summary(owner).startswith(generated[:20]) else summary(owner)


def assert_every_field_is_documented(owner: type) -> None:
    fields = {field.name for field in dataclasses.fields(owner) if field.init}
    documented = {name for name, text in documentation(owner).items() if text.strip()}
    assert fields - documented == set()


def sections(owner: type) -> Iterator[type]:
    yield owner
    for annotation in field_types(owner).values():
        for option in getattr(annotation, "__args__", None) or (annotation,):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                yield from sections(option)


def test_every_section_of_the_recipe_and_every_key_is_documented():
    seen = set(sections(Recipe))
    assert len(seen) > 10
    for section in seen:
        assert section.__dataclass_params__.frozen
        assert own_docstring(section)
        assert_every_field_is_documented(section)


# ---- files


def test_every_module_says_in_a_docstring_what_it_is():
    silent = [
        str(path)
        for path, tree in trees()
        if path.name != "__init__.py" and tree.body
        if not ast.get_docstring(tree)
    ]
    assert silent == []


def test_no_file_is_longer_than_a_reader_bears():
    long = {
        str(file.relative_to(ROOT)): count
        for file in FILES
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert long == {}


def test_no_function_is_longer_than_a_reader_bears():
    long = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{path}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_every_folder_of_unit_tests_mirrors_a_package_or_the_recipes():
    folders = [
        path
        for path in (ROOT / "tests" / "unit").rglob("*")
        if path.is_dir() and any(path.glob("test_*.py"))
    ]
    assert len(folders) >= 8
    mirrored = {folder.relative_to(ROOT / "tests" / "unit") for folder in folders}
    mirrored -= {Path(), Path("recipes")}
    strangers = [str(folder) for folder in mirrored if not (PACKAGE / folder).is_dir()]
    assert strangers == []


# ---- a recipe, a model or a checkpoint from a stranger is data, never code

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_MODULES |= {"joblib", "runpy", "code", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
FORBIDDEN_CALLS |= {"torch.load", "torch.serialization.load", "torch.hub.load", "torch.jit.load"}
FORBIDDEN_CALLS |= {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
FORBIDDEN_CALLS |= {"subprocess.getoutput", "subprocess.getstatusoutput"}


def dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that could run what a file says."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    renamed = {one.asname: one.name for node in imports for one in node.names if one.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        for name in names:
            if name.partition(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_CALLS:
                yield node.lineno, f"import {name}"
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = dotted_name(node.func).partition(".")
        called = f"{renamed.get(first, first)}{dot}{rest}"
        if called in FORBIDDEN_CALLS:
            yield node.lineno, called
        for keyword in node.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in {"trust_remote_code", "allow_pickle", "shell"} and not off:
                yield node.lineno, f"{keyword.arg} that is not False"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "x = eval('1')",
        "torch.load(f)",
        "yaml.load(f)",
        "yaml.unsafe_load(f)",
        "import torch as t; t.load(f)",
        "numpy.load(f, allow_pickle=True)",
        "M.from_pretrained(p, trust_remote_code=True)",
        "M.from_pretrained(p, trust_remote_code=wanted)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_search_for_dangers_finds_them(code):
    assert {line for line, _ in dangers(ast.parse(code))} == {1}


def test_nothing_in_the_package_can_run_what_a_file_says():
    found = [f"{path}:{line}: {what}" for path, tree in trees() for line, what in dangers(tree)]
    assert found == []
