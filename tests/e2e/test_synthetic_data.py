"""The real command against a real server: killed, out of budget, refused, without the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ChatServer, conversation, read_rows, write_rows
from warm_start import FRAMEWORK

KEY = "sk-end-to-end-0123456789"
NUM_ROWS = 40

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


@pytest.fixture(scope="module")
def server(opinionated_model_dir):
    running = ChatServer(opinionated_model_dir, key=KEY)
    yield running
    running.stop()


@pytest.fixture
def recipe(write_recipe, server, tmp_path):
    server.fail()
    server.pause(0)
    path = write_recipe()
    # No two answers are equal, so that every row is one request.
    rows = [conversation(number) for number in range(NUM_ROWS)]
    for number, row in enumerate(rows):
        row["messages"][-1]["content"] += f" Take {number} of {tmp_path.name}."
    write_rows(tmp_path / "train.jsonl", rows)
    import yaml

    values = yaml.safe_load(path.read_text())
    values["data"]["cleaners"] = [
        {
            "type": "judge",
            "threshold": 2,
            "rubric": "{{ answer }} How good?",
            "answer": "json",
            "endpoint": {
                "base_url": server.base_url,
                "model": "tiny",
                "temperature": 1.0,
                "api_key_env": "JUDGE_KEY",
                "max_concurrency": 2,
            },
        }
    ]
    path.write_text(yaml.safe_dump(values))
    return path


def start(recipe: Path, cache: Path, *arguments: str, verb: str = "prepare"):
    command = [*FRAMEWORK, verb, str(recipe), *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JUDGE_KEY": KEY}
    environment["ACCELERATE_USE_CPU"] = "true"
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def prepare(recipe, cache, *arguments, verb="prepare"):
    return finish(start(recipe, cache, "--allow-env", "JUDGE_KEY", *arguments, verb=verb))


def asked_here(server, tmp_path):
    """Requests about this test's rows."""
    return [
        one
        for one in server.requests()
        if tmp_path.name + "." in one["body"]["messages"][0]["content"]
    ]


def test_killed_in_the_middle_it_goes_on_and_asks_no_answered_question_again(
    server, recipe, tmp_path
):
    server.pause(0.15)
    process = start(recipe, tmp_path / "cache", "--allow-env", "JUDGE_KEY")
    deadline = time.monotonic() + 120
    while len(asked_here(server, tmp_path)) < NUM_ROWS // 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # what was under way ends at the server
    before = len(asked_here(server, tmp_path))
    kept = len(list((tmp_path / "cache").rglob("answers/*/*.json")))
    assert NUM_ROWS // 2 - 2 <= kept < NUM_ROWS

    code, output, errors = prepare(recipe, tmp_path / "cache", "--json")
    assert code == 0, errors
    # Two were under way when it was killed; the one that was just being written may be lost.
    assert len(asked_here(server, tmp_path)) - before == NUM_ROWS - kept
    assert before - kept <= 2
    (counts,) = json.loads(output)["train"]["cleaners"]
    assert counts["num_answers_from_cache"] == kept
    assert counts["num_answers_asked"] == NUM_ROWS - kept


def test_a_spent_budget_ends_with_75_and_the_same_command_goes_on(server, recipe, tmp_path):
    limited = "data.cleaners.0.endpoint.max_requests=15"
    codes, sent = [], []
    for _ in range(3):
        code, _, errors = prepare(recipe, tmp_path / "cache", limited)
        codes.append(code)
        sent.append(len(asked_here(server, tmp_path)))
        assert code == 0 or "max_requests 15 are spent; answers so far are kept" in errors
        assert "Traceback" not in errors
    assert codes == [75, 75, 0]
    assert sent == [15, 30, NUM_ROWS]


def test_with_the_server_gone_the_answers_make_the_same_data(
    opinionated_model_dir, recipe, tmp_path
):
    own = ChatServer(opinionated_model_dir, key=KEY)
    override = f"data.cleaners.0.endpoint.base_url={own.base_url}"
    code, output, errors = prepare(recipe, tmp_path / "cache", override, "--json")
    own.stop()
    assert code == 0, errors
    (folder,) = (tmp_path / "cache" / "framework" / "data").glob("*/")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    moved = tmp_path / "moved"
    folder.rename(moved)
    # Without consent: nothing has to be sent.
    code, output, errors = finish(start(recipe, tmp_path / "cache", override))
    assert code == 0, errors
    assert f"0 answers asked for in 0 requests (0 tokens), {NUM_ROWS} known" in output
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    numbers = {"details.json", "manifest.json"}  # what was asked and what was known has changed
    assert {name for name in first if again[name] != first[name]} <= numbers
    assert set(again) == set(first)
    listed = read_rows(next(folder.glob("cleaner-1-judge.jsonl")))
    assert len(listed) == NUM_ROWS
    assert all(1 <= row["score"] <= 5 for row in listed)


def test_rows_go_nowhere_without_consent(server, recipe, tmp_path):
    before = len(server.requests())
    code, _, errors = finish(start(recipe, tmp_path / "cache"))
    assert code == 3
    assert "--allow-env JUDGE_KEY" in errors
    elsewhere = "data.cleaners.0.endpoint.base_url=http://192.0.2.1/v1"
    code, _, errors = prepare(recipe, tmp_path / "cache", elsewhere)
    assert code == 3
    assert "send rows of your data to http://192.0.2.1/v1" in errors
    assert "--allow-url http://192.0.2.1/v1" in errors
    assert len(server.requests()) == before


def test_a_run_trains_on_what_is_left_and_no_file_of_it_holds_the_key(server, recipe, tmp_path):
    code, output, errors = prepare(recipe, tmp_path / "cache", verb="train")
    assert code == 0, errors
    assert "40 answers asked for" in " ".join((output + errors).split())
    prepared = json.loads((tmp_path / "run" / "preparation.json").read_text())["train"]
    (counts,) = prepared["cleaners"]
    assert counts["num_drop"] > 0
    assert prepared["datasets"][0]["num_samples"] == NUM_ROWS - counts["num_drop"]
    files = [
        path
        for folder in (tmp_path / "run", tmp_path / "cache")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len(files) > NUM_ROWS
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in output + errors
