"""Folder of a disk that DeepSpeed swaps to -> what is missing, in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from framework.core.problems import Problem, UserError
from framework.distributed.zero import import_deepspeed

KEY = "strategy.offload_folder"


def check_disk(folder: str, accelerator: Accelerator) -> None:
    """
    Raises:
        UserError: this process can't write there, or DeepSpeed has nothing to write with.
    """
    path = Path(folder)
    what = ""
    if not path.is_dir():
        what = "is no folder of this machine"
    elif not os.access(path, os.W_OK | os.X_OK):
        what = "can't be written to"
    if what:
        raise UserError(
            Problem(
                key=KEY,
                what=f"{folder!r} {what}",
                hint="make it on each machine, or write a folder that is there",
            )
        )
    import_deepspeed(accelerator)
    from deepspeed.accelerator import get_accelerator

    kind: Any = get_accelerator()
    if not kind.create_op_builder("AsyncIOBuilder").is_compatible(verbose=False):
        raise UserError(
            Problem(
                key=KEY,
                what="DeepSpeed's async_io, which reads and writes there, needs libaio and its "
                "headers",
                hint="apt install libaio-dev (Fedora, RHEL: dnf install libaio-devel), or write "
                "offload_optimizer: cpu",
            )
        )
