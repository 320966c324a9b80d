"""`framework submit`: what it shows, writes and refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def submit(*arguments: object, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "framework", "submit", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )


def test_a_dry_run_shows_everything_and_writes_nothing(write_recipe, tmp_path):
    recipe = write_recipe("My First!.yaml")
    before = sorted(tmp_path.iterdir())
    done = submit("slurm", recipe, "trainer.seed=1", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --job-name=my-first\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "sbatch jobs/my-first/job.sh"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("cluster", "sweep", "line"),
    [
        ("num_nodes: 3", "", "2 can't be shared by 3 processes"),
        ("num_node: 3", "", "cluster.yaml:1:1: num_node: is not a key here"),
        ("", "runs: []", "sweep.yaml:1:7: runs: must not be empty"),
        ("", "runs: [[trainer.seed=1], [trainer.seed=2]]", "has the output.dir of runs[0]"),
        ("", "runs: [[trainer.sed=1]]", "did you mean 'seed'?"),
    ],
)
def test_a_job_that_can_not_run_is_not_submitted(write_recipe, tmp_path, cluster, sweep, line):
    (tmp_path / "cluster.yaml").write_text(cluster or "port: 29501")
    (tmp_path / "sweep.yaml").write_text(sweep)
    options = ["--cluster", "cluster.yaml", *(["--sweep", "sweep.yaml"] if sweep else [])]
    recipe = write_recipe(trainer={"micro_batch_size": 1})
    done = submit("slurm", recipe, *options, folder=tmp_path)
    assert done.returncode == 2
    assert line in done.stderr
    assert not (tmp_path / "jobs").exists()


def test_a_target_that_nobody_knows_is_refused(write_recipe, tmp_path):
    done = submit("slrum", write_recipe(), folder=tmp_path)
    assert done.returncode == 2
    assert "'slrum' is not one of the submitters; did you mean 'slurm'?" in done.stderr


def test_secrets_are_named_and_their_values_are_in_no_file(write_recipe, tmp_path):
    (tmp_path / "cluster.yaml").write_text("pass_environment: [MY_TOKEN]")
    command = ["slurm", write_recipe(), "--cluster", "cluster.yaml", "--output", "job"]
    done = submit(*command, folder=tmp_path)
    assert done.returncode == 2
    assert "MY_TOKEN is not set here; export MY_TOKEN=..." in done.stderr
    done = submit(*command, folder=tmp_path, MY_TOKEN="t0ps3cret", PATH="")
    assert done.returncode == 1
    assert "'sbatch' is not installed here" in done.stderr
    (written,) = (tmp_path / "job").iterdir()
    assert ",MY_TOKEN\n" in written.read_text()
    assert "t0ps3cret" not in written.read_text() + done.stdout
