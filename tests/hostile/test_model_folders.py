"""A stranger's model folder and checkpoint are data: no file in them is run, whatever its name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile.test_recipes import run_command

from framework.core.atomic import file_sha256
from framework.core.problems import UserError
from framework.train import run as train

PICKLES = (
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "adapter_model.bin",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "tokenizer.pkl",
    "model.pt",
    "model.ckpt",
)
CODE = (
    "modeling_evil.py",
    "configuration_evil.py",
    "tokenization_evil.py",
    "custom_generate/generate.py",
    "__init__.py",
    "conftest.py",
    "sitecustomize.py",
)


class Bomb:
    """A pickle of it plants the canary when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def bomb(canary: Path) -> bytes:
    return pickle.dumps(Bomb(canary))


def change_json(path: Path, **values: object) -> None:
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**written, **values}), encoding="utf-8")


def make_hostile(folder: Path, bomb: bytes, canary: Path) -> Path:
    """Pickles and code in every place where a library has ever looked for them."""
    for name in PICKLES:
        (folder / name).write_bytes(bomb)
    for name in CODE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    models = ("AutoModelForCausalLM", "AutoModel", "AutoModelForSequenceClassification")
    change_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_evil.Evil",
            **dict.fromkeys(models, "modeling_evil.Evil"),
        },
        trust_remote_code=True,
        custom_generate="custom_generate",
    )
    change_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
        trust_remote_code=True,
    )
    return folder


def test_the_bomb_goes_off_where_pickles_are_loaded(bomb, canary):
    pickle.loads(bomb)
    assert canary.exists()


@pytest.mark.parametrize("without_weights", [False, True])
def test_no_command_runs_what_is_in_a_model_folder(
    without_weights, tiny_model_dir, write_recipe, tmp_path, bomb, canary, capfd
):
    folder = make_hostile(shutil.copytree(tiny_model_dir, tmp_path / "model"), bomb, canary)
    if without_weights:
        (folder / "model.safetensors").unlink()
    recipe = write_recipe(**{"model.source": str(folder), "trainer.max_steps": 1})
    codes = {
        verb: run_command(verb, str(recipe), capfd=capfd)[0]
        for verb in ("check", "explain", "plan", "preview", "train")
    }
    assert not canary.exists()
    assert codes["train"] == (2 if without_weights else 0), codes


def test_a_model_of_a_kind_that_only_its_own_code_knows_is_refused(
    tiny_model_dir, write_recipe, tmp_path, bomb, canary
):
    folder = make_hostile(shutil.copytree(tiny_model_dir, tmp_path / "model"), bomb, canary)
    change_json(folder / "config.json", model_type="evil", architectures=["Evil"])
    with pytest.raises(UserError):
        train(write_recipe(**{"model.source": str(folder)}))
    assert not canary.exists()


def test_a_pickle_in_place_of_the_weights_is_refused(
    tiny_model_dir, write_recipe, tmp_path, bomb, canary
):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(bomb)
    with pytest.raises(UserError):
        train(write_recipe(**{"model.source": str(folder)}))
    assert not canary.exists()


def test_a_pickle_in_any_file_of_a_checkpoint_runs_nothing(write_recipe, tmp_path, bomb, canary):
    """The stranger has made the manifest anew, so that every file is what it says."""
    sections = {"trainer.max_steps": 2, "checkpoint": {"every_steps": 1}}
    recipe = write_recipe(**sections)
    train(recipe)
    run = tmp_path / "run"
    newest = max((run / "checkpoints").iterdir())
    slots = [path for path in newest.rglob("*") if path.is_file()]
    slots = [path.relative_to(newest) for path in slots if path.name != "manifest.json"]
    assert len(slots) >= 3
    kept = shutil.copytree(run, tmp_path / "kept")
    for slot in slots:
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        for name in ("final", "result.json", "report.html"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (newest / slot).write_bytes(bomb)
        remake_manifest(newest)
        with pytest.raises(UserError):
            train(recipe)
        assert not canary.exists(), slot


def remake_manifest(folder: Path) -> None:
    """Says of every file what it is now."""
    path = folder / "manifest.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    for name in written["files"]:
        file = folder / name
        written["files"][name] = {"sha256": file_sha256(file), "size_bytes": file.stat().st_size}
    path.write_text(json.dumps(written), encoding="utf-8")
