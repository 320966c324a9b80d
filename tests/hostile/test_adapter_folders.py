"""A stranger's adapter and a stranger's run are data, whatever their files say."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile.adapters import SETTINGS, SLOW, UNUSED, WEIGHTS, change_settings
from hostile.test_model_folders import CODE, Bomb, change_json
from hostile.test_recipes import run_command

from framework.adapting.adapter_folder import read_config
from framework.core.problems import UserError
from framework.runs.trained import FinishedRun
from framework.train import run as train

PICKLED = ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "rng_state.pth")
MOST_SECONDS = 20
"""Of processor time: what a case may take that never ends where it is believed."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run with a LoRA adapter; and beside it, a second one."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    (folder / "recipe.yaml").write_text(
        f"model: {{source: {tiny_model_dir}}}\n"
        "data: {train: [{source: ./train.jsonl}], max_length: 64}\n"
        "adapter: {type: lora, r: 2, target_modules: [q_proj, v_proj]}\n"
        "trainer: {global_batch_size: 2, max_steps: 1, learning_rate: 1.0e-2}\n"
    )
    for name in ("run", "other"):
        train(folder / "recipe.yaml", [f"output.dir={folder / name}"])
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def run(
    trained: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy with code wherever Python may look for it, in the folder that commands start in."""
    folder = tmp_path / "stranger"
    for name in ("run", "other"):
        shutil.copytree(trained / name, folder / name)
    final = folder / "run" / "final"
    for place in (folder, folder / "run", final):
        for name in ("evil.py", "evil/__init__.py", "peft.py", *CODE):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("evil", None)
    yield folder / "run"
    assert not canary.exists()


@pytest.fixture
def bomb(canary: Path) -> bytes:
    import pickle

    return pickle.dumps(Bomb(canary))


@pytest.fixture(autouse=True)
def most_seconds(request: pytest.FixtureRequest) -> Iterator[None]:
    started = time.thread_time()
    yield
    # The long one has many cases.
    if request.node.get_closest_marker("long") is None:
        assert time.thread_time() - started < MOST_SECONDS


def placed(values: Any, folder: Path) -> Any:
    """The values with the folder's path for `EVIL`."""
    return json.loads(
        json.dumps(values).replace("EVIL/", f"{folder}/").replace('"EVIL"', f'"{folder}"')
    )


def load(run: Path) -> None:
    FinishedRun.open(run).trained_model(torch.float32)


def test_the_pattern_takes_minutes_where_re_looks_for_it():
    code = f"import re; re.fullmatch({SLOW!r}, 'model.layers.0.self_attn.q_proj' * 2)"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", code], timeout=2, check=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_settings_of_an_adapter_are_believed(name, run):
    change_json(
        run / "final" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    )
    changes = SETTINGS[name]
    if "EVIL" in json.dumps(changes) and name != "a kind that there isn't":
        changes = placed(changes, run / "final")
    change_settings(run / "final", changes)
    with pytest.raises(UserError) as caught:
        load(run)
    assert str(run / "final") in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_weights_of_an_adapter_are_believed(name, run, bomb):
    (run / "final" / "adapter_model.safetensors").write_bytes(WEIGHTS[name](bomb))
    with pytest.raises(UserError) as caught:
        load(run)
    assert str(run / "final") in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b"[" * 200_000, b"[]", b"null", b"{", b'{"r": 1e999}']
)
def test_settings_that_are_none_are_refused(text, run):
    (run / "final" / "adapter_config.json").write_bytes(text)
    with pytest.raises(UserError):
        load(run)


def test_pickles_are_not_the_adapter_where_there_is_no_other(run, bomb):
    for name in PICKLED:
        (run / "final" / name).write_bytes(bomb)
    load(run)
    (run / "final" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no adapter_model"):
        load(run)


def test_what_adapters_say_of_elsewhere_is_not_followed(run):
    change_settings(run / "final", UNUSED)
    load(run)


@pytest.mark.parametrize("name", ["tokenizer.json", "adapter_config.json", "other"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_nothing_waits_for_a_pipe_or_reads_a_device(name, kind, run):
    path = run / "final" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    for read in (load, lambda run: read_config(run / "final")):
        with pytest.raises(UserError, match="which is no file"):
            read(run)


STARTED_FROM = (
    "a pattern without end for ranks",
    "megabytes of names",
    "layers without end",
    "a pattern among whole modules",
)


@pytest.mark.parametrize("name", STARTED_FROM)
@pytest.mark.parametrize("adapter", ["lora", "lora_experts"])
def test_no_recipe_goes_on_from_a_strangers_adapter_that_is_hostile(
    name, adapter, run, write_recipe, capfd
):
    change_settings(run / "final", SETTINGS[name])
    final = str(run / "final")
    written = {"start_from": final} if adapter == "lora" else {"experts": [final]}
    recipe = write_recipe(adapter={"type": adapter, "r": 2, **written}, **{"trainer.max_steps": 1})
    for verb in ("check", "train"):
        code, said = run_command(verb, str(recipe), capfd=capfd)
        assert code == 2, (verb, said)
        assert final in said and "Traceback" not in said and len(said) < 20_000


def commands(run: Path, out: Path) -> list[list[str]]:
    """Everything that reads a run or its adapter."""
    return [
        ["chat", str(run), "--max-new-tokens", "2"],
        ["chat", str(run), "--base", "--max-new-tokens", "2"],
        [
            "chat",
            str(run.with_name("other")),
            "--adapter",
            str(run / "final"),
            "--max-new-tokens",
            "2",
        ],
        ["merge", str(run), "-o", str(out / "merged")],
        ["combine", str(run.with_name("other")), str(run), "-o", str(out / "combined")],
        ["report", str(run)],
        ["report", str(run), "--blame", "1"],
        ["report", str(run), "--blame", "worst"],
        ["replay", str(run), "-o", str(out / "replayed")],
    ]


def ended(command: list[str], capfd: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command's exit code; it must end in a message, and ask nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n\n"))
    code, said = run_command(command[0], *command[1:], capfd=capfd)
    assert code in (0, 1, 2, 3), (command, said)
    assert not code or said.strip(), command
    assert "Traceback" not in said, (command, said)
    return code


@pytest.mark.slow
def test_no_command_asks_whether_to_run_what_is_in_a_run(run, bomb, tmp_path, capfd, monkeypatch):
    """Code and pickles beside everything, and settings that name them; all of it is ignored."""
    final = run / "final"
    for name in PICKLED:
        (final / name).write_bytes(bomb)
    change_settings(final, UNUSED)
    change_json(
        final / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
        tokenizer_class="Evil",
        trust_remote_code=True,
    )
    change_json(final / "generation_config.json", custom_generate="custom_generate")
    codes = [ended(one, capfd, monkeypatch) for one in commands(run, tmp_path)]
    # The tokenizer's class is one that nobody has; the one that is learned from is the base's.
    assert codes == [2, 2, 0, 2, 0, 0, 0, 2, 0], codes


def slots(run: Path) -> list[str]:
    """Every file of a run but its checkpoints and its own report."""
    found = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return sorted(
        str(path)
        for path in found
        if path.suffix != ".py" and path.parts[0] != "checkpoints" and path.name != ".lock"
    )


DAMAGE = {
    "a pickle": lambda bomb: bomb,
    "nothing": lambda bomb: b"",
    "a list": lambda bomb: b"[]\n",
    "other settings": lambda bomb: b'{"a": {"b": [1]}}\n',
    "a number": lambda bomb: b"7\n",
    "brackets": lambda bomb: b"[" * 100_000,
    "tags": lambda bomb: b"!!python/object/apply:os.system ['touch canary']\n",
}


def cases(run: Path) -> list[tuple[str, str, int]]:
    """(file, what it is replaced by, which command reads it)."""
    numbers = range(len(commands(run, run)))
    return [(slot, kind, number) for slot in slots(run) for kind in DAMAGE for number in numbers]


def try_cases(
    chosen: list[tuple[str, str, int]], run: Path, bomb: bytes, out: Path, capfd: Any, patch: Any
) -> None:
    whole = shutil.copytree(run, out / "whole")
    for number, (slot, kind, command) in enumerate(chosen):
        shutil.rmtree(run)
        shutil.copytree(whole, run)
        (run / slot).write_bytes(DAMAGE[kind](bomb))
        try:
            ended(commands(run, out / str(number))[command], capfd, patch)
        except Exception as error:
            raise AssertionError(f"{slot} is {kind}: {commands(run, out)[command]}") from error
        assert not (out / "canary").exists(), (slot, kind, command)


def test_any_file_of_a_run_may_be_anything(run, bomb, tmp_path, capfd, monkeypatch):
    every = cases(run)
    assert len(every) > 1000
    chosen = random.Random(5).sample(every, 12)
    try_cases(chosen, run, bomb, tmp_path, capfd, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_every_file_of_a_run_may_be_anything(part, run, bomb, tmp_path, capfd, monkeypatch):
    try_cases(cases(run)[part::8], run, bomb, tmp_path, capfd, monkeypatch)
