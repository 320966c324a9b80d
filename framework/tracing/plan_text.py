"""What a run will need -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from framework.core.registries import component_name
from framework.reports.quantities import bytes_text, duration_text, short_count
from framework.tracing.outlook import Option, Outlook
from framework.tracing.peak import NEAR

KINDS = {
    "weights": "weights, and their copies in another dtype",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits",
    "other": "buffers, libraries",
}
PHASES = {
    "forward": "between the forward pass and the first gradients",
    "backward": "at the end of the backward pass",
    "step": "in the optimizer's step",
}


def print_outlook(outlook: Outlook, console: Console) -> None:
    """Model, memory, run, communication, and what to change."""
    console.print(Rule("model", align="left", style="dim"))
    console.print(_modules(outlook))
    if outlook.lacking:
        lacking = ", ".join(f"no {one}" for one in outlook.lacking)
        said = f"planned from the model's config.json: there are {lacking}"
        console.print(said, soft_wrap=True)
    console.print(Rule("memory of each device", align="left", style="dim"))
    console.print(_memory(outlook))
    console.print(_verdict(outlook), soft_wrap=True)
    if outlook.options:
        console.print(_options(outlook.options))
    console.print(Rule("run", align="left", style="dim"))
    console.print(_rows(list(_run(outlook))))
    for note in outlook.plan.notes:
        console.print(note, soft_wrap=True)
    if outlook.transfers:
        console.print(Rule("sent per step by each device", align="left", style="dim"))
        console.print(_transfers(outlook))
    for note in outlook.notes:
        console.print(f"not known: {note}", soft_wrap=True)


def _rows(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _modules(outlook: Outlook) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("module")
    table.add_column("parameters", justify="right")
    table.add_column("trained", justify="right")
    for name, number, trained in outlook.trace.modules:
        table.add_row(name, f"{number:,}", f"{trained:,}")
    whole = outlook.trace
    table.add_row("all", f"{whole.num_parameters:,}", f"{whole.num_trained:,}")
    return table


def _memory(outlook: Outlook) -> Table:
    memory = outlook.memory
    rows = [(KINDS[name], bytes_text(number)) for name, number in memory.kinds().items()]
    rows.append(("peak, " + PHASES[memory.phase], bytes_text(memory.peak)))
    if memory.host:
        rows.append(("in the machine's memory, for each device", bytes_text(memory.host)))
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _verdict(outlook: Outlook) -> str:
    device, name = outlook.cluster.device, outlook.cluster.device_name
    room = bytes_text(device.memory_bytes)
    peak = outlook.memory.peak
    if not outlook.fits:
        over = bytes_text(peak - device.memory_bytes)
        return f"does not fit: {over} more than the {room} of {name}"
    close = ", with little room for fragments" if peak > NEAR * device.memory_bytes else ""
    return f"fits: {peak / device.memory_bytes:.0%} of the {room} of {name}{close}"


def _options(options: tuple[Option, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("write instead")
    table.add_column("peak", justify="right")
    table.add_column("")
    for one in options:
        table.add_row("\n".join(one.lines), bytes_text(one.peak_bytes), "fits" if one.fits else "")
    return table


def _run(outlook: Outlook) -> Iterator[tuple[str, str]]:
    plan, cluster, steps = outlook.plan, outlook.cluster, outlook.steps
    yield (
        "devices",
        f"{cluster.num_devices} x {cluster.device_name} on {cluster.num_nodes} "
        f"node{'s' if cluster.num_nodes > 1 else ''}, {component_name(plan.recipe.strategy)}",
    )
    trainer = plan.recipe.trainer
    yield (
        "batch",
        f"{trainer.global_batch_size}: {plan.data_parallel_size} x {_a_pass(outlook)}",
    )
    yield (
        "lengths",
        ("exact" if outlook.lengths.exact else "estimated") + (f": {outlook.lengths.origin}"),
    )
    if steps is None or outlook.num_tokens is None:
        yield "steps", "not known: prepare the data, or write trainer.max_steps"
    else:
        yield "steps", f"{steps.num_steps:,}"
        yield "tokens", short_count(outlook.num_tokens)
        work = outlook.operations_per_step * steps.num_steps * cluster.num_devices
        yield "operations", f"{work:.2e} FLOPs, what is computed again included"
    yield from _cost(outlook)


def _a_pass(outlook: Outlook) -> str:
    """What it has, and how many there are."""
    size, lengths = outlook.plan.pass_size, outlook.lengths
    number = f"{lengths.passes_per_step:.3g} passes a step"
    if size.num_units is None:
        return f"auto, {number} of at most {size.num_tokens:,} tokens"
    why = f" (auto: {size.reason})" if size.reason else ""
    return f"{size.num_units}, {number}{why}"


def _cost(outlook: Outlook) -> Iterator[tuple[str, str]]:
    cost = outlook.cost
    if cost.step_seconds is None or cost.tokens_per_second is None:
        yield "time", f"not known for {outlook.cluster.device_name}"
        return
    yield "a step", _between(*map(duration_text, cost.step_seconds))
    yield "tokens a second", _between(*map(short_count, cost.tokens_per_second))
    if cost.seconds is not None:
        yield "time", _between(*map(duration_text, cost.seconds))
    if cost.dollars is not None:
        yield "cost", _between(*(f"${one:,.2f}" for one in cost.dollars))


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _transfers(outlook: Outlook) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in outlook.transfers:
        table.add_row(one.collective, one.what, bytes_text(one.sent_bytes))
    return table
