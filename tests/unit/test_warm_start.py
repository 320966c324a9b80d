"""The tests' own way to start commands: what it starts is what `python -m framework` is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_start import FRAMEWORK

pytestmark = pytest.mark.usefixtures("warm")
COLD = (sys.executable, "-m", "framework")


def both(*arguments: str, **settings) -> list[subprocess.CompletedProcess[str]]:
    """The same command with its imports, and without."""
    settings = {"capture_output": True, "text": True, **settings}
    return [
        subprocess.run([*start, *arguments], check=False, **settings) for start in (COLD, FRAMEWORK)
    ]


def test_output_errors_exit_code_folder_and_environment_are_the_same(write_recipe, tmp_path):
    write_recipe(output={"dir": "${oc.env:PLACE}"})
    environment = {**os.environ, "PLACE": "there"}
    for arguments in (
        ("explain", "recipe.yaml", "output.dir", "--allow-env", "PLACE"),
        ("check", "recipe.yaml"),
        ("check", "missing.yaml"),
    ):
        cold, warm = both(*arguments, cwd=tmp_path, env=environment)
        assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
        assert warm.stderr == cold.stderr
    assert cold.returncode != 0


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def children_of_the_server() -> set[int]:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    server = next(
        one for one in own if b"--serve" in Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
    )
    return set(map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it_and_it_dies_with_what_was_started(write_recipe, tmp_path, number):
    recipe = write_recipe(trainer={"max_steps": 100_000})
    process = subprocess.Popen(
        [*FRAMEWORK, "train", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (pid,) = children_of_the_server()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (75 if number == signal.SIGTERM else -number)
    assert (b"the state is saved" in said) is (number == signal.SIGTERM)
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_what_is_typed_reaches_it(tiny_model_dir):
    for done in both("chat", str(tiny_model_dir), input=":quit\n", timeout=120):
        assert done.returncode in (0, 2), done.stderr
