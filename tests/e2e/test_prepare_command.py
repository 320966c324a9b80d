"""`framework prepare` in real processes: killed, started twice at once, and moved elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import conversation, write_rows
from warm_start import FRAMEWORK

pytestmark = pytest.mark.usefixtures("warm")

NUM_ROWS = 3000


@pytest.fixture
def prepare(tmp_path):
    """Starts `framework prepare` with a cache of its own."""

    def start(recipe: Path, cache: str = "cache") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*FRAMEWORK, "prepare", str(recipe), "--json"],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def recipe(write_recipe, tmp_path) -> Path:
    write_rows(tmp_path / "train.jsonl", [conversation(number) for number in range(NUM_ROWS)])
    return write_recipe()


def report(process: subprocess.Popen[str]) -> dict:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output)


def stores(cache: Path) -> list[Path]:
    """Complete folders of prepared data; others begin with a dot."""
    folder = cache / "framework" / "data"
    found = folder.glob("[0-9a-f]*") if folder.is_dir() else ()
    return [path for path in found if path.is_dir()]


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_a_killed_preparation_leaves_nothing_that_is_used(prepare, recipe, tmp_path):
    process = prepare(recipe)
    parts = tmp_path / "cache" / "framework" / "data"
    while process.poll() is None and not any(
        path.stat().st_size for path in parts.glob(".*.part-*/tokens.bin")
    ):
        time.sleep(0.01)
    assert process.poll() is None, "it was done before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert stores(tmp_path / "cache") == []
    assert list(parts.glob(".*.part-*")), "nothing was begun"

    assert report(prepare(recipe))["train"]["datasets"][0]["num_samples"] == NUM_ROWS
    (store,) = stores(tmp_path / "cache")
    report(prepare(recipe, "undisturbed"))
    (undisturbed,) = stores(tmp_path / "undisturbed")
    assert content(store) == content(undisturbed)
    assert list(parts.glob(".*.part-*")) == []


def test_two_that_start_at_once_make_it_once(prepare, recipe, tmp_path):
    both = [prepare(recipe) for _ in range(2)]
    first, second = (report(process) for process in both)
    assert first == second
    (store,) = stores(tmp_path / "cache")
    made = (store / "tokens.bin").stat().st_mtime_ns
    assert report(prepare(recipe)) == first
    assert (store / "tokens.bin").stat().st_mtime_ns == made


def test_prepared_data_are_used_on_another_machine_with_other_paths(
    prepare, write_recipe, tmp_path
):
    (tmp_path / "mine.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    recipe = write_recipe(tokenizer={"chat_template": "./mine.jinja"})
    report(prepare(recipe))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("train.jsonl", "mine.jinja", recipe.name):
        shutil.copy(tmp_path / name, elsewhere / name)
    shutil.copytree(tmp_path / "cache", tmp_path / "copied")
    (store,) = stores(tmp_path / "copied")
    before = (store / "tokens.bin").stat().st_mtime_ns
    report(prepare(elsewhere / recipe.name, "copied"))
    assert stores(tmp_path / "copied") == [store]
    assert (store / "tokens.bin").stat().st_mtime_ns == before
