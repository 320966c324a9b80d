"""Fault after fault in exact steps of one run: each is told, none costs more than its step."""

from __future__ import annotations

import signal
import socket

import fault_plugin
import pytest
from prove.runs import checkpoint_steps, differences, resumed_after
from warm_start import run_group

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.long]

SECOND = f"rank 1 on {socket.gethostname()}"
FAULTS = {
    "rank=1 step=3 kind=memory": ([1, 1], "out of memory (rank 1 on cpu)", 2),
    "rank=0 step=1 kind=fails": ([1, 1], "the disk is full; free space", 2),
    "rank=1 step=2 kind=dies": (
        [1, -signal.SIGKILL],
        f"lost: {SECOND}, in step 4; nothing was heard of it",
        3,
    ),
    "rank=1 step=2 kind=interrupted in_window=true": ([75, 75], "by a signal after step 5;", 5),
}
"""Fault -> exit codes, what is said once, and the step that the next start goes on from."""


def test_each_is_told_and_the_run_ends_as_if_there_had_been_none(
    write_recipe, tmp_path, monkeypatch
):
    recipe = write_recipe(
        data={"packing": False},
        trainer={"max_steps": 6, "global_batch_size": 4, "micro_batch_size": 1},
        checkpoint={"every_steps": 1, "keep_last": 2},
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_group(["train", str(recipe), f"output.dir={whole}"], 2).codes == [0, 0]
    for fault, (codes, says, newest) in FAULTS.items():
        monkeypatch.setenv(fault_plugin.VARIABLE, fault)
        group = run_group(["train", str(recipe), f"output.dir={cut}"], 2)
        assert group.codes == codes, group.output
        assert group.output.count(says) == 1, group.output
        assert "Traceback" not in group.output
        assert max(checkpoint_steps(cut)) == newest
    monkeypatch.delenv(fault_plugin.VARIABLE)
    assert run_group(["train", str(recipe), f"output.dir={cut}"], 2).codes == [0, 0]
    assert resumed_after(cut) == [newest for _, _, newest in FAULTS.values()]
    assert differences(cut, whole) == []
