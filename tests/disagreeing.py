"""Runs of one recipe by processes on two nodes, which don't have all in common.

`python disagreeing.py FOLDER`, where FOLDER holds `HOW.yaml`, and `HOW.other.yaml` where the second
node has another recipe; writes `FOLDER/HOW.json`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from forks import run_groups

from framework.models.quiet import quiet_imports

_OWN_MOUNTS, _OWN_NAME = 0x00020000, 0x04000000


def run(how: str, folder: Path) -> None:
    """One process of the run."""
    from framework import train

    node = "ab"[int(os.environ["GROUP_RANK"])]
    if ctypes.CDLL(None, use_errno=True).unshare(_OWN_MOUNTS | _OWN_NAME):
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname(f"node-{node}")
    recipe = folder / f"{how}.yaml"
    if node == "b":
        other = folder / f"{how}.other.yaml"
        recipe = other if other.exists() else recipe
        change_node(how, folder)
    train(recipe, [f"output.dir={folder / how / 'run'}"], peer_timeout=120)


def change_node(how: str, folder: Path) -> None:
    if how == "interface":
        os.environ["GLOO_SOCKET_IFNAME"] = "wrong0"
    if how == "versions":
        version = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.1" if name == "torch" else version(name)
    if how == "folder":
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        (folder / how).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "own", str(folder / how)], check=True)


def main(folder: Path) -> None:
    quiet_imports()
    import torch.distributed.rendezvous
    import torch.distributed.tensor  # noqa: F401

    import framework.engine.export
    import framework.engine.fit  # noqa: F401

    names = sorted(path.stem for path in folder.glob("*.yaml") if ".other" not in path.stem)
    run_groups({how: partial(run, how, folder) for how in names}, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
