"""Preparation counts every row's fate, is made once, and is made again when anything changes."""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import framework
from framework.core.problems import UserError
from framework.data.cache_key import code_files
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve
from framework.reports.preparation_lines import data_lines


def prepared(recipe, *overrides):
    return prepare_data(resolve(recipe, overrides))


def add_rows(tmp_path, *rows):
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def talk(answer, **extra):
    return {
        "messages": [
            {"role": "user", "content": "Say it."},
            {"role": "assistant", "content": answer, **extra},
        ]
    }


def test_what_trains_is_the_answer_and_its_stop_token(write_recipe):
    data = prepared(write_recipe())
    assert data.train.num_samples == 16
    for sample in range(16):
        (document,) = data.train.features(sample).documents
        pairs = zip(document.tokens, document.trained, strict=True)
        trained = [token for token, is_trained in pairs if is_trained]
        text = data.tokenizer.decode(trained)
        assert text.startswith("The capital of ")
        assert text.endswith("<|im_end|>")


def test_a_long_row_is_an_error_with_file_line_and_what_to_write(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, talk("long " * 200))
    with pytest.raises(UserError) as caught:
        prepared(recipe)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "train.jsonl"), 17)
    assert "data.max_length is 128" in problem.what
    assert "data.over_length: drop, truncate, split or windows" in problem.hint


@pytest.mark.parametrize(
    ("policy", "num_samples"), [("drop", 16), ("truncate", 17), ("windows", 23)]
)
def test_the_over_length_policy_is_kept_and_counted(write_recipe, tmp_path, policy, num_samples):
    recipe = write_recipe()
    add_rows(tmp_path, talk("long " * 200))
    data = prepared(recipe, f"data.over_length={policy}")
    (counts,) = data.train.details["datasets"]
    assert counts["num_over_length_rows"] == 1
    assert counts["over_length_rows"] == [17]
    assert data.train.num_samples == num_samples
    assert data.train.document_lengths().max() <= 128


def test_a_row_with_nothing_to_train_is_left_out_and_listed(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, talk("no", train=False))
    (counts,) = prepared(recipe).train.details["datasets"]
    assert (counts["num_untrained_rows"], counts["untrained_rows"]) == (1, [17])


def test_bad_rows_are_all_reported_or_skipped_and_listed(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, {"messages": "x"}, {"mesages": []}, talk("good"))
    with pytest.raises(UserError) as caught:
        prepared(recipe)
    assert [problem.line for problem in caught.value.problems] == [17, 18]
    (counts,) = prepared(recipe, "data.on_bad_row=skip").train.details["datasets"]
    assert (counts["num_skipped_rows"], counts["num_samples"]) == (2, 17)
    assert "train.jsonl:17" in counts["skipped_rows"][0]


def test_lines_that_are_no_json_or_not_utf8_are_bad_rows_like_others(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, {"messages": "x"})
    with (tmp_path / "train.jsonl").open("ab") as stream:
        stream.write(b'{"messages"\n{"caf\xe9": 1}\n')
    add_rows(tmp_path, talk("good"))
    with pytest.raises(UserError) as caught:
        prepared(recipe)
    assert [problem.line for problem in caught.value.problems] == [17, 18, 19]
    (counts,) = prepared(recipe, "data.on_bad_row=skip").train.details["datasets"]
    assert (counts["num_rows"], counts["num_skipped_rows"], counts["num_samples"]) == (20, 3, 17)
    assert [row.split("train.jsonl:")[1][:2] for row in counts["skipped_rows"]] == [
        "17",
        "18",
        "19",
    ]


def test_what_ends_the_reading_is_an_error_also_where_bad_rows_are_skipped(write_recipe, tmp_path):
    lines = "".join(json.dumps(talk(f"{n}")) + "\n" for n in range(300))
    content = gzip.compress(("{\n" + lines).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(content[: len(content) // 2])
    recipe = write_recipe(data={"train": [{"source": "./cut.jsonl.gz"}]})
    with pytest.raises(UserError) as caught:
        prepared(recipe)
    assert [problem.line for problem in caught.value.problems] == [1, 0]
    with pytest.raises(UserError, match=r"cut.jsonl.gz: can't be read after line \d+") as caught:
        prepared(recipe, "data.on_bad_row=skip")
    assert len(caught.value.problems) == 1


def test_a_dataset_of_which_no_row_fits_is_an_error_also_where_bad_rows_are_skipped(
    write_recipe, tmp_path
):
    other = tmp_path / "other.jsonl"
    other.write_text('{"mesages": []}\n{"a": 1}\n')
    recipe = write_recipe(data={"train": [{"source": "./train.jsonl"}, {"source": str(other)}]})
    with pytest.raises(UserError) as caught:
        prepared(recipe, "data.on_bad_row=skip")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(other), 1)
    assert "not one of 2 rows can be used; the first:" in problem.what


def refused(recipe, *overrides):
    with pytest.raises(UserError) as caught:
        prepared(recipe, *overrides)
    return caught.value.problems


def test_one_mistake_in_many_rows_is_said_once_with_the_first_row_and_their_number(
    write_recipe, tmp_path
):
    recipe = write_recipe()
    add_rows(tmp_path, *[{"messages": "x"}] * 2, {"a": 1}, *[{"messages": "x"}] * 48)
    wrong, other, in_all = refused(recipe)
    assert (wrong.file, wrong.line) == (str(tmp_path / "train.jsonl"), 17)
    assert wrong.what.endswith("(the same in 49 more rows)")
    assert other.line == 19
    assert "the same" not in other.what
    assert in_all.what == "51 rows in all can't be read or don't fit their format"
    assert in_all.hint.startswith("data.on_bad_row: skip")


def test_at_most_twenty_kinds_of_mistakes_are_listed_and_the_rest_counted(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, *[{f"column {number}": 1} for number in range(30)] * 2)
    problems = refused(recipe)
    assert [one.line for one in problems[:20]] == list(range(17, 37))
    assert all(one.what.endswith("(the same in 1 more row)") for one in problems[:20])
    assert [one.what for one in problems[20:]] == [
        "and 20 more rows with other problems",
        "60 rows in all can't be read or don't fit their format",
    ]


def test_rows_too_long_are_listed_with_one_hint_that_is_enough_for_all(write_recipe, tmp_path):
    recipe = write_recipe()
    add_rows(tmp_path, *[talk("long " * (60 + number)) for number in (*range(30), 5)])
    for workers in (1, 2):
        with pytest.raises(UserError) as caught:
            prepare_data(resolve(recipe, []), workers=workers)
        *rows, summary = caught.value.problems
        assert [one.line for one in rows] == [17, 18, 19, 20, 21]
        assert all("data.max_length is 128" in one.what and not one.hint for one in rows)
        assert summary.what.startswith("31 rows are longer than data.max_length 128; the longest (")
        assert f"{tmp_path / 'train.jsonl'}:46)" in summary.what
        enough = summary.hint.removeprefix("write data.max_length: ").split(",")[0]
        assert f"becomes {int(enough):,} tokens" in summary.what
        assert "on_bad_row" not in str(caught.value), "skipping leaves none of them out"
    assert prepared(recipe, f"data.max_length={enough}").train.num_samples == 47
    assert len(refused(recipe, f"data.max_length={int(enough) - 1}")) == 1


def test_skipping_is_advised_only_where_it_would_help(write_recipe, tmp_path):
    rows = [
        talk(f"The {number} words that are in both files, held out and trained.")
        for number in range(30)
    ]
    add_rows(tmp_path, *rows)
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = write_recipe(data={"eval": [{"source": "./both.jsonl"}]})
    problems = refused(recipe, "data.cleaners=[{type: contamination, similarity: null}]")
    assert len(problems) == 21
    assert "both.jsonl:" in problems[0].what
    assert problems[-1].what.startswith("and ")
    assert not any("on_bad_row" in str(one) for one in problems)
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n' * 30)
    problems = refused(write_recipe(data={"train": [{"source": "./train.jsonl"}]}))
    assert not any("on_bad_row" in one.hint for one in problems), "no row would be left"
    assert problems[0].what.startswith("has no column 'messages'")


def test_nothing_left_says_where_the_rows_went(write_recipe):
    with pytest.raises(
        UserError, match="16 rows, 0 skipped, 0 removed by cleaners, 16 over length"
    ):
        prepared(write_recipe(), "data.over_length=drop", "data.max_length=4")


@pytest.mark.parametrize(
    ("rows", "first", "count"),
    [(":3", 1, 3), ("4:6", 5, 2), (":25%", 1, 4), ("-2:", 15, 2), ("50%:", 9, 8)],
)
def test_rows_are_sliced_as_python_does(write_recipe, rows, first, count):
    store = prepared(write_recipe(), f"data.train.0.rows='{rows}'").train
    assert [store.sample_id(index) for index in range(store.num_samples)] == [
        f"train0:{number}" for number in range(first, first + count)
    ]


def test_columns_are_renamed_before_the_format_reads_them(write_recipe, tmp_path):
    recipe = write_recipe()
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text().replace('"messages"', '"talk"'))
    assert prepared(recipe, "data.train.0.columns={messages: talk}").train.num_samples == 16
    with pytest.raises(UserError, match="has no column 'talks'"):
        prepared(recipe, "data.train.0.columns={messages: talks}")


class TestCache:
    def test_the_same_content_is_opened_not_made_again(self, write_recipe):
        first = prepared(write_recipe()).train.folder
        before = (first / "manifest.json").stat().st_mtime_ns
        second = prepared(
            write_recipe(), "trainer.seed=5", "trainer.learning_rate=1.0"
        ).train.folder
        assert second == first
        assert (second / "manifest.json").stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        "override",
        [
            "data.max_length=127",
            "data.packing=false",
            "data.train_on=[assistant, user]",
            "data.turns=each",
            "data.over_length=drop",
            "data.train.0.rows=':15'",
            "data.train.0.name=other",
            "tokenizer.chat_template=chatml",
            "tokenizer.stop_tokens=['<|endoftext|>']",
        ],
    )
    def test_other_settings_make_other_data(self, write_recipe, override):
        assert (
            prepared(write_recipe()).train.folder.name
            != prepared(write_recipe(), override).train.folder.name
        )

    def test_one_changed_byte_makes_other_data(self, write_recipe, tmp_path):
        recipe = write_recipe()
        first = prepared(recipe).train.folder.name
        path = tmp_path / "train.jsonl"
        path.write_text(path.read_text().replace("Paris", "Parys", 1))
        assert prepared(recipe).train.folder.name != first

    def test_what_is_trained_has_one_name_whatever_made_it(self, write_recipe, tmp_path):
        """A run whose data were made again, by newer code, goes on."""
        first, again = (prepared(write_recipe(), one).train for one in SAME_ROWS)
        assert first.folder != again.folder
        assert first.fingerprint == again.fingerprint
        path = tmp_path / "train.jsonl"
        path.write_text(path.read_text().replace("Paris", "Parys", 1))
        assert prepared(write_recipe()).train.fingerprint != first.fingerprint


SAME_ROWS = ("data.on_bad_row=error", "data.on_bad_row=skip")


def test_a_changed_named_template_makes_other_data():
    files = {f"{path.parent.name}/{path.name}" for path in code_files()}
    assert {"templates/llama3.jinja", "templates/qwen2.5.jinja", "chat/encoder.py"} <= files


DECIDES_NO_ROW = {
    *(f"core/protocols/{name}.py" for name in ("components", "data", "models")),
    *(f"core/protocols/{name}.py" for name in ("strategies", "training")),
    "recipe/cadence.py",
    "recipe/chat_templates.py",  # finds the template, whose text is a part of the key
    "recipe/comparisons.py",
    "recipe/constraints.py",
    "recipe/long_context.py",
    "recipe/masking.py",
    "recipe/micro_batches.py",
    "recipe/model_files.py",
    "recipe/optimization.py",
    "recipe/quantization.py",
    "recipe/repeated_data.py",
    "recipe/sample_words.py",
    "recipe/schema.py",  # its values are parts of the key
    "recipe/sharing.py",  # so is its answer
    "recipe/spreading.py",
    "recipe/without_effect.py",
}


def test_all_code_that_a_preparation_runs_is_in_its_key_or_known_to_decide_no_row():
    package = Path(framework.__file__).parent
    start = ["data/prepare.py", "formatters/*.py", "over_length/*.py", "mixtures/*.py"]
    waiting = [path for pattern in start for path in package.glob(pattern)]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and path.stat().st_size:
            found.add(path)
            waiting += imported(path, package)
    others = {str(path.relative_to(package)) for path in found - set(code_files())}
    assert others == DECIDES_NO_ROW


def imported(path: Path, package: Path) -> Iterator[Path]:
    """Modules of the package that run when this one is imported or called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in only_types:
            continue
        if node.module and node.module.split(".")[0] == "framework":
            folder = package.joinpath(*node.module.split(".")[1:])
            modules = [folder.with_suffix(".py"), *(folder / f"{a.name}.py" for a in node.names)]
            yield from filter(Path.is_file, modules)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux for open files")
def test_a_preparation_that_fails_leaves_no_file_open(write_recipe, tmp_path):
    content = gzip.compress((tmp_path / "train.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(content[: len(content) // 2])
    recipe = write_recipe(data={"train": [{"source": "./cut.jsonl.gz"}]})
    before = opened_files()
    with pytest.raises(UserError, match="can't be read after") as failed:
        prepared(recipe, "data.cleaners=[control_characters]")
    left = [path for path in opened_files() - before if ".bin" in path or "cleaner-" in path]
    assert left == [], failed.value  # which holds on to all that was at work


def opened_files() -> set[str]:
    found = {str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir()}
    assert len(found) > 2
    return found


@pytest.mark.parametrize(
    ("package", "cleaners", "makes_other_data"),
    [("jinja2", (), True), ("ftfy", (), False), ("ftfy", ("data.cleaners=[encoding]",), True)],
)
def test_another_version_of_a_package_that_makes_or_cleans_the_data_makes_other_data(
    write_recipe, monkeypatch, package, cleaners, makes_other_data
):
    recipe, version = write_recipe(), importlib.metadata.version
    first = prepared(recipe, *cleaners).train.folder.name
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == package else version(name)
    )
    assert (prepared(recipe, *cleaners).train.folder.name != first) is makes_other_data


def test_skipped_rows_of_the_test_data_are_said_and_do_not_end_the_reading(
    write_recipe, tmp_path, capsys
):
    content = "{\n" * 30 + (tmp_path / "train.jsonl").read_text()
    (tmp_path / "test.jsonl").write_text(content)
    recipe = write_recipe(data={"test": [{"source": "./test.jsonl"}]})
    overrides = ("evaluation.num_generations=3", "data.on_bad_row=skip")
    assert len(prepared(recipe, *overrides).test) == 3
    said = capsys.readouterr().err
    assert said.count("skipped: broken JSON") == 1
    assert f"{tmp_path / 'test.jsonl'}:1:" in said
    assert "(the same in 29 more rows)" in said
    assert "on_bad_row" not in said, "it is written already"


def test_damaged_data_are_made_again_before_training_and_said_so(write_recipe, capsys):
    recipe = resolve(write_recipe())
    store = prepare_data(recipe).train
    path = store.folder / "tokens.bin"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert prepare_data(recipe, verify=True).train.folder == store.folder
    assert path.read_bytes() == whole
    assert "tokens.bin has changed since it was written" in capsys.readouterr().err


def test_what_cleaners_and_mixtures_did_is_in_the_lines_of_every_command(write_recipe, tmp_path):
    recipe = write_recipe(data={"cleaners": ["exact_duplicates"]})
    rows = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join([*rows, rows[0]]))
    (line,) = [one for one in data_lines(prepare_data(resolve(recipe))) if "duplicates" in one]
    assert line.startswith("train: exact_duplicates: 1 dropped; listed in /")
    dry = prepare_data(resolve(recipe, ["data.dry_run=true"]))
    (line,) = [one for one in data_lines(dry) if "duplicates" in one]
    assert line.startswith("train: warning: exact_duplicates: 1 dropped")
    assert line.endswith("(data.dry_run: nothing of this was done)")
