"""`framework train`: one recipe, in this process; `accelerate launch` starts several."""

from __future__ import annotations

from framework.arguments import AllowedEnvironment, AllowedUrls, Overrides, PeerTimeout, RecipePath
from framework.distributed.peers import DEFAULT_TIMEOUT_SECONDS


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    peer_timeout: PeerTimeout = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Train a recipe, from its newest checkpoint if there is one."""
    from framework.train import run as train

    train(recipe, overrides or (), allow_env or (), allow_url or (), peer_timeout)
