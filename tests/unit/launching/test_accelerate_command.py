"""Jobs and nodes become command lines that a shell reads back as they were."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st

from framework.launching.accelerate_command import accelerate_command, shown
from framework.launching.job import Job, Node


def words(job: Job, node: Node | None = None) -> str:
    return " ".join(accelerate_command(job, node or Node(), {}).arguments)


def test_one_cpu_process_needs_no_launcher_for_several():
    command = accelerate_command(Job(recipe="r.yaml"), Node(), {"OMP_NUM_THREADS": "2"})
    assert command.environment == {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"}
    assert "--cpu --num_processes 1" in " ".join(command.arguments)


def test_several_cpu_processes_are_started_in_the_one_way_that_distributes():
    job = Job(recipe="r.yaml", processes_per_node=2)
    assert "--multi_gpu --num_processes 2" in words(job)
    assert "--cpu" not in words(job).split()
    assert accelerate_command(job, Node(), {}).environment["ACCELERATE_USE_CPU"] == "true"


def test_gpus_are_not_told_to_be_cpus():
    job = Job(recipe="r.yaml", device="cuda")
    assert "--num_processes 1 --num_machines 1" in words(job)
    assert "--cpu" not in words(job).split()
    assert accelerate_command(job, Node(), {}).environment == {}


def test_a_node_of_several_says_which_and_where_they_meet():
    job = Job(recipe="r.yaml", processes_per_node=8, num_nodes=4, device="cuda")
    node = Node(rank=3, main_address="node-0", port=29500)
    assert "--multi_gpu --num_processes 32 --num_machines 4" in words(job, node)
    assert "--machine_rank 3 --main_process_ip node-0" in words(job, node)
    assert "--main_process_port 29500" in words(job, node)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_shell_reads_any_value_back_as_it_was(overrides):
    command = accelerate_command(
        Job(recipe="r.yaml", overrides=tuple(overrides)), Node(), {"A": "".join(overrides)}
    )
    read = shlex.split(shown(command))
    assert read[2:] == list(command.arguments)
    assert read[1] == f"A={''.join(overrides)}"


def test_what_a_user_allows_is_passed_on():
    job = Job(recipe="r.yaml", allowed_environment=("A",), allowed_urls=("http://x",))
    assert words(job).endswith("-m framework.train r.yaml --allow-env A --allow-url http://x")
