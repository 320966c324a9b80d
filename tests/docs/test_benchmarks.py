"""docs/benchmarks.md has the tables of benchmarks/, and contenders are measured side by side."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import framework

ROOT = Path(framework.__file__).parent.parent
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))

import harness  # noqa: E402
from contenders.protocol import Job  # noqa: E402

TABLES = sorted(path.stem for path in (FOLDER / "tables").glob("*.py"))

CONTENDER = f"""
import sys, time
sys.path.insert(0, {str(FOLDER / "contenders")!r})
from pathlib import Path
from protocol import Turns, read_job
job = read_job()
turns = Turns(("pip",))
print("what a library says")
turns.begin(dtypes="float32")
while True:
    started = time.process_time()
    with open(job.rows, "a") as stream:
        stream.write(job.variant)
    while time.process_time() - started < 0.01 * int(job.variant):
        pass
    time.sleep(0.05)
    turns.end_step(num_tokens=100, num_trained_tokens=50, loss=1.0)
"""


def test_every_table_has_its_place_on_the_page_and_its_line_in_the_readme():
    page = harness.PAGE.read_text(encoding="utf-8")
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(TABLES) == 10
    assert sorted(re.findall(r"<!-- table (\w+) -->", page)) == TABLES
    assert sorted(re.findall(r"<!-- end of (\w+) -->", page)) == TABLES
    assert [name for name in TABLES if f"| `{name}` |" not in readme] == []


def test_a_table_takes_its_own_place_and_no_other(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# a\n<!-- table one -->\nold\n<!-- end of one -->\nb\n<!-- table two -->\n"
        "<!-- end of two -->\n"
    )
    harness.write_table(page, "one", "new")
    assert page.read_text() == (
        "# a\n<!-- table one -->\nnew\n<!-- end of one -->\nb\n<!-- table two -->\n"
        "<!-- end of two -->\n"
    )
    with pytest.raises(ValueError, match="lacks the line '<!-- table three -->'"):
        harness.write_table(page, "three", "new")


def test_contenders_take_turns_and_only_their_own_cpu_time_counts(tmp_path: Path):
    (tmp_path / "busy.py").write_text(CONTENDER)
    order = tmp_path / "order.txt"
    contenders = [
        harness.Contender(title=name, script=str(tmp_path / "busy"), job={"variant": name})
        for name in ("3", "9")
    ]
    bench = harness.Bench(folder=tmp_path, data=tmp_path, rounds=3)
    measured = bench.in_turns(contenders, Job(folder="", model="", rows=str(order)))
    assert order.read_text() == "39" * 4
    assert [len(one.rounds) for one in measured.values()] == [3, 3]
    # Each waits for the other and sleeps, so by the clock both would be slower.
    assert measured["3"].rate == pytest.approx(100 / 0.03, rel=0.3)
    assert measured["9"].rate == pytest.approx(100 / 0.09, rel=0.3)
    assert measured["3"].wall_rate <= 100 / 0.08
    ratio = harness.training_table(measured).splitlines()[-1].split(" | ")[3]
    assert float(ratio.removesuffix("x")) == pytest.approx(3, rel=0.3)


def test_a_contender_that_fails_ends_the_run_with_what_it_said(tmp_path: Path):
    (tmp_path / "broken.py").write_text("raise ValueError('no such model')")
    bench = harness.Bench(folder=tmp_path, data=tmp_path, rounds=1)
    broken = harness.Contender(title="broken", script=str(tmp_path / "broken"))
    with pytest.raises(SystemExit, match=r"broken ended with 1:\n(.*\n)*.*no such model"):
        bench.in_turns([broken], Job(folder="", model="", rows=""))


def test_a_peer_without_its_environment_is_left_out_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FRAMEWORK_BENCHMARKS", str(tmp_path / "none"))
    bench = harness.Bench(folder=tmp_path, data=tmp_path, rounds=1)
    peer = harness.Contender(title="Axolotl", script="axolotl_train", environment="axolotl")
    assert bench.in_turns([peer], Job(folder="", model="", rows="")) == {}
    assert "Axolotl: not measured, its environment was not made." in harness.footer(bench, "x")
