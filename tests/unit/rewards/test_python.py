"""A function of the user's: refused unless allowed, and kept within its limits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from warm_start import FRAMEWORK

from framework.core.problems import Refused, RunFailed, UserError
from framework.core.rollouts import Answer, Prompt
from framework.core.samples import Message
from framework.recipe.resolve import resolve
from framework.rewards.python import Python

pytestmark = pytest.mark.usefixtures("warm")

GOOD = """
def reward(prompt, completion, columns):
    print("a line that is no reply")
    return len(completion) + columns["bonus"] + len(prompt[0]["content"])
"""
ENDLESS = "import time\ndef reward(*_):\n    time.sleep(60)\n"
BUSY = "def reward(*_):\n    while True: pass\n"
GREEDY = "def reward(*_):\n    return len(bytearray(10 ** 10))\n"
FAILING = "def reward(*_):\n    raise ValueError('no such thing')\n"
WORDY = "def reward(*_):\n    return 'good'\n"
SILENT = "def reward(*_):\n    pass\n"
OF_LISTS = "def reward(completions):\n    return [1.0 for _ in completions]\n"
ENDING = "import os\ndef reward(*_):\n    os._exit(5)\n"


def written(folder: Path, source: str, **settings: object) -> Python:
    path = folder / "own.py"
    path.write_text(source)
    known = hashlib.sha256(source.encode()).hexdigest()
    return Python(**{"path": str(path), "sha256": known, **settings})


def answers(*texts: str, bonus: float = 0.5) -> list[Answer]:
    asked = (Message(role="user", content="How?"),)
    prompt = Prompt(identifier="t:1", tokens=(1,), messages=asked, columns={"bonus": bonus})
    return [Answer(prompt=prompt, tokens=(7,), text=text, truncated=False) for text in texts]


def test_an_allowed_function_scores_every_answer_in_order(tmp_path):
    score = written(tmp_path, GOOD).start("cpu")
    assert list(score(answers("", "ab"))) == [4.5, 6.5]
    assert list(score(answers("abc"))) == [7.5]


@pytest.mark.parametrize("given", [None, "0" * 64])
def test_what_the_recipe_does_not_allow_is_refused_with_the_line_to_write(
    given, tmp_path, write_online
):
    marker = tmp_path / "it-ran"
    source = f"open({str(marker)!r}, 'w')\n{GOOD}"
    own = written(tmp_path, source)
    wanted = f"write sha256: {own.sha256}"
    with pytest.raises(Refused, match=wanted):
        written(tmp_path, source, sha256=given).start("cpu")
    hashed = {} if given is None else {"sha256": given}
    path = write_online("grpo", rewards=[{"type": "python", "path": "own.py", **hashed}])
    for verb in ("check", "train"):
        ended = subprocess.run(
            [*FRAMEWORK, verb, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 3, ended.stderr
        assert wanted in ended.stderr
        assert "Traceback" not in ended.stderr
        assert f"{path}:" in ended.stderr
        assert "trainer.rewards[0].sha256: " in ended.stderr
    assert not marker.exists()


def test_a_file_that_was_changed_after_it_was_allowed_is_refused(tmp_path):
    reward = written(tmp_path, GOOD)
    Path(reward.path).write_text(GOOD + "\n")
    with pytest.raises(Refused, match="it was changed"):
        reward.start("cpu")


def test_a_file_that_is_missing_is_a_problem_of_its_key(write_online):
    path = write_online("grpo", rewards=[{"type": "python", "path": "no.py", "sha256": "0"}])
    with pytest.raises(UserError, match=r"trainer.rewards\[0\].path: .*no.py' can't be read"):
        resolve(path)


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (ENDLESS, {"timeout_seconds": 0.5}, "took longer than 0.5 s"),
        (BUSY, {"cpu_seconds": 1, "timeout_seconds": 30}, "ended by signal"),
        (GREEDY, {"memory_bytes": 256 << 20}, "MemoryError"),
        (FAILING, {}, "no such thing"),
        (WORDY, {}, "reward returned 'good', which is no number"),
        (SILENT, {}, "reward returned None, which is no number"),
        (OF_LISTS, {}, r"reward\(\) takes 1 positional argument but 3 were given"),
        (ENDING, {}, "ended"),
    ],
    ids=["timeout", "processor time", "memory", "crash", "text", "nothing", "lists", "exit"],
)
def test_a_function_that_fails_or_exceeds_a_limit_ends_the_run_with_what_it_said(
    source, settings, message, tmp_path
):
    score = written(tmp_path, source, **settings).start("cpu")
    with pytest.raises(RunFailed, match=message) as caught:
        score(answers("a"))
    assert "own.py" in str(caught.value)
    assert "<string>" not in str(caught.value)  # frames of what called it
    assert caught.value.problems[0].hint


@pytest.mark.parametrize("source", ["def other(): pass", "1 / 0", "def broken("])
def test_a_file_that_does_not_load_is_said_before_anything_is_trained(source, tmp_path):
    with pytest.raises(UserError, match=r"own.py ended"):
        written(tmp_path, source).start("cpu")


def test_a_file_without_the_function_is_told_which_it_has(tmp_path):
    source = "import os\ndef score(*_): return 1\n"
    with pytest.raises(UserError, match="it defines no function 'reward', only: score"):
        written(tmp_path, source).start("cpu")


def test_the_process_sees_no_variables_of_the_user_and_imports_no_neighbour(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.chdir(tmp_path)
    source = """
import os
try:
    import neighbour
    found = 1.0
except ImportError:
    found = 0.0
def reward(*_):
    return found + 10 * ("SECRET_TOKEN" in os.environ)
"""
    assert list(written(tmp_path, source).start("cpu")(answers("a"))) == [0.0]


def test_the_process_ends_when_nobody_needs_it_any_more(tmp_path):
    source = "import os\ndef reward(*_): return os.getpid()\n"
    score = written(tmp_path, source).start("cpu")
    (number,) = score(answers("a"))
    assert is_running(int(number))
    del score
    end = time.monotonic() + 10
    while is_running(int(number)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(int(number))


def is_running(number: int) -> bool:
    """Not ended; an ended process that nobody waited for is a zombie."""
    try:
        os.kill(number, 0)
        return Path(f"/proc/{number}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
