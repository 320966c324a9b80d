"""Contenders -> figures measured side by side, and the page that shows them.

Every contender is a process of its own, on one thread. They are started one after the other and
then wait: in each round every one of them does one optimizer step, or one whole piece of work, so
what else the machine does meets them alike. The first round is thrown away.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from contenders.protocol import GO, PREFIX, Job
from contenders.set_up import interpreter

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
OWN = "framework"
RECIPE = HERE.parent / "recipes" / "smollm2" / "sft_lora.yaml"
"""Whose model all are given: SmolLM2-135M-Instruct."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of a table."""

    title: str
    script: str
    """File in `contenders/`, without `.py`."""
    environment: str = OWN
    """Whose Python runs it; `set_up.py` makes those of peers."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """What is its own in the job that all of the table's contenders have."""
    rival: str = ""
    """Title of the contender that it is compared with; empty: the table's first one."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was seen of a contender."""

    contender: Contender
    start: Mapping[str, Any]
    """Its message before the first step; empty for work in one go."""
    rounds: tuple[Mapping[str, Any], ...]
    """Its message of each round, the first one left out where it takes turns."""
    first_round: Mapping[str, Any] = field(default_factory=dict)
    """The one that was left out."""

    def median(self, name: str) -> float:
        """Over the rounds."""
        return median(one[name] for one in self.rounds)

    @property
    def rate(self) -> float:
        """Real tokens per CPU-second."""
        return median(one["num_tokens"] / one["cpu_seconds"] for one in self.rounds)

    @property
    def wall_rate(self) -> float:
        """Real tokens per second of the clock."""
        return median(one["num_tokens"] / one["wall_seconds"] for one in self.rounds)

    @property
    def spread(self) -> str:
        """Slowest and fastest round."""
        rates = [one["num_tokens"] / one["cpu_seconds"] for one in self.rounds]
        return f"{min(rates):,.0f}-{max(rates):,.0f}"

    @property
    def peak_gib(self) -> float:
        """Peak resident memory."""
        return max(one["peak_rss_bytes"] for one in self.rounds) / 2**30


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a table is measured with."""

    folder: Path
    """For everything that is written on the way; deleted in the end."""
    data: Path
    """Folder with `alpaca_en_demo.json` and `dpo_en_demo.json`."""
    rounds: int
    same: bool = False
    """Whether there are just the rows of one step, the same in each."""
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Processes that wanted a processor in the minute before: figures are sound below 0.5."""
    missing: list[str] = field(default_factory=list)
    """Sentences about contenders that were left out."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Environment -> package -> version."""

    def num_rows(self, step_size: int) -> int:
        """Rows that all rounds take, where each takes so many."""
        return step_size if self.same else step_size * (1 + self.rounds)

    def model(self) -> str:
        """Folder of the model in Hugging Face layout."""
        command = [sys.executable, HERE / "contenders" / "framework_model.py", RECIPE]
        done = subprocess.run(
            command, env=variables(OWN), check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.splitlines()[-1]

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        """The rows as a file that every contender reads."""
        path = self.folder / f"{name}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    def in_turns(self, contenders: Sequence[Contender], job: Job) -> dict[str, Measured]:
        """Title -> what was measured, an optimizer step of each contender in each round."""
        with ExitStack() as stack:
            started: list[tuple[Contender, Running, Mapping[str, Any]]] = []
            for one in contenders:
                if not self.is_present(one.title, one.environment):
                    continue
                running = stack.enter_context(self._start(one, job))
                started.append((one, running, running.listen("ready")))
                self.note_versions(one.environment, started[-1][2]["versions"])
                print(f"  {one.title}: ready", flush=True)
            rounds: list[list[Mapping[str, Any]]] = []
            for number in range(1 + self.rounds):
                rounds.append([running.turn() for _, running, _ in started])
                print(f"  round {number}: {_told(rounds[-1])}", flush=True)
        return {
            one.title: Measured(contender=one, start=start, rounds=tuple(of_one), first_round=first)
            for (one, _, start), first, *of_one in zip(started, *rounds, strict=True)
        }

    def in_one_go(self, contenders: Sequence[Contender], job: Job) -> dict[str, Measured]:
        """Title -> what was measured, a new process of each contender in each round."""
        present = [one for one in contenders if self.is_present(one.title, one.environment)]
        rounds: list[list[Mapping[str, Any]]] = []
        for number in range(self.rounds):
            rounds.append([])
            for one in present:
                with self._start(one, job) as running:
                    rounds[-1].append(running.listen("done"))
                self.note_versions(one.environment, rounds[-1][-1]["versions"])
            print(f"  round {number}: {_told(rounds[-1])}", flush=True)
        return {
            one.title: Measured(contender=one, start={}, rounds=tuple(of_one))
            for one, *of_one in zip(present, *rounds, strict=True)
        }

    def is_present(self, title: str, environment: str, packages: Sequence[str] = ()) -> bool:
        """Whether it can be measured; if it can't, the table says so.

        Args:
            packages: whose versions the table shows.
        """
        if not python_of(environment).is_file():
            self.missing.append(f"{title}: not measured, its environment was not made")
            return False
        if packages:
            self.note_versions(environment, versions_in(environment, packages))
        return True

    def note_versions(self, environment: str, versions: Mapping[str, str]) -> None:
        """For the table's last line."""
        self.versions.setdefault(environment, {}).update(versions)

    @contextmanager
    def _start(self, contender: Contender, job: Job) -> Iterator[Running]:
        folder = Path(tempfile.mkdtemp(prefix=contender.script, dir=self.folder))
        own = replace(job, folder=str(folder), **contender.job)
        (folder / "job.json").write_text(json.dumps(asdict(own)), encoding="utf-8")
        script = HERE / "contenders" / f"{contender.script}.py"
        caches = {"HF_DATASETS_CACHE": folder / "datasets", "XDG_CACHE_HOME": folder / "cache"}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [python_of(contender.environment), script, folder / "job.json"],
                env={**variables(contender.environment), **caches},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                yield Running(contender.title, process, folder / "log.txt")
            finally:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Running:
    """A contender's process."""

    title: str
    process: subprocess.Popen[str]
    log: Path

    def listen(self, kind: str) -> Mapping[str, Any]:
        """Its next message, which must be of this kind; what libraries print goes to its log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(PREFIX):
                message = json.loads(line.removeprefix(PREFIX))
                assert message.pop("kind") == kind, message
                return message
        said = self.log.read_text(encoding="utf-8")[-4000:]
        sys.exit(f"{self.title} ended with {self.process.wait()}:\n{said}")

    def turn(self) -> Mapping[str, Any]:
        """One optimizer step."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: `listen` says with what
            self.process.stdin.write(f"{GO}\n")
            self.process.stdin.flush()
        return self.listen("step")


def variables(environment: str) -> dict[str, str]:
    """What processes of an environment see: one thread, no network, and their own packages, whose
    compiled modules are kept, as they are unless somebody forbids it."""
    path = str(HERE.parent) if environment == OWN else str(HERE / "contenders")
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **ONE_THREAD, "PYTHONPATH": path}


def python_of(environment: str) -> Path:
    """The interpreter of an environment."""
    return Path(sys.executable) if environment == OWN else interpreter(environment)


def versions_in(environment: str, packages: Sequence[str]) -> dict[str, str]:
    """What is installed there."""
    asking = (
        "import json, sys; from importlib.metadata import version\n"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [python_of(environment), "-c", asking, *packages],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def run_command(command: Sequence[str | Path], environment: Mapping[str, str]) -> dict[str, float]:
    """CPU and wall seconds of a whole command and its children, and its peak memory.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, output.read())
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.monotonic() - started,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def _told(messages: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['cpu_seconds']:.1f}" for one in messages) + " CPU-s"


# ---- the page


def growth_table(measured: Mapping[str, Measured]) -> str:
    """Speed and memory beside those of the first row."""
    columns = (
        "",
        "tokens per CPU-s",
        "slowest-fastest step",
        "of the first row",
        "peak GiB",
        "CPU-s before the first step",
    )
    first = next(iter(measured.values()))
    rows = [
        (
            one.contender.title,
            f"{one.rate:,.0f}",
            one.spread,
            f"{one.rate / first.rate:.0%}",
            f"{one.peak_gib:.2f}",
            f"{one.start['cpu_seconds']:.0f}",
        )
        for one in measured.values()
    ]
    return markdown(columns, rows)


def training_table(measured: Mapping[str, Measured]) -> str:
    """Speed, memory, and what shows that all did the same work."""
    columns = (
        "",
        "tokens per CPU-s",
        "slowest-fastest step",
        "ours is",
        "tokens per s",
        "peak GiB",
        "CPU-s before the first step",
        "tokens per step",
        "trained tokens",
        "loss of the first step",
        "numbers",
    )
    first = next(iter(measured.values()))
    rows = []
    for one in measured.values():
        rival = measured[one.contender.rival] if one.contender.rival else first
        num_tokens = sum(step["num_tokens"] for step in one.rounds)
        num_trained = sum(step["num_trained_tokens"] for step in one.rounds)
        rows.append(
            (
                one.contender.title,
                f"{one.rate:,.0f}",
                one.spread,
                "" if one is rival or one is first else f"{rival.rate / one.rate:.2f}x",
                f"{one.wall_rate:,.0f}",
                f"{one.peak_gib:.2f}",
                f"{one.start['cpu_seconds']:.0f}",
                f"{num_tokens / len(one.rounds):,.0f}",
                f"{num_trained / num_tokens:.0%}",
                f"{one.first_round['loss']:.4f}",
                one.start["dtypes"],
            )
        )
    return markdown(columns, rows)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; every column but the first is one of numbers."""
    head = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def write_table(page: Path, name: str, text: str) -> None:
    """Puts the text where the page has the table's place.

    Raises:
        ValueError: it has none.
    """
    begin, end = f"<!-- table {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page} lacks the line {begin!r} or, after it, {end!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def footer(bench: Bench, command: str) -> str:
    """Where the figures are from."""
    versions = [
        f"{'this environment' if name == OWN else name}: "
        + ", ".join(f"{package} {number}" for package, number in sorted(packages.items()))
        for name, packages in bench.versions.items()
    ]
    commit = subprocess.run(
        ["git", "-C", HERE, "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    own = version("framework") + (f" ({commit})" if commit else "")
    lines = [
        f"`{command}`, {bench.rounds} rounds, medians; {machine()}, load {bench.load:.1f} before; "
        f"framework {own}; " + "; ".join(versions) + ".",
        *(f"{one}." for one in bench.missing),
    ]
    return "\n\n".join(lines)


def machine() -> str:
    """Processor, its number of cores and what it multiplies 16-bit matrices with, and memory."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = [line.partition(":") for line in text.splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in lines if value}
    flags = set(facts.get("flags", "").split())
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags][:1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{facts.get('model name', platform.machine())} (model {facts.get('model', '?')}"
        f"{', ' + fast[0] if fast else ''}), {os.cpu_count()} cores of which one thread is used, "
        f"{memory:.0f} GiB, Python {platform.python_version()}"
    )
