"""docs/recipe-reference.md is what the code generates."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import framework
from framework.core.registries import KINDS, registry

DOCS = Path(framework.__file__).parent.parent / "docs"


def generated() -> str:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


def test_the_committed_page_is_the_generated_one():
    committed = (DOCS / "recipe-reference.md").read_text(encoding="utf-8")
    assert committed == generated(), "run `make docs`"


def test_every_component_and_every_key_of_a_section_is_on_the_page():
    page = generated()
    for kind in KINDS:
        for name in registry(kind).names():
            assert f"### {kind}: {name}\n" in page
    assert "| `learning_rate` | number, above 0 | `0.0002` | Peak learning rate. |" in page
    assert "### data.train[], data.eval[], data.test[]" in page
    assert "### evaluation.early_stopping" in page
