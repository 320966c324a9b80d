"""cluster.yaml is read as strictly as a recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import framework
from framework.core.problems import UserError
from framework.launching.cluster import Cluster, read_cluster
from framework.launching.sweep import read_sweep
from framework.submitters.slurm import Slurm


def problems_of(path, text):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as found:
        read_cluster(path)
    return [str(problem) for problem in found.value.problems]


def test_what_is_left_out_has_its_default(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("num_nodes: 2\nenvironment: {A: b}\n")
    assert read_cluster(path) == Cluster(num_nodes=2, environment={"A": "b"})


def test_every_mistake_is_told_with_its_line(tmp_path):
    path = tmp_path / "cluster.yaml"
    found = problems_of(
        path, "num_node: 2\nport: 0\nsubmitters:\n  - slurmm\n  - type: slurm\n    partitio: x\n"
    )
    assert found == [
        f"{path}:1:1: num_node: is not a key here; did you mean 'num_nodes'?",
        f"{path}:2:7: port: must be at least 1, is 0",
        f"{path}:4:5: submitters[0]: 'slurmm' is not one of the submitters; did you mean 'slurm'?",
        f"{path}:6:5: submitters[1].partitio: is not a key here; did you mean 'partition'?",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("environment: {HF_TOKEN: hf_x}", "looks like a secret, and this file is no place"),
        ("environment: {a-b: c}", "'a-b' is not the name of a variable"),
        ("pass_environment: [A=b]", "'A=b' is not the name of a variable"),
        ("submitters: [slurm, slurm]", "is there already"),
        ("{container: x, virtual_environment: y}", "has no meaning beside `container`"),
        ("- 1", "is no mapping, such as `num_nodes: 2`"),
        ("", "is no mapping, such as `num_nodes: 2`"),
    ],
)
def test_what_can_not_be_is_refused(tmp_path, text, line):
    (found,) = problems_of(tmp_path / "cluster.yaml", text)
    assert line in found
    assert found.startswith(f"{tmp_path}/cluster.yaml:1")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        read_cluster(tmp_path / "none.yaml")


def test_the_files_in_the_documentation_are_good(tmp_path):
    page = (Path(framework.__file__).parent.parent / "docs" / "launching.md").read_text()
    cluster, sweep = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "cluster.yaml").write_text(cluster)
    (tmp_path / "sweep.yaml").write_text(sweep)
    assert read_cluster(tmp_path / "cluster.yaml").submitters == (
        Slurm(partition="gpu", account="me", cpus_per_node=64),
    )
    assert len(read_sweep(tmp_path / "sweep.yaml").runs) == 2
