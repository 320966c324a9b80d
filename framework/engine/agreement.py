"""What all processes of a run must have in common, and refuse to start without."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from framework.distributed.peers import Peers
from framework.planning.plan import Plan
from framework.recipe.explain import explain_all
from framework.runs.run_directory import RunDirectory
from framework.runs.versions import package_versions

if TYPE_CHECKING:
    from framework.data.prepared import PreparedData

_TRACKING = re.compile(r"tracking\.")
_PLACES = re.compile(r"tracking\.|data\.(train|eval|test)\[\d+\]\.source(\.|$)")
"""What may differ: only the main process tracks, and prepared rows are compared themselves."""
NODES_HINT = "docs/troubleshooting.md: Nodes differ"
FOLDER_HINT = "write a folder that all nodes share; docs/troubleshooting.md: Shared file systems"
_APPEARS_SECONDS = 20.0
"""What a file has to be seen on the other nodes of a shared file system."""


def same_versions(peers: Peers) -> None:
    """Refuses nodes with other code than the main one's."""
    if not peers.are_several:
        return
    peers.agree(
        "versions", package_versions(), f"install the same versions on every node; {NODES_HINT}"
    )


def same_recipe(peers: Peers, plan: Plan) -> None:
    """Refuses nodes that were started with another recipe."""
    if not peers.are_several:
        return
    free = _PLACES if plan.recipe.data.streaming is None else _TRACKING
    explained = explain_all(plan.resolved)
    facts = {one.key: one.value for one in explained if not free.match(one.key)}
    peers.agree("recipe", facts, f"start every node with the same recipe; {NODES_HINT}")


def same_folder(peers: Peers, directory: RunDirectory) -> None:
    """Refuses nodes that don't see what the main process writes."""
    if not peers.are_several:
        return
    mark = directory.path / peers.from_main("mark", f".seen-by-all-{secrets.token_hex(8)}")
    if directory.is_main:
        mark.touch()
    peers.from_main("marked", "")
    seen = _appears(mark)
    place = str(directory.path) if seen else f"{directory.path}, a folder of that node alone,"
    try:
        peers.agree("folder", {"output.dir": place}, FOLDER_HINT)
    finally:
        if directory.is_main:
            mark.unlink(missing_ok=True)


def same_data(peers: Peers, data: PreparedData) -> None:
    """Refuses nodes whose files hold other rows, or make other tokens of them."""
    train = data.train.fingerprint if data.stream is None else data.stream.fingerprint
    facts = {"data.train": train}
    if data.eval is not None:
        facts["data.eval"] = data.eval.fingerprint
    hint = f"see that every node reads the same files; {NODES_HINT}"
    peers.agree("data", {name: f"content {value}" for name, value in facts.items()}, hint)


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _APPEARS_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
