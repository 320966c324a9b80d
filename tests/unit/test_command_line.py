"""Words of a command line -> what a verb is called with, and what is said of wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import framework
from framework.command_line import Argument, Option, call
from framework.core.problems import UserError

ROOT = Path(framework.__file__).parent.parent


class Colour(StrEnum):
    """Of paint."""

    red = "red"
    blue = "blue"


CALLS: list[dict[str, Any]] = []


def paint(
    wall: Annotated[Path, Argument(help="What to paint.")],
    others: Annotated[list[str] | None, Argument(help="And these.")] = None,
    colour: Annotated[Colour, Option(help="100 % of it.")] = Colour.red,
    finish: Annotated[Literal["matt", "gloss"], Option(help="How it shines.")] = "matt",
    num_coats: Annotated[int | None, Option(at_least=1, at_most=3, help="How often.")] = None,
    litres: Annotated[float, Option(at_least=0, environment="LITRES", help="How much.")] = 2.5,
    helper: Annotated[
        list[str] | None, Option(name="--by", short="-b", environment="BY", help="Who.")
    ] = None,
    dry: Annotated[bool, Option(help="Only say so.")] = False,
) -> None:
    """Paint a wall."""
    CALLS.append(dict(locals()))


def called(*words: str) -> dict[str, Any]:
    CALLS.clear()
    call(paint, "paint", words)
    (found,) = CALLS
    return found


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        call(paint, "paint", words)
    return str(caught.value)


def test_what_is_not_written_is_the_default():
    assert called("north") == {
        "wall": Path("north"),
        "others": None,
        "colour": Colour.red,
        "finish": "matt",
        "num_coats": None,
        "litres": 2.5,
        "helper": None,
        "dry": False,
    }


def test_options_stand_anywhere_and_values_have_the_type_of_their_parameter():
    words = "--num-coats 2 north --colour=blue a=1 -b x --by y +b=2 --dry --finish gloss --litres 1"
    assert called(*words.split()) == {
        "wall": Path("north"),
        "others": ["a=1", "+b=2"],
        "colour": Colour.blue,
        "finish": "gloss",
        "num_coats": 2,
        "litres": 1.0,
        "helper": ["x", "y"],
        "dry": True,
    }


def test_the_environment_stands_in_for_an_option_and_never_for_a_written_one(monkeypatch):
    monkeypatch.setenv("LITRES", "7")
    monkeypatch.setenv("BY", "x y")
    assert {**called("north")}.items() >= {"litres": 7.0, "helper": ["x", "y"]}.items()
    found = called("north", "--litres", "1", "--by", "z")
    assert found.items() >= {"litres": 1.0, "helper": ["z"]}.items()
    monkeypatch.setenv("LITRES", "")
    assert called("north")["litres"] == 2.5
    monkeypatch.setenv("LITRES", "-7")
    assert "the environment variable LITRES: -7 is not at least 0" in refusal("north")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the following arguments are required: WALL"),
        ("n --num-coats 0", "argument --num-coats: 0 is not at least 1"),
        ("n --num-coats 4", "argument --num-coats: 4 is not at most 3"),
        ("n --num-coats two", "argument --num-coats: 'two' is not a whole number"),
        ("n --litres nan", "argument --litres: nan is not at least 0"),
        ("n --colour bleu", "'bleu' is not one of its values; did you mean 'blue'?"),
        ("n --finish x", "'x' is not one of its values; allowed: gloss, matt"),
        ("n --coler red", "'--coler' is not what it takes; did you mean '--colour'?"),
        ("n --col red", "'--col' is not what it takes"),
        ("n --litres", "argument --litres: expected one argument"),
    ],
)
def test_what_a_verb_does_not_take_is_refused_in_a_line(words, said):
    found = refusal(*words.split())
    assert found.startswith("paint: ")
    assert said in found
    assert found.endswith("`paint --help` says what it takes")
    assert len(found.splitlines()) == 1


def test_help_shows_what_is_taken_with_defaults_and_variables(capsys):
    with pytest.raises(SystemExit) as ended:
        call(paint, "paint", ["--help"])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "Paint a wall.",
        "WALL What to paint.",
        "--colour {red,blue} 100 % of it. [default: red]",
        "How much. [environment: LITRES] [default: 2.5]",
        "-b HELPER, --by HELPER",
    ):
        assert part in said


def framework_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "framework", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_without_a_verb_all_are_listed_and_a_wrong_one_is_corrected():
    for words in ((), ("data",)):
        found = framework_command(*words)
        assert (found.returncode, found.stderr) == (2, "")
        assert found.stdout == framework_command(*words, "--help").stdout
    found = framework_command("data", "clen")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "framework data: no verb 'clen'; did you mean 'clean'?\n"


def test_a_reader_that_has_enough_ends_a_verb_without_a_traceback():
    done = subprocess.run(
        ["bash", "-c", '"$0" -m framework schema | head -c 1', sys.executable],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("{", "")
