"""A trained model's folder -> its README.md, with what the Hugging Face Hub reads at its head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from framework.core.protocols.models import Loading, OnHub
from framework.core.registries import component_name
from framework.planning.plan import Plan
from framework.runs.result import Origin


def model_card(plan: Plan, folder: Path, origin: Origin) -> str:
    """What the model is, where it comes from and how it is loaded."""
    recipe = plan.recipe
    return (
        "\n".join(["---", *_metadata(plan, folder), "---"]) + f"\n\n# {plan.output_dir.name}\n\n"
        f"Trained with `{component_name(recipe.trainer.method)}`, "
        f"adapter `{component_name(recipe.adapter)}`, "
        f"from `{_written_source(plan)}`; this is {origin}.\n"
        "The complete recipe is `resolved.yaml` in the run's folder.\n" + _how_to_load(plan)
    )


def _metadata(plan: Plan, folder: Path) -> Iterator[str]:
    """Lines of YAML. The Hub refuses a base model that is no name there, so a folder's is left
    out."""
    source = plan.recipe.model.source
    if isinstance(source, OnHub) and source.repo is not None:
        yield f"base_model: {source.repo}"
    is_peft = (folder / "adapter_config.json").is_file()
    yield f"library_name: {'peft' if is_peft else 'transformers'}"
    yield f"tags: [{component_name(plan.recipe.trainer.method)}]"


def _written_source(plan: Plan) -> str:
    """The model's source as the recipe has it, without what its path is on this machine."""
    source, written = plan.recipe.model.source, plan.resolved.values["model"]["source"]
    if isinstance(written, str):
        return written
    if isinstance(source, OnHub) and source.repo is not None:
        return f"{source.repo}@{source.revision}"
    return ", ".join(f"{key}: {value}" for key, value in written.items())


def _how_to_load(plan: Plan) -> str:
    adapter = plan.recipe.adapter
    own = f"\n{adapter.how_to_load}" if isinstance(adapter, Loading) else ""
    return own + _scaled_positions(plan)


def _scaled_positions(plan: Plan) -> str:
    if plan.recipe.model.rope_scaling is None or plan.recipe.adapter.trains_all_weights:
        return ""
    return (
        "\nThe positions are scaled, so the base model has to be loaded with this folder's "
        "config.json:\n\n"
        "    config = AutoConfig.from_pretrained(THIS_FOLDER)\n"
        "    base = AutoModelForCausalLM.from_pretrained(BASE, config=config)\n"
        "    model = PeftModel.from_pretrained(base, THIS_FOLDER)\n"
    )
