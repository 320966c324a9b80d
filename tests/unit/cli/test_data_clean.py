"""`framework data clean`: a corpus is cleaned in tasks, and what is left is read again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import conversation, read_rows, write_rows
from warm_start import FRAMEWORK

pytestmark = pytest.mark.usefixtures("warm")

CLEANERS = [{"type": "length", "min_words": 3}, "personal_data", "control_characters"]


def talk(question, answer):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


@pytest.fixture
def corpus(write_recipe, tmp_path):
    """A recipe over 31 rows, of which one is too short and two hold what is cleaned."""
    recipe = write_recipe(data={"cleaners": CLEANERS})
    rows = [conversation(number) for number in range(28)]
    rows += [talk("a", "b"), talk("Whom to ask?", "ada@lovelace.org"), talk("What is it?", "x\x00")]
    write_rows(tmp_path / "train.jsonl", rows)
    return recipe


def clean(recipe, *arguments, code=0, path=None):
    command = [*FRAMEWORK, "data", "clean", str(recipe), *arguments]
    environment = {**os.environ, "PATH": os.environ["PATH"] if path is None else path}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert done.returncode == code, done.stderr
    return done


def written(folder):
    return [row for file in sorted(folder.glob("*.jsonl")) for row in read_rows(file)]


@pytest.mark.slow
def test_two_tasks_clean_every_row_once_and_what_they_write_trains(corpus, tmp_path):
    output = tmp_path / "cleaned"
    done = clean(corpus, "-o", str(output), "--tasks", "2", "--workers", "2")
    assert "train0: 30 of 31 rows kept" in done.stdout
    assert "length: drop 1" in done.stdout
    assert "personal_data: change 1" in done.stdout
    assert [file.name for file in sorted((output / "train0").iterdir())] == [
        "00000.jsonl",
        "00001.jsonl",
    ]
    rows = written(output / "train0")
    said = [row["messages"][-1]["content"] for row in rows]
    assert len(rows) == 30
    assert {"<EMAIL_ADDRESS>", "x"} <= set(said)
    assert all(conversation(number) in rows for number in range(28))
    listed = [json.loads(line) for file in output.glob("findings/train0/*/cleaner-1-length.jsonl")
              for line in file.read_text().splitlines()]  # fmt: skip
    assert [(one["row"], one["action"]) for one in listed] == [(29, "drop")]

    told = yaml.safe_load(done.stdout[done.stdout.index("\ndata:") :])
    entry = told["data"]["train"][0]
    override = f"data.train=[{json.dumps(entry)}]"
    command = [*FRAMEWORK, "prepare", str(corpus), override, "--json"]
    prepared = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert prepared.returncode == 0, prepared.stderr
    assert json.loads(prepared.stdout)["train"]["datasets"][0]["num_rows"] == 30

    before = {file: file.stat().st_mtime_ns for file in output.glob("train0/*")}
    again = clean(corpus, "-o", str(output), "--tasks", "2", "--json")
    assert json.loads(again.stdout)[0]["num_kept_rows"] == 30
    assert {file: file.stat().st_mtime_ns for file in output.glob("train0/*")} == before


def test_weights_of_rows_are_written_with_them_and_read_again(corpus, tmp_path):
    train = tmp_path / "train.jsonl"
    write_rows(train, [{**row, "quality": 0.5} for row in read_rows(train)])
    output = tmp_path / "cleaned"
    done = clean(corpus, "-o", str(output), "+data.train.0.loss_weight_column=quality")
    assert {row["loss_weight"] for row in written(output / "train0")} == {0.5}
    told = yaml.safe_load(done.stdout[done.stdout.index("\ndata:") :])
    assert told["data"]["train"][0]["loss_weight_column"] == "loss_weight"


def test_cleaners_that_compare_rows_are_refused_in_tasks_and_run_in_one(corpus, tmp_path):
    cleaners = "data.cleaners=[exact_duplicates, near_duplicates]"
    output = str(tmp_path / "cleaned")
    refused = clean(corpus, "-o", output, cleaners, "--tasks", "2", code=2)
    assert "exact_duplicates and near_duplicates compare each row with all before" in refused.stderr
    assert "--tasks 1" in refused.stderr
    assert not Path(output).exists()
    done = clean(corpus, "-o", output, "data.cleaners=[exact_duplicates]")
    assert "train0: 31 of 31 rows kept" in done.stdout


def test_a_split_is_refused_as_whole_datasets_are_cleaned(corpus, tmp_path):
    refused = clean(corpus, "-o", str(tmp_path / "cleaned"), "+data.split={eval: 0.1}", code=2)
    assert "data.split: whole datasets are cleaned" in refused.stderr


def test_a_broken_row_is_told_with_its_line_whenever_it_is_tried_and_other_work_stays_apart(
    corpus, tmp_path
):
    train, output = tmp_path / "train.jsonl", tmp_path / "cleaned"
    train.write_text(train.read_text() + '{"messages": 3}\n')
    failed = clean(corpus, "-o", str(output), "data.cleaners=[control_characters]", code=2)
    assert f"{train}:32: messages is" in failed.stderr
    assert "Traceback" not in failed.stderr
    clean(corpus, "-o", str(output), "data.cleaners=[control_characters]", code=2)
    options = ("data.cleaners=[control_characters]", "data.on_bad_row=skip")
    other = clean(corpus, "-o", str(output), *options, code=3)
    assert "is not empty, and not the beginning of this work" in other.stderr
    done = clean(corpus, "-o", str(tmp_path / "new"), *options)
    assert "train0: 31 of 32 rows kept, 1 skipped" in done.stdout


def test_rows_at_fault_that_are_not_told_in_full_are_counted(corpus, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text(train.read_text() + '{"messages": 3}\n' * 25)
    options = ("data.cleaners=[control_characters]", "--tasks", "1")
    failed = clean(corpus, "-o", str(tmp_path / "cleaned"), *options, code=2)
    assert failed.stderr.count(f"{train}:") == 20
    assert "and 5 more rows of train0" in failed.stderr


def files(folder):
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


@pytest.mark.slow
def test_a_dry_run_only_lists_and_leaves_the_folder_to_the_real_one(corpus, tmp_path):
    output = tmp_path / "cleaned"
    dry = clean(corpus, "-o", str(output), "data.dry_run=true")
    listed = output / "dry_run" / "findings"
    assert dry.stdout.startswith(
        f"dry run: no rows are written; what is found is listed in {listed}"
    )
    assert "train0: 31 rows read" in dry.stdout
    assert "length: would drop 1" in dry.stdout
    assert "personal_data: would change 1" in dry.stdout
    assert "kept" not in dry.stdout
    assert "\ndata:" not in dry.stdout
    assert (listed / "train0" / "00000" / "cleaner-1-length.jsonl").read_text().count("\n") == 1
    assert [one.name for one in output.iterdir()] == ["dry_run"]
    assert not any(row for row in files(output) if row.endswith("train0/00000.jsonl"))

    other = clean(corpus, "-o", str(output), "data.dry_run=true", "data.cleaners=[encoding]")
    assert "encoding: nothing found" in other.stdout
    real = clean(corpus, "-o", str(output))
    assert "train0: 30 of 31 rows kept" in real.stdout
    assert "dry run" not in real.stdout
    assert len(written(output / "train0")) == 30
    assert files(output / "dry_run" / "findings" / "train0")


@pytest.mark.slow
def test_nothing_but_the_result_is_shown(corpus, tmp_path):
    done = clean(corpus, "-o", str(tmp_path / "one"))
    assert done.stderr == ""
    done = clean(corpus, "-o", str(tmp_path / "two"), "--tasks", "2")
    assert done.stderr == ""
    log = tmp_path / "two" / "logs" / "train0" / "logs" / "task_00001.log"
    assert "Processing done" in log.read_text()


@pytest.mark.slow
def test_an_error_of_a_task_is_shown(corpus, tmp_path):
    train, output = tmp_path / "train.jsonl", tmp_path / "cleaned"
    train.write_text(train.read_text() + '{"messages": 3}\n')
    clean(corpus, "-o", str(output), code=2)
    counts = output / "findings" / "train0" / "00000" / "counts.json"
    counts.unlink()
    counts.mkdir()
    failed = clean(corpus, "-o", str(output), code=1)
    assert "| ERROR" in failed.stderr
    assert "Is a directory" in failed.stderr


def test_a_dry_run_never_takes_the_place_of_a_cleaned_copy(corpus, tmp_path):
    clean(corpus, "-o", str(tmp_path / "dry_run"))
    refused = clean(corpus, "-o", str(tmp_path), "data.dry_run=true", code=3)
    assert "is not empty, and not the beginning of this work" in refused.stderr
    assert len(written(tmp_path / "dry_run" / "train0")) == 30


def test_the_printed_datasets_keep_what_still_applies_and_are_found_from_anywhere(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    keys = {"name": "capitals", "weight": 2.0, "system_prompt": "Be: brief."}
    train = [{"source": "./train.jsonl", "rows": ":20", **keys}]
    done = clean(corpus, "-o", "cleaned", f"data.train={json.dumps(train)}")
    (entry,) = yaml.safe_load(done.stdout[done.stdout.index("\ndata:") :])["data"]["train"]
    path = str(tmp_path / "cleaned" / "capitals")
    assert entry == {"source": {"type": "jsonl", "path": path}, "format": "messages", **keys}
    assert len(written(Path(path))) == 20
    assert "Be: brief." not in json.dumps(written(Path(path)))


def test_a_dataset_called_as_a_folder_of_lists_is_refused(corpus, tmp_path):
    options = ("-o", str(tmp_path / "cleaned"), "+data.train[0].name=findings")
    refused = clean(corpus, *options, code=2)
    assert "data.train: a dataset is called 'findings'" in refused.stderr


@pytest.mark.parametrize(
    ("endpoint", "code", "told"),
    [
        ({"base_url": "https://a.example/v1"}, 3, "write --allow-url https://a.example/v1"),
        (
            {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "A_KEY"},
            3,
            "write --allow-env A_KEY",
        ),
    ],
)
def test_without_consent_nothing_is_begun(corpus, tmp_path, endpoint, code, told):
    judge = {"type": "judge", "endpoint": {"model": "m", **endpoint}}
    options = ("-o", str(tmp_path / "cleaned"), f"data.cleaners=[encoding, {json.dumps(judge)}]")
    refused = clean(corpus, *options, code=code)
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "cleaned").exists()


@pytest.mark.long
def test_slurm_gets_a_job_that_runs_the_same_tasks(corpus, tmp_path):
    """Stands in for the cluster: `sbatch` keeps the script, `scontrol` names this machine."""
    programs, output = tmp_path / "programs", tmp_path / "cleaned"
    programs.mkdir()
    script = tmp_path / "job.sh"
    for name, lines in {
        "sbatch": f'test -f {script} || cat "${{@: -1}}" > {script}\necho Submitted batch job 7',
        "scontrol": "hostname",
        "srun": 'while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{lines}\n")
        (programs / name).chmod(0o755)
    options = ("-o", str(output), "--executor", "slurm", "--tasks", "2")
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    missing = clean(corpus, *options, code=2, path=path)
    assert "--time 10:00:00 --partition NAME" in missing.stderr
    done = clean(corpus, *options, "--time", "1:00:00", "--partition", "cpu", path=path)
    assert done.stdout.startswith("submitted")
    job = script.read_text()
    assert "#SBATCH --partition=cpu" in job
    assert "#SBATCH --array=0-1" in job
    for rank in ("0", "1"):
        environment = {
            **os.environ,
            "PATH": path,
            "SLURM_ARRAY_TASK_ID": rank,
            "SLURM_NODELIST": "here",
            "SLURM_NODEID": "0",
            "SLURM_JOB_ID": "7",
            "RUN_OFFSET": "0",
        }
        ran = subprocess.run(
            ["bash", str(script)], capture_output=True, text=True, check=False, env=environment,
            timeout=240,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert len(written(output / "train0")) == 30


SLURM = ("--executor", "slurm", "--time", "1:00:00", "--partition", "cpu")


def test_without_a_cluster_slurm_is_refused(corpus, tmp_path):
    output = str(tmp_path / "cleaned")
    refused = clean(corpus, "-o", output, *SLURM, code=2, path=str(tmp_path))
    assert "there is no `sbatch` on this machine" in refused.stderr


def test_a_slurm_that_takes_no_job_is_one_line_and_the_same_command_goes_on(corpus, tmp_path):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho sbatch: error: no controller >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    for _ in range(2):
        failed = clean(corpus, "-o", str(tmp_path / "cleaned"), *SLURM, code=1, path=path)
        assert "no controller" in failed.stderr
        assert "Slurm does not take the job: `sbatch` ended with 1" in failed.stderr
        assert "Traceback" not in failed.stderr
