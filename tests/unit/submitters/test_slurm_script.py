"""sbatch scripts: what bash makes of them, whatever stands in a recipe's overrides."""

from __future__ import annotations

import subprocess

import pytest

from framework.launching.cluster import Cluster
from framework.launching.job import Job, NamedJob
from framework.submitters.slurm import Slurm

HOSTILE = (
    'a=it\'s $(touch pwned) `touch pwned` "$HOME" \\ ; rm -rf / # & | > < * ? [x] {y} !z ~ ü 漢',
    "b=two\nlines",
    "c=",
)
PROGRAMS = {
    "scontrol": '[ "$2" = hostnames ] && echo n1 || echo NodeName=n1 NodeAddr=10.0.0.1 Port=1',
    "srun": 'while [ "$1" != bash ]; do shift; done; exec "$@"',
    "python3": "printf '%s\\0' \"$@\"; exit ${CODE:-0}",
}


def jobs(*overrides, cluster=None, **settings):
    where = cluster or Cluster(**settings)
    return [
        NamedJob(
            name="job",
            job=Job(recipe="my recipe.yaml", overrides=each, num_nodes=where.num_nodes),
            cluster=where,
            folder="jobs/job",
        )
        for each in overrides
    ]


def script(*overrides, slurm=None, **settings):
    submission = (slurm or Slurm()).submission(jobs(*overrides, **settings))
    assert submission.commands[0].arguments == ("sbatch", "jobs/job/job.sh")
    text = submission.files["job.sh"]
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text


@pytest.fixture
def run(tmp_path):
    """Runs a script as Slurm would, with programs that say what they were given."""
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def start(text, **environment):
        given = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NODEID": "1",
            **environment,
        }
        return subprocess.run(
            ["bash"],
            input=text,
            text=True,
            capture_output=True,
            env=given,
            cwd=tmp_path,
            check=False,
        )

    return start


def test_any_value_arrives_as_it_was(run, tmp_path):
    done = run(script(HOSTILE, environment={"A": HOSTILE[0]}, num_nodes=2))
    words = done.stdout.split("\0")[:-1]
    assert words[:4] == ["-m", "framework", "launch", "my recipe.yaml"]
    assert tuple(words[4:7]) == HOSTILE
    assert words[words.index("--node-rank") + 1] == "1"
    assert words[words.index("--main-address") + 1] == "10.0.0.1"
    assert words[words.index("--port") + 1] == "20007"
    assert not (tmp_path / "pwned").exists()
    assert done.returncode == 0


def test_each_task_of_an_array_has_its_own_run(run):
    text = script(("seed=1",), ("seed=2",), slurm=Slurm(max_parallel_runs=1))
    assert "#SBATCH --array=0-1%1\n" in text
    for task, override in (("0", "seed=1"), ("1", "seed=2")):
        done = run(text, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_JOB_ID="6")
        assert override in done.stdout.split("\0")


def test_an_exit_code_is_passed_through_and_only_75_goes_on(run):
    text = script((), max_restarts=1).replace("scontrol requeue", "echo requeue")
    assert "requeue 7" in run(text, CODE="75").stdout
    ended = run(text, CODE="75", SLURM_RESTART_COUNT="1")
    assert "requeue 7" not in ended.stdout
    assert ended.returncode == 75
    failed = run(text, CODE="3")
    assert failed.returncode == 3
    assert "requeue 7" not in failed.stdout


def test_what_a_cluster_says_is_asked_for():
    text = script(
        (),
        slurm=Slurm(partition="gpu", account="me", cpus_per_node=16, options=("--exclusive",)),
        num_nodes=2,
        gpus_per_node=8,
        time_limit_minutes=90,
        stop_seconds=300,
        pass_environment=("HF_TOKEN",),
        virtual_environment="/opt/my venv",
    )
    asked = {line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line}
    assert asked >= {
        "--nodes=2",
        "--gpus-per-node=8",
        "--time=90",
        "--signal=B:TERM@300",
        "--requeue",
        "--partition=gpu",
        "--account=me",
        "--cpus-per-task=16",
        "--exclusive",
        "--export=HOME,USER,PATH,LANG,HF_TOKEN",
    }
    assert "export PATH='/opt/my venv/bin':\"$PATH\"" in text


def test_a_container_is_started_by_pyxis_or_apptainer():
    text = script((), container="a b.sqsh", slurm=Slurm(container_mounts=("/data:/data",)))
    assert "'--container-image=a b.sqsh' --container-mounts=/data:/data" in text
    text = script(
        (), container="a.sif", gpus_per_node=1, slurm=Slurm(container_runtime="apptainer")
    )
    assert "apptainer exec --nv a.sif bash -c" in text


def test_what_sbatch_would_misread_is_refused():
    slurm = Slurm(partition="a b", options=("--x y", "exclusive"), container_mounts=("/a:/a",))
    found = [problem.key for problem in slurm.check(Cluster())]
    assert found == [".partition", ".options[0]", ".options[1]", ".container_mounts"]
