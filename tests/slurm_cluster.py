"""A Slurm of two virtual nodes on this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no Slurm can be started here, empty when one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "needs the rights of root"


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Starts a Slurm and ends it; yields the environment in which its commands work."""
    # Not below the folder of the test: munge refuses paths that others could change.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/run"))
    folder.chmod(0o755)
    for name in ("munge", "state", "n1", "n2"):
        (folder / name).mkdir()
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            ports=_free_ports(3),
            cores=os.cpu_count(),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munge = ["munged", "-F", f"--key-file={folder}/munge/key", f"--socket={folder}/munge/socket"]
    munge += [f"--{name}={folder}/munge/{name}" for name in ("pid-file", "log-file", "seed-file")]
    commands = [munge, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", n] for n in ("n1", "n2"))]
    daemons = []
    try:
        for command in commands:
            with (folder / "output").open("ab") as output:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                )
            if command is munge:
                _until((folder / "munge" / "socket").exists, folder)
        _until(lambda: _num_idle(environment) == 2, folder)
        yield environment
        _lines(environment, "scancel", "--user=root", "--full", "--signal=KILL")
        _until(lambda: not _lines(environment, "squeue", "--noheader"), folder)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _until(condition, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, (folder / "output").read_text(errors="replace")
        time.sleep(0.2)


def _lines(environment: dict[str, str], *command: str) -> list[str]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def _num_idle(environment: dict[str, str]) -> int:
    return sum(line == "idle" for line in _lines(environment, "sinfo", "-h", "-N", "-o", "%T"))


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
