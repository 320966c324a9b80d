"""The README.md of a trained model: what the Hub reads at its head, and what people do."""

from __future__ import annotations

import pytest
import yaml

from framework.core.world import World
from framework.engine.model_card import model_card
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.runs.result import Origin

ORIGIN = Origin(step=3, num_steps=3)


@pytest.fixture
def card_of(write_recipe, tmp_path):
    """The card of a model in `tmp_path`, for a model source as it is written."""

    def card(source: object, *overrides: str) -> tuple[dict[str, object], str]:
        recipe = resolve_with_origins(write_recipe(**{"model.source": source}), overrides)
        text = model_card(make_plan(recipe, World()), tmp_path, ORIGIN)
        _, head, body = text.split("---\n", 2)
        return yaml.safe_load(head), body

    return card


@pytest.mark.parametrize(
    ("source", "overrides", "base"),
    [
        ("owner/name", (), "owner/name"),
        ("owner/name@abc", (), "owner/name"),
        ({"type": "hub", "repo": "owner/name"}, (), "owner/name"),
        ({"type": "hub", "repo": "owner/name", "revision": "abc"}, (), "owner/name"),
        ("owner/name", ("model.source.revision=abc",), "owner/name"),
    ],
)
def test_a_model_of_the_hub_is_named_so_that_the_hub_finds_it(card_of, source, overrides, base):
    head, body = card_of(source, *overrides)
    assert head["base_model"] == base
    assert "from `owner/name" in body


def test_a_gguf_file_of_the_hub_is_named_by_its_repository(card_of):
    head, body = card_of("owner/name/file.gguf")
    assert head["base_model"] == "owner/name"
    assert "from `owner/name/file.gguf`" in body


def test_a_folder_is_no_base_model_and_is_named_as_it_is_written(card_of, tiny_model_dir, tmp_path):
    (tmp_path / "base").symlink_to(tiny_model_dir)
    head, body = card_of("./base")
    assert head == {"library_name": "transformers", "tags": ["sft"]}
    assert "from `./base`; this is the model after step 3, the last one." in body
    assert str(tmp_path) not in body


def test_an_adapter_is_loaded_by_peft(card_of, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert card_of("owner/name")[0]["library_name"] == "peft"
