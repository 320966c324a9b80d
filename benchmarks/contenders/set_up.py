"""Peers that don't fit beside this framework -> an environment of their own for each, from PyPI.

    python benchmarks/contenders/set_up.py [llama_factory] [axolotl] [torchtune]

They go to ~/.cache/framework-benchmarks, or the folder that FRAMEWORK_BENCHMARKS names; one that is
there is made again. Versions are pinned, and PyTorch is the one that this framework is measured
with: on a machine whose package index has CPU builds, nothing of CUDA comes down.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement

TORCH = "torch==2.13.0"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What is installed."""

    package: str
    """With its version."""
    without: tuple[str, ...] = ()
    """Dependencies that training text on a CPU has no use for."""
    further: tuple[str, ...] = ()
    """What it needs and doesn't say."""


PEERS = {
    "llama_factory": Peer(
        package="llamafactory==0.9.5", without=("torchaudio", "torchvision", "gradio", "av")
    ),
    # The last one for Python 3.11: PyPI's PyTorch for later Pythons is the one with CUDA.
    "axolotl": Peer(
        package="axolotl==0.19.0",
        without=(
            "adlfs",
            "fla-core",
            "flash-linear-attention",
            "gcsfs",
            "gradio",
            "lm_eval",
            "modal",
            "ocifs",
            "s3fs",
            "trackio",
            "xformers",
        ),
    ),
    "torchtune": Peer(package="torchtune==0.6.1", further=("torchao==0.13.0",)),
}


def environment(name: str) -> Path:
    """Folder of a peer's environment."""
    folder = os.environ.get("FRAMEWORK_BENCHMARKS", "~/.cache/framework-benchmarks")
    return Path(folder).expanduser() / name


def interpreter(name: str) -> Path:
    """The Python of a peer's environment."""
    return environment(name) / "bin" / "python"


def main() -> None:
    """Makes the environments that are asked for."""
    parser = argparse.ArgumentParser(description="Make environments for peers.")
    parser.add_argument("peers", nargs="*", choices=[[], *PEERS], help="All, if none is named.")
    for name in parser.parse_args().peers or PEERS:
        print(f"{name}: {environment(name)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment(name)], check=True)
        peer = PEERS[name]
        _install(name, "--no-deps", peer.package)
        _install(name, TORCH, *peer.further, *_dependencies(name, peer))


def _install(name: str, *packages: str) -> None:
    command = [interpreter(name), "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(command, check=True)


def _dependencies(name: str, peer: Peer) -> Iterator[str]:
    """What the installed package says that it needs."""
    (folder,) = (environment(name) / "lib").glob("python*/site-packages")
    project = peer.package.partition("==")[0]
    (found,) = distributions(name=project, path=[str(folder)])
    for line in found.requires or ():
        needed = Requirement(line)
        wanted = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if wanted and needed.name not in peer.without and needed.name != "torch":
            needed.marker = None
            yield str(needed)


if __name__ == "__main__":
    main()
