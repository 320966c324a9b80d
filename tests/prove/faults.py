"""Signals, lost processes, full disks, second starts: nothing is lost, and what is, is said."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs_in_processes import write_run

from prove.rows import Row
from prove.runs import (
    checkpoint_steps,
    differences,
    last_written,
    listed,
    newest_whole,
    num_rows,
    train,
)

STEPS = 60
SECTIONS = {
    "trainer": {"global_batch_size": 4, "micro_batch_size": 2, "max_steps": STEPS},
    "checkpoint": {"every_steps": 10, "keep_last": 2},
    "evaluation": {"every_steps": 20, "num_generations": 1, "max_new_tokens": 2},
}
WAIT_SECONDS, STOP_SECONDS = 120, 30
PEER_TIMEOUT_SECONDS = 10


@dataclass
class Trial:
    """A run that something is done to again and again, and what went otherwise than promised."""

    recipe: Path
    run: Path
    chance: random.Random
    num_processes: int = 1
    num_tries: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """What each try took to end."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its processes."""
    limits: Mapping[int, int] = field(default_factory=dict)
    """Rank -> bytes that a file of this process can have."""

    def start(self, *arguments: str) -> list[subprocess.Popen[str]]:
        """Its processes, without a launcher that hides their exit codes."""
        arguments = (f"output.dir={self.run}", *arguments)
        if self.num_processes == 1:
            return [train(self.recipe, *arguments, file_bytes=None, **self.environment)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": str(self.num_processes), "LOCAL_WORLD_SIZE": str(self.num_processes)}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        group |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", **self.environment}
        return [
            train(
                self.recipe,
                *arguments,
                file_bytes=self.limits.get(rank),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                **group,
            )
            for rank in range(self.num_processes)
        ]

    def train_a_while(self, *arguments: str) -> list[subprocess.Popen[str]]:
        """Its processes, in some step of the few that come next."""
        samples = self.run / "samples.jsonl"
        known = last_written(samples)
        done = newest_whole(self.run)
        wanted = done + self.chance.randint(1, 4)
        processes = self.start(*arguments)
        self.until(
            lambda: last_written(samples) != known and num_rows(samples) >= wanted,
            processes,
        )
        time.sleep(self.chance.uniform(0, 0.05))
        return processes

    def until(self, sign: Callable[[], bool], processes: Sequence[subprocess.Popen[str]]) -> None:
        """Returns when there is a sign, or a process ended, or nothing comes."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not sign() and time.monotonic() < deadline:
            if any(process.poll() is not None for process in processes):
                return
            time.sleep(0.005)

    def ends(self, processes: Sequence[subprocess.Popen[str]], within: float) -> list[str]:
        """What each of them said; the time is noted, and none of them is left."""
        began, said = time.monotonic(), []
        for process in processes:
            try:
                said.append(process.communicate(timeout=WAIT_SECONDS)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                said.append(process.communicate()[0])
        self.num_tries += 1
        self.seconds.append(time.monotonic() - began)
        self.expect(self.seconds[-1] <= within, f"took {self.seconds[-1]:.0f} s to end")
        faults = {step: fault for step, fault in checkpoint_steps(self.run).items() if fault}
        self.expect(not faults, f"partial checkpoints: {faults}")
        return said

    def stop_one_of_two(self, number: int) -> tuple[list[str], int]:
        """SIGTERM on a process, which both have to obey; (what they said, steps that are done)."""
        processes = self.train_a_while()
        processes[number % 2].send_signal(signal.SIGTERM)
        said = self.ends(processes, STOP_SECONDS)
        codes = [process.returncode for process in processes]
        self.expect(codes == [75, 75], f"ended with {codes}: {said}")
        done = num_rows(self.run / "samples.jsonl")
        self.expect(newest_whole(self.run) == done, f"saved {newest_whole(self.run)} of {done}")
        return said, done

    def expect(self, holds: object, otherwise: str) -> None:
        """Notes a failure of this try."""
        if not holds:
            self.failures.append(f"try {self.num_tries}: {otherwise}")

    def finish(self, uninterrupted: Path) -> None:
        """Lets it end, and compares."""
        processes = self.start()
        said = [process.communicate()[0] for process in processes]
        codes = [process.returncode for process in processes]
        self.expect(
            codes == [0] * len(codes), f"the last start ended with {codes}: {said[0][-300:]}"
        )
        if not any(codes):
            for name in differences(self.run, uninterrupted):
                self.expect(False, f"other {name} in the end")

    def row(self, what: str, notes: str = "") -> Row:
        """What came of it."""
        if self.seconds:
            notes = f"{notes} each ended within {max(self.seconds):.1f} s.".strip()
        notes = f"{notes} {listed(self.failures)}".strip()
        return Row(what, self.num_tries, len(self.failures), notes)


def trial(folder: Path, model: Path, num_processes: int = 1, **sections: Any) -> tuple[Trial, Path]:
    """A run of as many processes, and the same one, uninterrupted."""
    recipe = write_run(folder, model, "whole", {**SECTIONS, **sections})
    whole = Trial(recipe, folder / "whole", random.Random(0), num_processes)
    said = [process.communicate()[0] for process in whole.start()]
    assert (folder / "whole" / "final").is_dir(), said
    return Trial(recipe, folder / "tried", random.Random(1), num_processes), whole.run


def sigterm(folder: Path, model: Path, num_tries: int = 10) -> Row:
    """SIGTERM on either of two processes."""
    tried, whole = trial(folder, model, 2)
    for number in range(num_tries):
        said, done = tried.stop_one_of_two(number)
        found = re.findall(r"stopped by a signal after step (\d+)", "".join(said))
        tried.expect(found == [str(done)], f"said {found}, did {done}")
    tried.finish(whole)
    return tried.row(
        "SIGTERM on either of two processes: both end after the same step with 75, within "
        f"{STOP_SECONDS} s, saved; all as uninterrupted"
    )


def sigint(folder: Path, model: Path, num_tries: int = 6) -> Row:
    """Ctrl-C once, and twice."""
    tried, whole = trial(folder, model)
    for number in range(num_tries):
        before = newest_whole(tried.run)
        (process,) = tried.train_a_while()
        process.send_signal(signal.SIGINT)
        twice = number % 3 == 2
        if twice:
            process.send_signal(signal.SIGINT)
        (said,) = tried.ends([process], STOP_SECONDS)
        # The second may come when the first has ended it already.
        allowed = {75, -signal.SIGINT} if twice else {75}
        tried.expect(process.returncode in allowed, f"ended with {process.returncode}: {said}")
        tried.expect("Traceback" not in said, said)
        if process.returncode == 75:
            done = num_rows(tried.run / "samples.jsonl")
            tried.expect(newest_whole(tried.run) == done, "the state is not saved")
        tried.expect(newest_whole(tried.run) >= before, f"the checkpoint of {before} is lost")
    tried.finish(whole)
    return tried.row(
        "SIGINT, each third time twice: ends with 75 and saved, at once on the second; all as "
        "uninterrupted"
    )


@contextlib.contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "prove", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_full(folder: Path, model: Path, num_tries: int = 10) -> Row:
    """A disk of its own that is full somewhere between the first file and the next checkpoint."""
    tried, whole = trial(folder, model)
    tried.run = folder / "disk" / "run"
    checkpoint = next((whole / "checkpoints").iterdir())
    needed = sum(file.stat().st_size for file in checkpoint.iterdir())
    filler = folder / "disk" / "filler"
    try:
        with _small_disk(folder / "disk", 8 * needed):
            for number in range(num_tries):
                if number:
                    # A step further, with room for it.
                    (process,) = tried.train_a_while()
                    process.send_signal(signal.SIGTERM)
                    process.communicate()
                before = newest_whole(tried.run)
                space = os.statvfs(folder / "disk")
                left = tried.chance.randrange(needed)
                with filler.open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, space.f_bavail * space.f_bsize - left)
                (process,) = tried.start()
                (said,) = tried.ends([process], WAIT_SECONDS)
                tried.expect(process.returncode == 1, f"ended with {process.returncode}: {said}")
                tried.expect("free space and start the same command" in said, said[-300:])
                tried.expect("Traceback" not in said, said[-600:])
                tried.expect(newest_whole(tried.run) >= before, f"step {before} is lost")
                filler.unlink()
            tried.finish(whole)
    except subprocess.CalledProcessError as error:
        return tried.row("Disk full while saving", f"left out: {error.stderr.decode().strip()}")
    tried.seconds.clear()
    return tried.row(
        "A disk that is full at some byte before the next checkpoint is whole: says so, keeps what "
        "was saved; all as uninterrupted when there is room again"
    )


def dead_rank(folder: Path, model: Path, num_tries: int = 4) -> Row:
    """`kill -9` of either of two processes."""
    tried, whole = trial(folder, model, 2)
    for number in range(num_tries):
        bad = number % 2
        processes = tried.train_a_while()
        processes[bad].kill()
        before = newest_whole(tried.run)
        said = tried.ends(processes, STOP_SECONDS)[1 - bad]
        code = processes[1 - bad].returncode
        tried.expect(code == 1, f"the other ended with {code}: {said}")
        named = re.search(rf"lost: rank {bad} on \S+, in step (\d+)", said)
        tried.expect(named, f"rank and step are not named: {said[-300:]}")
        done = num_rows(tried.run / "samples.jsonl")
        tried.expect(named and int(named[1]) in {done, done + 1}, f"did {done}: {said[-300:]}")
        tried.expect(newest_whole(tried.run) >= before, f"step {before} is lost")
    tried.finish(whole)
    return tried.row(
        "`kill -9` of either of two processes: the other ends with 1 within "
        f"{STOP_SECONDS} s and names rank and step; all as uninterrupted"
    )


def killed_while_saving(
    folder: Path,
    model: Path,
    num_tries: int = 8,
    strategies: Sequence[str] = ("ddp", "fsdp", "deepspeed"),
) -> Row:
    """`kill -9` of both of two processes, or of either, while they write beside the steps."""
    tries, failures, num_hit = 0, list[str](), 0
    checkpoint = {"every_steps": 2, "keep_last": 2, "asynchronous": True}
    for strategy in strategies:
        own = folder / strategy
        own.mkdir()
        tried, whole = trial(own, model, 2, strategy=strategy, checkpoint=checkpoint)
        for number in range(num_tries):
            before, known = newest_whole(tried.run), parts(tried.run)
            processes = tried.start()
            tried.until(lambda run=tried.run, known=known: bool(parts(run) - known), processes)
            time.sleep(tried.chance.uniform(0, 0.03))
            for process in (processes, processes[:1], processes[1:])[number % 3]:
                process.kill()
            tried.ends(processes, STOP_SECONDS)
            num_hit += bool(parts(tried.run) - known)
            found = newest_whole(tried.run)
            tried.expect(found >= before, f"the checkpoint of {before} is lost")
        tried.finish(whole)
        tries += tried.num_tries
        failures += [f"{strategy}, {failure}" for failure in tried.failures]
    notes = f"{num_hit} of the kills hit a half-written checkpoint. {listed(failures)}".strip()
    return Row(
        f"Saving beside the steps on two processes, with {', '.join(strategies)}; `kill -9` of "
        "both, or of either, while they write: nothing partial, nothing lost; all as uninterrupted",
        tries,
        len(failures),
        notes,
    )


def parts(run: Path) -> set[Path]:
    """Checkpoints that are being written, or were when a process was killed."""
    return set((run / "checkpoints").glob(".step-*.part-*"))


def hung_rank(folder: Path, model: Path, num_tries: int = 2) -> Row:
    """SIGSTOP on either of two processes that a launcher started."""
    recipe = write_run(folder, model, "hangs", {**SECTIONS, "trainer": {"max_steps": 100_000}})
    tried = Trial(recipe, folder / "hangs", random.Random(1), 2)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines", "1", "--num_processes", "2", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "framework.train"]
    command += ["--peer-timeout", str(PEER_TIMEOUT_SECONDS), str(recipe)]
    for number in range(num_tries):
        tried.run = folder / f"hangs-{number}"
        launcher = subprocess.Popen(
            [*command, f"output.dir={tried.run}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )
        bad = number % 2
        tried.until(lambda: num_rows(tried.run / "samples.jsonl") > 5, [launcher])
        workers = _workers(launcher.pid)
        os.kill(workers[bad], signal.SIGSTOP)
        began = time.monotonic()
        while _is_alive(workers[1 - bad]) and time.monotonic() - began < WAIT_SECONDS:
            time.sleep(0.05)
        took = time.monotonic() - began
        (said,) = tried.ends([launcher], WAIT_SECONDS)
        tried.seconds[-1] = took
        tried.expect(took <= PEER_TIMEOUT_SECONDS + 30, f"the other ended after {took:.0f} s")
        named = re.search(rf"lost: rank {bad} on \S+, in step (\d+)", said)
        tried.expect(named, f"rank and step are not named: {said[-300:]}")
        left = [rank for rank, pid in workers.items() if _is_alive(pid)]
        tried.expect(not left, f"rank {left} is left behind")
    return tried.row(
        "SIGSTOP on either of two launched processes: the other ends within the peer timeout "
        f"({PEER_TIMEOUT_SECONDS} s) + 30 s, rank and step are named, no process is left"
    )


def _workers(launcher: int) -> dict[int, int]:
    """Rank -> process, of those that a launcher started."""
    found: dict[int, int] = {}
    for pid in _children(launcher):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                found[int(variable.removeprefix(b"RANK="))] = pid
    return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def two_runs(folder: Path, model: Path, num_tries: int = 6) -> Row:
    """A second start in the folder of a run, before and after the first one was killed."""
    tried, whole = trial(folder, model, trainer={**SECTIONS["trainer"], "max_steps": 5 * STEPS})
    for _ in range(num_tries):
        (first,) = tried.train_a_while()
        (second,) = tried.start()
        (said,) = tried.ends([second], WAIT_SECONDS)
        tried.expect(second.returncode == 3, f"ended with {second.returncode}: {said}")
        tried.expect("another process is running in" in said, said[-300:])
        tried.expect(first.poll() is None, "the first one has ended")
        first.kill()
        first.communicate()
        tried.expect((tried.run / ".lock").exists(), "no lock is left behind, which proves nothing")
    tried.seconds.clear()
    tried.finish(whole)
    return tried.row(
        "A second start in the folder of a run: refused with 3 while the first one runs, not "
        "refused by the lock of one that was killed with `kill -9`; all as uninterrupted"
    )
