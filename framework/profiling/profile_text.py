"""What profiling found -> what a terminal shows."""

from __future__ import annotations

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from framework.profiling.findings import Findings, Slice
from framework.profiling.profile import PROFILE, TRACE, Profile
from framework.reports.quantities import bytes_text, count_text, share_text, short_count

PEAKS = {
    "loss": "peak of the forward pass and the loss",
    "backward": "peak of the backward pass",
    "optimizer": "peak of the optimizer's step",
}
LEAST_SHOWN = 0.0005
"""Share of a step; what is smaller and computes nothing is left out."""


def print_profile(profile: Profile, console: Console) -> None:
    """Time, memory, speed, and what would help."""
    findings = profile.findings
    for fact in profile.facts:
        console.print(fact, soft_wrap=True, markup=False)
    console.print(Rule("time of a step", align="left", style="dim"))
    console.print(_times(findings))
    console.print(_pace(findings), soft_wrap=True)
    console.print(Rule("memory of a device", align="left", style="dim"))
    console.print(_memory(findings))
    console.print(Rule("what would help", align="left", style="dim"))
    for one in profile.advice:
        console.print(f"{one.rule}: {one.text}", soft_wrap=True, markup=False)
    if not profile.advice:
        console.print("nothing that is known")
    console.print(f"profile {profile.folder / PROFILE}", soft_wrap=True, markup=False)
    console.print(f"trace   {profile.folder / TRACE}", soft_wrap=True, markup=False)


def _times(findings: Findings) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("ms", "share", "GFLOP/s", "of peak", "kept"):
        table.add_column(name, justify="right")
    for one in sorted(findings.slices, key=lambda one: -one.seconds):
        if one.seconds >= LEAST_SHOWN * findings.seconds or one.operations:
            table.add_row(" ".join(one.place).strip(), *_numbers(one, findings))
    table.add_section()
    seconds = findings.seconds
    table.add_row(
        "all",
        _milliseconds(seconds),
        "100.0 %",
        f"{findings.operations / seconds / 1e9:,.1f}",
        share_text(findings.mfu),
        bytes_text(findings.memory.kept),
    )
    return table


def _numbers(one: Slice, findings: Findings) -> tuple[str, ...]:
    speed = one.operations / one.seconds if one.operations and one.seconds else 0.0
    return (
        _milliseconds(one.seconds),
        share_text(one.seconds / findings.seconds),
        f"{speed / 1e9:,.1f}" if speed else "",
        share_text(speed / findings.gemm_peak) if speed else "",
        bytes_text(one.kept_bytes) if one.kept_bytes else "",
    )


def _pace(findings: Findings) -> str:
    threads = f", {findings.num_threads} threads" if findings.device == "cpu" else ""
    ranks = f", rank 0 of {findings.num_processes}" if findings.num_processes > 1 else ""
    speed = short_count(findings.num_tokens / findings.seconds)
    return (
        f"{findings.num_steps} steps of {count_text(findings.num_tokens)} tokens, "
        f"{speed} tokens/s ({findings.device}{threads}{ranks}); MFU {share_text(findings.mfu)} of "
        f"{findings.gemm_peak / 1e9:,.0f} GFLOP/s, the measured peak of {findings.products_dtype} "
        f"products; a checkpoint takes {findings.save_seconds:.2f} s each "
        f"{count_text(findings.steps_per_save)} steps, {share_text(findings.save_ratio)} of all"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


def _memory(findings: Findings) -> Table:
    memory = findings.memory
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "kept for the backward pass": memory.kept,
        **{text: memory.peaks[name] for name, text in PEAKS.items() if name in memory.peaks},
    }
    for name, number in rows.items():
        table.add_row(name, bytes_text(number))
    return table
