"""Kubernetes manifests, SkyPilot tasks and Ray jobs: their structure, and the words in them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import jsonschema
import pytest
import yaml

from framework.launching.cluster import Cluster
from framework.launching.job import Job, NamedJob
from framework.submitters.kubernetes import Kubernetes
from framework.submitters.ray import Ray
from framework.submitters.skypilot import Skypilot

HOSTILE = (
    'a=it\'s $(HOME) $(touch pwned) `touch pwned` "$HOME" \\ ; # & | > * {{ y }} {% z %} ~ ü 漢',
    "b=two\nlines\t\x85\u2028: - ",
    "c=",
)


def closed(required, optional=None):
    """A schema of a mapping with these keys and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
STRINGS = {"type": "array", "items": TEXT}
CONTAINER = closed(
    {
        "name": {"const": "pytorch"},
        "image": TEXT,
        "command": STRINGS,
        "args": STRINGS,
        "env": {
            "type": "array",
            "items": closed(
                {"name": TEXT},
                {
                    "value": TEXT,
                    "valueFrom": closed({"secretKeyRef": closed({"name": TEXT, "key": TEXT})}),
                },
            ),
        },
        "resources": closed({"limits": {"type": "object"}}),
        "volumeMounts": {"type": "array", "items": closed({"name": TEXT, "mountPath": TEXT})},
    },
    {"workingDir": TEXT},
)
POD = closed(
    {
        "spec": closed(
            {
                "restartPolicy": {"enum": ["Never", "OnFailure"]},
                "terminationGracePeriodSeconds": NUMBER,
                "containers": {"type": "array", "items": CONTAINER, "minItems": 1, "maxItems": 1},
                "volumes": {"type": "array"},
            },
            {"nodeSelector": {"type": "object", "additionalProperties": TEXT}},
        )
    }
)
METADATA = closed({"name": TEXT}, {"namespace": TEXT, "labels": {"type": "object"}})
EXIT_CODES = closed(
    {"containerName": TEXT, "operator": {"enum": ["In"]}, "values": {"const": [2, 3]}}
)
JOB = closed(
    {
        "completionMode": {"const": "Indexed"},
        "parallelism": NUMBER,
        "completions": NUMBER,
        "backoffLimit": {"const": 0},
        "podFailurePolicy": closed(
            {
                "rules": {
                    "type": "array",
                    "items": closed({"action": {"const": "FailJob"}, "onExitCodes": EXIT_CODES}),
                }
            }
        ),
        "template": POD,
    },
    {"activeDeadlineSeconds": NUMBER},
)
JOBSET = closed(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": METADATA,
        "spec": closed(
            {
                "network": closed(
                    {
                        "enableDNSHostnames": {"const": True},
                        "publishNotReadyAddresses": {"const": True},
                    }
                ),
                "failurePolicy": closed(
                    {
                        "maxRestarts": NUMBER,
                        "rules": {
                            "type": "array",
                            "items": closed(
                                {"action": {"const": "FailJobSet"}, "onJobFailureReasons": STRINGS}
                            ),
                        },
                    }
                ),
                "replicatedJobs": {
                    "type": "array",
                    "items": closed(
                        {
                            "name": TEXT,
                            "replicas": {"const": 1},
                            "template": closed({"spec": JOB}),
                        }
                    ),
                },
            }
        ),
    }
)
REPLICAS = closed({"replicas": NUMBER, "restartPolicy": {"enum": ["OnFailure"]}, "template": POD})
PYTORCHJOB = closed(
    {
        "apiVersion": {"const": "kubeflow.org/v1"},
        "kind": {"const": "PyTorchJob"},
        "metadata": METADATA,
        "spec": closed(
            {
                "runPolicy": closed(
                    {"cleanPodPolicy": TEXT, "backoffLimit": NUMBER},
                    {"activeDeadlineSeconds": NUMBER},
                ),
                "pytorchReplicaSpecs": closed({"Master": REPLICAS}, {"Worker": REPLICAS}),
            }
        ),
    }
)
SKYPILOT = closed(
    {
        "name": TEXT,
        "num_nodes": NUMBER,
        "resources": closed(
            {
                "job_recovery": closed(
                    {"max_restarts_on_errors": NUMBER, "recover_on_exit_codes": {"const": [75]}}
                )
            },
            {
                "infra": TEXT,
                "accelerators": {"type": "object", "additionalProperties": NUMBER},
                "cpus": TEXT,
                "memory": TEXT,
                "use_spot": {"type": "boolean"},
                "image_id": TEXT,
            },
        ),
        "envs": {"type": "object", "additionalProperties": TEXT},
        "run": TEXT,
    },
    {
        "workdir": TEXT,
        "secrets": {"type": "object", "additionalProperties": {"type": "null"}},
        "file_mounts": {
            "type": "object",
            "additionalProperties": closed({"source": TEXT, "mode": {"const": "MOUNT"}}),
        },
        "setup": TEXT,
    },
)


def written(submitter, overrides=HOSTILE, **settings):
    """The one document that a submitter writes, and the command that hands it over."""
    cluster = Cluster(**settings)
    assert [*submitter.check(cluster)] == []
    gpus = cluster.gpus_per_node
    job = Job(
        recipe="my recipe.yaml",
        overrides=overrides,
        num_nodes=cluster.num_nodes,
        processes_per_node=gpus or 1,
        device="cuda" if gpus else "cpu",
    )
    one = NamedJob(name="job", job=job, cluster=cluster, folder="jobs/job")
    submission = submitter.submission([one])
    (text,) = submission.files.values()
    return yaml.safe_load(text), submission.commands[0].arguments


ALL = {
    "num_nodes": 2,
    "gpus_per_node": 8,
    "container": "registry/image:1",
    "network_interface": "eth0",
    "environment": {"A": HOSTILE[0]},
    "pass_environment": ("HF_TOKEN",),
    "working_directory": "/work it",
}


def on_kubernetes(kind, **settings):
    return written(
        Kubernetes(
            kind=kind,
            namespace="ml",
            queue="q",
            secret="keys",
            volume_claims={"data": "/data"},
            cpus_per_node=16,
            memory_per_node="64Gi",
            node_selector={"gpu": "h100"},
        ),
        **{**ALL, "time_limit_minutes": 60, **settings},
    )


def container_of(pod):
    return pod["spec"]["containers"][0]


def words_in(container, tmp_path, **environment):
    """What a container's command hands to python3, as Kubernetes and bash read it."""
    (tmp_path / "python3").write_text("#!/bin/bash\nprintf '%s\\0' \"$@\"\n")
    (tmp_path / "python3").chmod(0o755)
    # Kubernetes: $(NAME) is the variable, where there is one, and $$ is $.
    assert all("$(" not in word.replace("$$(", "") for word in container["args"])
    command = [word.replace("$$(", "$(") for word in (*container["command"], *container["args"])]
    done = subprocess.run(
        command,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert not (tmp_path / "pwned").exists()
    return done.stdout.split("\0")[:-1]


def test_a_jobset_has_the_structure_of_one_and_every_word_as_it_was(tmp_path):
    manifest, command = on_kubernetes("jobset")
    jsonschema.validate(manifest, JOBSET)
    assert command == ("kubectl", "apply", "--filename", "jobs/job/job.yaml")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (2, 2)
    assert job["activeDeadlineSeconds"] == 3600
    container = container_of(job["template"])
    words = words_in(container, tmp_path, JOB_COMPLETION_INDEX="1")
    assert tuple(words[4:7]) == HOSTILE
    assert words[-2:] == ["--node-rank", "1"]
    assert words[words.index("--main-address") + 1] == "job-node-0-0.job"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    variables = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
    assert variables["A"].replace("$$(", "$(") == HOSTILE[0]
    assert variables["HF_TOKEN"] == {"secretKeyRef": {"name": "keys", "key": "HF_TOKEN"}}
    assert variables["NCCL_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_pytorchjob_has_the_structure_of_one(tmp_path, num_nodes):
    manifest, _ = on_kubernetes("pytorchjob", num_nodes=num_nodes)
    jsonschema.validate(manifest, PYTORCHJOB)
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    master = words_in(container_of(replicas["Master"]["template"]), tmp_path)
    assert master[-2:] == ["--node-rank", "0"]
    assert master[master.index("--main-address") + 1] == "job-master-0"
    assert ("Worker" in replicas) == (num_nodes > 1)
    if num_nodes > 1:
        worker = words_in(container_of(replicas["Worker"]["template"]), tmp_path, RANK="1")
        assert worker[-2:] == ["--node-rank", "1"]


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="the package 'kubernetes-validate' is not installed",
)
def test_the_job_in_a_jobset_is_what_kubernetes_knows():
    import kubernetes_validate

    manifest, _ = on_kubernetes("jobset")
    spec = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}
    kubernetes_validate.validate(job, "1.31", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**job, "spec": {**spec, "x": 1}}, "1.31", strict=True)


def test_a_skypilot_task_has_the_keys_that_are_documented_and_any_value_arrives(tmp_path):
    task, command = written(
        Skypilot(gpu="H100", use_spot=True, mounts={"/runs": "s3://runs"}, setup="pip install x"),
        **{**ALL, "working_directory": None},
    )
    jsonschema.validate(task, SKYPILOT)
    assert command == ("sky", "jobs", "launch", "--secret", "HF_TOKEN", "jobs/job/job.yaml")
    assert task["resources"]["accelerators"] == {"H100": 8}
    assert task["secrets"] == {"HF_TOKEN": None}
    assert task["envs"]["A"] == HOSTILE[0]
    words = words_in(
        {"command": ["bash", "-c", task["run"]], "args": []},
        tmp_path,
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_NODE_RANK="1",
    )
    assert tuple(words[4:7]) == HOSTILE
    assert words[-4:] == ["--node-rank", "1", "--main-address", "10.0.0.1"]


def test_a_ray_job_names_secrets_and_keeps_every_word():
    job, command = written(
        Ray(address="ray://head:10001", storage_path="/shared"), **{**ALL, "container": None}
    )
    assert command == (sys.executable, "-m", "framework.launching.on_ray", "jobs/job/job.json")
    assert job["num_workers"] == 16
    assert job["resources_per_worker"] == {"CPU": 1, "GPU": 1}
    assert job["pass_environment"] == ["HF_TOKEN"]
    assert tuple(job["jobs"][0]["arguments"][1:]) == HOSTILE


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_its_absence_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "framework.launching.on_ray", "job.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "the package 'ray' is not installed; pip install 'framework[ray]'\n"


@pytest.mark.parametrize(
    ("submitter", "cluster", "key"),
    [
        (Kubernetes(), {}, "container"),
        (Kubernetes(), {"container": "x", "pass_environment": ("A",)}, ".secret"),
        (Kubernetes(volume_claims={"A b": "/x"}), {"container": "x"}, ".volume_claims"),
        (Skypilot(gpu="H100"), {}, "gpus_per_node"),
        (Skypilot(), {"gpus_per_node": 1}, ".gpu"),
        (Skypilot(), {"time_limit_minutes": 1}, "time_limit_minutes"),
        (Ray(), {"num_nodes": 2}, ".storage_path"),
        (Ray(), {"container": "x"}, "container"),
    ],
)
def test_what_a_target_can_not_do_is_said(submitter, cluster, key):
    assert [problem.key for problem in submitter.check(Cluster(**cluster))] == [key]
