"""Paths, numbers over several files, and fingerprints."""

import pytest

from framework.core.problems import Problem, UserError
from framework.data_sources.csv import Csv
from framework.data_sources.json import Json
from framework.data_sources.jsonl import Jsonl
from framework.reading.files import last_line, place_row, resolve_files, source_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"n": 3}\n')
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n\n\n')
    (tmp_path / "notes.json").write_text("[]")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jsonl").write_text('{"n": 4}\n')
    return tmp_path


def test_a_folder_and_a_pattern_give_files_in_sorted_order(folder):
    names = [file.name for file in resolve_files(str(folder), "jsonl")]
    assert names == ["a.jsonl", "b.jsonl"]
    deep = [file.name for file in resolve_files(f"{folder}/**/*.jsonl", "jsonl")]
    assert deep == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_relative_pattern_and_a_home_path_are_found(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert len(resolve_files("*.jsonl", "jsonl")) == 2
    assert resolve_files("~/a.jsonl", "jsonl") == (folder / "a.jsonl",)


def test_a_file_whose_name_holds_pattern_letters_is_that_file(tmp_path):
    file = tmp_path / "a[1].jsonl"
    file.write_text('{"n": 1}\n')
    assert resolve_files(str(file), "jsonl") == (file,)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a.josnl", "did you mean {folder}/a.jsonl?"),
        ("deap/c.jsonl", "did you mean {folder}/deep?"),
        ("zzz/yyy/xxx.jsonl", "there is no folder {folder}/zzz"),
        ("zzz", "{folder} holds a.jsonl, b.jsonl, deep, notes.json"),
        ("*.parquet", "no file matches"),
        ("a**/x", "can't be searched"),
    ],
)
def test_a_missing_file_names_the_nearest_thing(folder, path, said):
    with pytest.raises(UserError) as caught:
        resolve_files(f"{folder}/{path}", "jsonl")
    assert said.format(folder=folder) in str(caught.value)


def test_a_folder_without_such_files_names_the_source_that_fits(folder):
    with pytest.raises(UserError, match=r"holds a\.jsonl: write `type: jsonl`"):
        resolve_files(str(folder), "csv")


def test_numbers_go_on_through_several_files_and_are_placed_again(folder):
    source = Jsonl(path=f"{folder}/**/*.jsonl")
    rows = list(source.rows())
    assert rows == [(1, {"n": 1}), (3, {"n": 2}), (4, {"n": 3}), (5, {"n": 4})]
    places = [source.place(number) for number, _ in rows]
    assert places == [
        (str(folder / "a.jsonl"), 1),
        (str(folder / "a.jsonl"), 3),
        (str(folder / "b.jsonl"), 1),
        (str(folder / "deep" / "c.jsonl"), 1),
    ]


def test_one_file_is_placed_without_being_read(tmp_path):
    assert place_row((tmp_path / "missing",), last_line, 7) == (
        str(tmp_path / "missing"),
        7,
    )


def test_broken_rows_of_several_files_have_numbers_like_all_others(folder):
    (folder / "a.jsonl").write_text('{"n": 1}\n{\n')
    (folder / "b.jsonl").write_text('[]\n\n{"n": 3}\n')
    rows = list(Jsonl(path=str(folder)).rows())
    assert [number for number, _ in rows] == [1, 2, 3, 5]
    problems = [row for _, row in rows if isinstance(row, Problem)]
    assert [(problem.file, problem.line) for problem in problems] == [
        (str(folder / "a.jsonl"), 2),
        (str(folder / "b.jsonl"), 1),
    ]


def test_an_empty_file_among_others_is_a_problem(folder):
    (folder / "b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"b\.jsonl: holds no rows"):
        list(Jsonl(path=str(folder)).rows())


def test_a_fingerprint_follows_bytes_and_options_but_not_names(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("q,a\n1,2\n")
    second.write_text("q,a\n1,2\n")
    fingerprint = Csv(path=str(first)).fingerprint()
    assert Csv(path=str(second)).fingerprint() == fingerprint
    assert Csv(path=str(first), delimiter=";").fingerprint() != fingerprint
    assert Json(path=str(first)).fingerprint() != fingerprint
    second.write_text("q,a\n1,3\n")
    assert Csv(path=str(second)).fingerprint() != fingerprint


def test_moving_a_row_to_the_next_file_changes_the_fingerprint(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("{}\n{}\n")
    second.write_text("{}\n")
    before = Jsonl(path=str(tmp_path)).fingerprint()
    first.write_text("{}\n")
    second.write_text("{}\n{}\n")
    assert Jsonl(path=str(tmp_path)).fingerprint() != before


def test_addresses_are_no_files():
    assert source_of("https://example.org/a.jsonl") is None
    assert source_of("A.JSONL") == "jsonl"
