"""A trained model -> its folder; a finished run -> its report and the table that the user sees."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from framework.chat.template import served_template
from framework.core.evaluation import Evaluation, paired
from framework.core.protocols.models import Saving
from framework.core.registries import component_name
from framework.data.prepared import PreparedData
from framework.data.preview import visible
from framework.engine.model_card import model_card
from framework.models.deferred import without_importing_deepspeed
from framework.models.load import Bundle
from framework.models.policy import plain_model
from framework.models.quiet import quiet
from framework.planning.plan import Plan
from framework.runs.result import Origin, Result
from framework.runs.run_directory import RunDirectory

NUM_SHOWN = 3
MOST_CHARACTERS = 200


def export(plan: Plan, bundle: Bundle, directory: RunDirectory, result: Result) -> Result:
    """Writes `report.html`; on the main process, prints before and after.

    Raises:
        OSError: the disk is full; the model is written already.
    """
    final, report = plan.output_dir / "final", plan.output_dir / "report.html"
    if directory.is_main:
        from framework.reports.run_report import write_report

        origin = result.origin
        assert origin is not None
        directory.write(
            "result.json",
            {
                "num_steps": result.num_steps,
                "training_seconds": result.training_seconds,
                "eval_loss": result.eval_loss,
                "final_dir": str(final),
                "final_step": origin.step,
                "final_model": str(origin),
                "num_parameters": bundle.num_parameters,
                "num_trained_parameters": bundle.num_trained_parameters,
                "adapter": component_name(plan.recipe.adapter),
                "trainer": component_name(plan.recipe.trainer.method),
            },
        )
        write_report(plan.output_dir)
        print_before_and_after(result.before, result.after)
        print(f"model   {final}\nreport  {report}")
    return dataclasses.replace(result, final_dir=final, report_path=report)


def save_model(model: Any, data: PreparedData, folder: Path, plan: Plan, origin: Origin) -> None:
    """The adapter or the model, the tokenizer, and where generation has to stop."""
    tokenizer = data.tokenizer
    adapter = plan.recipe.adapter
    with quiet(), without_importing_deepspeed():
        if isinstance(adapter, Saving):
            adapter.save(model, folder)
        else:
            model.save_pretrained(folder, safe_serialization=True)
        if plan.recipe.model.rope_scaling is not None:
            # Beside an adapter too: its base has to be loaded with these positions.
            plain: Any = plain_model(model)
            plain.config.save_pretrained(folder)
    chosen = plan.recipe.tokenizer
    if data.chat.template and (chosen.chat_template or chosen.template_arguments):
        # A server has to render what was trained, not what the base model came with.
        tokenizer = copy.copy(tokenizer)
        special = tokenizer.special_tokens_map
        tokenizer.chat_template = served_template(data.chat.template, special)
    tokenizer.save_pretrained(folder)
    generation = {
        "eos_token_id": sorted(data.end_token_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    kept = folder / "generation_config.json"
    written = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    kept.write_text(json.dumps({**written, **generation}, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(plan, folder, origin), encoding="utf-8")


def print_before_and_after(before: Sequence[Evaluation], after: Sequence[Evaluation]) -> None:
    """A line for each metric, and the first answers side by side."""
    console = Console()
    for base, tuned in paired(before, after):
        if tuned is None:
            continue
        table = Table(title=f"{tuned.metric} on {len(tuned.answers)} held-out requests")
        table.add_column("")
        table.add_column("base model", overflow="fold")
        table.add_column("fine-tuned", overflow="fold")
        table.add_row(tuned.metric, f"{base.value:.1%}" if base else "-", f"{tuned.value:.1%}")
        for row, answer in enumerate(tuned.answers[:NUM_SHOWN]):
            table.add_section()
            said = base.answers[row].answer if base else "-"
            table.add_row(_shown(answer.prompt), _shown(said), _shown(answer.answer))
        console.print(table)


def _shown(text: str) -> Text:
    """One short paragraph; as text, not markup, since an answer may hold brackets."""
    line = visible(" ".join(text.split()))
    return Text(line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…")
