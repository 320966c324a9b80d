"""jsonl, json, csv and text: rows, numbers and messages."""

import gzip
import json
import re
import sys
from pathlib import Path

import pytest

from framework.core.problems import Problem, UserError
from framework.data_sources.csv import Csv
from framework.data_sources.json import Json
from framework.data_sources.jsonl import Jsonl
from framework.data_sources.text import Text


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows_of(source) -> list:
    """The rows, without the broken ones."""
    return [(number, row) for number, row in source.rows() if not isinstance(row, Problem)]


def problems_of(source) -> list:
    """Those in the place of broken rows; they stand where their row's number points."""
    numbered = [(number, row) for number, row in source.rows() if isinstance(row, Problem)]
    assert [source.place(number) for number, _ in numbered] == [
        (p.file, p.line) for _, p in numbered
    ]
    return [problem for _, problem in numbered]


def problem_of(source) -> Problem:
    """The one that ends the reading."""
    with pytest.raises(UserError) as caught:
        list(source.rows())
    (problem,) = caught.value.problems
    return problem


def test_jsonl_rows_carry_their_line_numbers_and_blank_lines_are_passed_over(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n\n  \n{"a": "é"}')
    assert list(Jsonl(path=path).rows()) == [(1, {"a": 1}), (4, {"a": "é"})]


def test_byte_order_mark_and_windows_line_ends_are_dropped(tmp_path):
    path = written(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [row for _, row in Jsonl(path=path).rows()] == [{"a": 1}, {"a": 2}]


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"a": "x\u2028y\x85z"}\n')
    assert list(Jsonl(path=path).rows()) == [(1, {"a": "x\u2028y\x85z"})]


def test_gzipped_jsonl_is_unpacked(tmp_path):
    path = written(tmp_path, "a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert [row["a"] for _, row in Jsonl(path=path).rows()] == [1, 2]


def test_a_cut_gzip_is_a_problem_of_its_file(tmp_path):
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(5000)))
    path = written(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2])
    problem = problem_of(Jsonl(path=path))
    assert problem.file == path
    lines = int(re.search(r"can't be read after line ([\d,]+): ", problem.what)[1].replace(",", ""))
    assert 1000 < lines < 4000


def test_every_broken_line_has_its_problem_in_its_place(tmp_path):
    lines = ['{"a": 1}', '{"a": 1,}', "[1]", '{"a": 2}', '{"b": "\\ud800"}', '{"a": 1, "a": 2}']
    path = written(tmp_path, "a.jsonl", "\n".join(lines))
    assert rows_of(Jsonl(path=path)) == [(1, {"a": 1}), (4, {"a": 2})]
    found = problems_of(Jsonl(path=path))
    assert [(problem.file, problem.line) for problem in found] == [
        (path, line) for line in (2, 3, 5, 6)
    ]
    assert found[0].column == 9
    assert "}" in found[0].what
    assert "a list, not an object" in found[1].what
    assert "surrogate" in found[2].what
    assert "'a' twice" in found[3].what


def test_a_file_of_broken_lines_alone_ends_the_reading_with_their_number_and_the_first(tmp_path):
    problem = problem_of(Jsonl(path=written(tmp_path, "a.jsonl", "{\n" * 500)))
    assert (problem.line, problem.column) == (1, 1)
    assert "not one of its 500 rows can be read; the first: broken JSON" in problem.what


def test_a_line_that_is_not_utf8_names_line_byte_and_offset(tmp_path):
    path = written(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n{"a": 3}\n')
    (problem,) = problems_of(Jsonl(path=path))
    assert rows_of(Jsonl(path=path)) == [(1, {"a": 1}), (3, {"a": 3})]
    assert (problem.line, problem.file) == (2, path)
    assert "0xe9 at offset 10" in problem.what
    assert "iconv" in problem.hint


def test_utf16_is_recognised(tmp_path):
    utf16 = '{"a": 1}\n{"a": 2}'.encode("utf-16")
    problem = problem_of(Jsonl(path=written(tmp_path, "a.jsonl", utf16)))
    assert "UTF-16" in problem.hint
    unmarked = problem_of(Jsonl(path=written(tmp_path, "b.jsonl", utf16[2:])))
    assert "NUL" in unmarked.what
    assert "UTF-16" in unmarked.hint


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "csv"])
def test_a_line_with_a_nul_is_broken(tmp_path, suffix):
    (component,) = [
        kind for kind in (Jsonl, Text, Csv) if kind.from_locator(f"a.{suffix}") is not None
    ]
    path = written(tmp_path, f"a.{suffix}", '{"a":1}\n{"a":2}\n{"a":\x003}\n')
    assert len(rows_of(component(path=path))) == (1 if suffix == "csv" else 2)
    (problem,) = problems_of(component(path=path))
    assert "NUL character, at offset 5 of the line" in problem.what


def test_a_number_beyond_what_python_reads_is_a_broken_row(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}\n")
    (problem,) = problems_of(Jsonl(path=path))
    assert "number of more than 4,300 digits" in problem.what


def test_json_nested_beyond_the_parser_is_a_problem(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "nested too deeply" in problem_of(Jsonl(path=path)).what


@pytest.mark.parametrize("text", ['{\n  "a": 1\n}\n', '{"a": 1,\n "b": 2}\n{"a": 1,\n "b": 2}\n'])
def test_objects_over_several_lines_get_a_hint(tmp_path, text):
    problem = problem_of(Jsonl(path=written(tmp_path, "a.jsonl", text)))
    assert "each object has to stand on one line: `jq --compact-output" in problem.hint
    assert "`type: json`" in problem.hint


@pytest.mark.parametrize("text", ['[\n{"a": 1}\n]', '[{"a": 1}]'])
def test_a_json_list_read_as_lines_gets_the_right_component_named(tmp_path, text):
    source = Jsonl(path=written(tmp_path, "a.jsonl", text))
    first = problems_of(source)[0] if "\n" in text else problem_of(source)
    assert "`type: json`" in first.hint


@pytest.mark.parametrize(
    "source",
    [
        lambda path: Jsonl(path=path),
        lambda path: Json(path=path),
        lambda path: Csv(path=path),
        lambda path: Text(path=path),
        lambda path: Text(path=path, unit="paragraph"),
        lambda path: Text(path=path, unit="file"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_a_problem(tmp_path, source, content):
    path = written(tmp_path, "empty.any", content)
    problem = problem_of(source(path))
    assert problem.file == path
    assert "empty" in problem.what or "no rows" in problem.what


def test_json_takes_a_list_or_the_only_list_of_an_object(tmp_path):
    rows = [{"a": 1}, {"a": 2}]
    plain = written(tmp_path, "plain.json", json.dumps(rows))
    inside = written(tmp_path, "inside.json", json.dumps({"version": 1, "data": rows}))
    assert list(Json(path=plain).rows()) == list(Json(path=inside).rows())
    assert list(Json(path=plain).rows()) == [(1, {"a": 1}), (2, {"a": 2})]


def test_json_with_several_lists_asks_for_the_field(tmp_path):
    content = {"train": [{"a": 1}], "valid": [{"a": 2}]}
    path = written(tmp_path, "a.json", json.dumps(content))
    problem = problem_of(Json(path=path))
    assert "train, valid" in problem.what
    assert problem.hint == "choose one: `field: train`"
    assert list(Json(path=path, field="valid").rows()) == [(1, {"a": 2})]
    assert "did you mean 'valid'" in problem_of(Json(path=path, field="valit")).hint


@pytest.mark.parametrize(
    ("content", "field", "what"),
    [
        ("3", "", "a number, not a list"),
        ('{"a": 1}', "", "without a list"),
        ('[{"a": 1}]', "data", "the file is a list"),
        ("[1, 2, null]", "", "not one of its 3 rows can be read; the first: item 1"),
        ('[{"a": 1},\n {"a": }]', "", "Expecting value"),
    ],
)
def test_json_that_is_no_list_of_objects_is_a_problem(tmp_path, content, field, what):
    path = written(tmp_path, "a.json", content)
    assert what in problem_of(Json(path=path, field=field)).what


def test_items_of_a_json_list_that_are_no_objects_are_broken_rows(tmp_path):
    source = Json(path=written(tmp_path, "a.json", '[{"a": 1}, 2, {"a": 3}, null]'))
    assert rows_of(source) == [(1, {"a": 1}), (3, {"a": 3})]
    assert [problem.what for problem in problems_of(source)] == [
        "item 2 of the list is a number, not an object",
        "item 4 of the list is null, not an object",
    ]


@pytest.mark.parametrize("inside", ["", "rows"])
def test_items_of_a_json_list_that_no_two_readers_read_alike_are_broken_rows(tmp_path, inside):
    items = ['{"a": 1}', '{"a": [{"b": 1, "b": 2}]}', '{"\\ud800": 1}', f'{{"a": {"9" * 5000}}}']
    text = f"[{', '.join(items)}]"
    source = Json(path=written(tmp_path, "a.json", f'{{"rows": {text}}}' if inside else text))
    assert rows_of(source) == [(1, {"a": 1})]
    twice, half, long = (problem.what for problem in problems_of(source))
    assert twice == "item 2 of the list writes the key 'b' twice in one object"
    assert half.startswith("item 3 of the list escapes half of a surrogate pair")
    assert long == "item 4 of the list holds a number of more than 4,300 digits"


def test_a_repeated_key_around_the_list_is_a_fault_of_the_file(tmp_path):
    path = written(tmp_path, "a.json", '{"rows": [{"a": 1}], "rows": [{"a": 2}]}')
    assert problem_of(Json(path=path)).what == "the file writes the key 'rows' twice in one object"
    path = written(tmp_path, "a.json", '{"rows": [{"a": 1}], "about": {"b": 1, "b": 2}}')
    assert problem_of(Json(path=path)).what == "the file writes the key 'b' twice in one object"


def test_broken_json_names_line_and_column(tmp_path):
    problem = problem_of(Json(path=written(tmp_path, "a.json", '[{"a": 1},\n {"a": }]')))
    assert (problem.line, problem.column) == (2, 8)


def test_lines_read_as_one_json_get_the_right_component_named(tmp_path):
    problem = problem_of(Json(path=written(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n')))
    assert "`type: jsonl`" in problem.hint


def test_csv_rows_start_at_their_line_and_keep_line_ends_in_quotes(tmp_path):
    path = written(tmp_path, "a.csv", b'\xef\xbb\xbfq,a\r\n"two\r\nlines",1\r\n\r\nx,"""y"""\r\n')
    assert list(Csv(path=path).rows()) == [
        (2, {"q": "two\r\nlines", "a": "1"}),
        (5, {"q": "x", "a": '"y"'}),
    ]


def test_csv_delimiter_is_a_tab_in_tsv_files_or_as_chosen(tmp_path):
    assert list(Csv(path=written(tmp_path, "a.tsv", "q\ta\n1,5\t2\n")).rows()) == [
        (2, {"q": "1,5", "a": "2"})
    ]
    chosen = Csv(path=written(tmp_path, "a.csv", "q;a\n1,5;2\n"), delimiter=";")
    assert list(chosen.rows()) == [(2, {"q": "1,5", "a": "2"})]


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [
        ("a.csv", "q;a\n1,5;2\n", '";"'),
        ("a.csv", "q\ta\n1\t2\n", r'"\t"'),
        ("a.csv", "q|a\n1|2\n", '"|"'),
        ("a.tsv", "q,a\n1,2\n", '","'),
    ],
)
def test_a_csv_with_another_delimiter_is_answered_with_what_to_write(
    tmp_path, name, text, delimiter
):
    path = written(tmp_path, name, text)
    problem = problem_of(Csv(path=path))
    assert "the header is the one name" in problem.what
    assert f"write `source: {{type: csv, path: {path}, delimiter: {delimiter}}}`" in problem.hint


def test_a_name_that_holds_a_delimiter_is_read_when_the_recipe_says_so(tmp_path):
    path = written(tmp_path, "a.csv", "q;a\n1;2\n")
    assert list(Csv(path=path, delimiter=",").rows()) == [(2, {"q;a": "1;2"})]


def test_csv_goes_on_after_rows_that_are_ragged_not_utf8_or_badly_quoted(tmp_path):
    content = b'q,a\n1,2\n3\n4,5,6\n"caf\xe9\nx",1\n"a"b,2\n7,8\n'
    source = Csv(path=written(tmp_path, "a.csv", content))
    assert rows_of(source) == [(2, {"q": "1", "a": "2"}), (8, {"q": "7", "a": "8"})]
    ragged, long, latin, quoted = problems_of(source)
    assert "1 values, the header has 2" in ragged.what
    assert "3 values" in long.what
    assert "not UTF-8: byte 0xe9" in latin.what
    assert "broken CSV" in quoted.what


def test_csv_of_which_no_one_knows_where_the_next_row_begins_ends_the_reading(tmp_path):
    path = written(tmp_path, "a.csv", 'q,a\n1,2\n"3,4\n5,6\n7,"8"\n9,0\n')
    problem = problem_of(Csv(path=path))
    assert problem.line == 3
    assert "broken CSV" in problem.what


def test_csv_header_must_not_repeat_a_name(tmp_path):
    problem = problem_of(Csv(path=written(tmp_path, "a.csv", "q,a,q\n1,2,3\n")))
    assert "'q' more than once" in problem.what
    assert problem.line == 1


def test_csv_with_an_open_quote_names_the_row_that_opens_it(tmp_path):
    problem = problem_of(Csv(path=written(tmp_path, "a.csv", 'q,a\n1,2\n"3,4\n5,6\n')))
    assert problem.line == 3
    assert "broken CSV" in problem.what


def test_csv_takes_fields_longer_than_pythons_limit(tmp_path):
    long = "x" * 300_000
    assert list(Csv(path=written(tmp_path, "a.csv", f"q\n{long}\n")).rows()) == [(2, {"q": long})]


def test_text_by_line_paragraph_and_file(tmp_path):
    path = written(tmp_path, "a.txt", "one\r\ntwo\r\n\r\n \r\n  three\r\n")
    assert list(Text(path=path).rows()) == [
        (1, {"text": "one"}),
        (2, {"text": "two"}),
        (5, {"text": "  three"}),
    ]
    assert list(Text(path=path, unit="paragraph").rows()) == [
        (1, {"text": "one\ntwo"}),
        (5, {"text": "  three"}),
    ]
    assert list(Text(path=path, unit="file").rows()) == [(1, {"text": "one\ntwo\n\n \n  three\n"})]


def test_a_paragraph_with_a_broken_line_is_broken_as_a_whole(tmp_path):
    path = written(tmp_path, "a.txt", b"one\n\ntwo\ncaf\xe9\nthree\n\nfour\n")
    source = Text(path=path, unit="paragraph")
    assert rows_of(source) == [(1, {"text": "one"}), (7, {"text": "four"})]
    ((number, problem),) = [found for found in source.rows() if isinstance(found[1], Problem)]
    assert (number, problem.line) == (3, 4)


def test_a_markdown_locator_is_one_document_per_file():
    assert Text.from_locator("notes/*.md") == {"path": "notes/*.md", "unit": "file"}
    assert Text.from_locator("notes.txt") == {"path": "notes.txt", "unit": "line"}


def test_jsonl_is_streamed(tmp_path):
    """A row comes before the rest of its file is read, here: before the part that is broken."""
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n' * 200_000 + "{")
    rows = Jsonl(path=path).rows()
    for number in range(1, 200_001):
        assert next(rows) == (number, {"a": 1})
    assert isinstance(next(rows)[1], Problem)


def test_importing_sources_and_formats_imports_no_heavy_library():
    import subprocess

    code = (
        "import sys; from framework.core.registries import registry;"
        "[registry(kind).entries() for kind in ('data_sources', 'formatters')];"
        "print({'torch', 'datasets', 'pyarrow', 'transformers', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
