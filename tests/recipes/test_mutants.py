"""Every shipped recipe, damaged by one edit, is refused at the damaged line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from shipped_recipes import ShippedRecipe

from framework.core.problems import UserError
from framework.core.registries import registry
from framework.core.settings import required, rule_of
from framework.recipe.build import field_types
from framework.recipe.resolve import resolve
from framework.recipe.schema import Recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("**/*.yaml"))
MIN_RECIPES = 5
MIN_MUTANTS = 300


@dataclass(frozen=True)
class Mutant:
    recipe: Path
    what: str
    text: str
    line: int
    """Where the damage is, from 1."""

    def __str__(self) -> str:
        return f"{self.recipe.parent.name}/{self.recipe.name}:{self.line}:{self.what}"


def misspelt(word: str, seed: str) -> str:
    """`word` with two neighbours swapped, or one letter left out or doubled."""
    chance = random.Random(seed)
    for _ in range(50):
        at = chance.randrange(len(word))
        kind = chance.choice(["swap", "drop", "double"])
        if kind == "swap" and at + 1 < len(word):
            new = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind == "drop" and len(word) > 1:
            new = word[:at] + word[at + 1 :]
        else:
            new = word[:at] + word[at] + word[at:]
        if new != word and new.strip():
            return new
    raise AssertionError(word)


def edited(text: str, node: yaml.Node, replacement: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    # A block ends where the next one begins; the white space between them stays.
    end = start + len(text[start:end].rstrip())
    return text[:start] + replacement + text[end:]


class Mutator:
    """Walks a recipe's YAML beside the schema; yields one damaged text for each edit."""

    def __init__(self, recipe: Path) -> None:
        self.recipe = recipe
        self.text = recipe.read_text(encoding="utf-8")

    def mutants(self) -> Iterator[Mutant]:
        root = yaml.compose(self.text)
        yield from self.section(Recipe, root, root)

    def mutant(self, what: str, node: yaml.Node, replacement: str) -> Mutant:
        text = edited(self.text, node, replacement)
        return Mutant(self.recipe, what, text, node.start_mark.line + 1)

    def section(self, owner: type, node: yaml.MappingNode, place: yaml.Node) -> Iterator[Mutant]:
        """`place`: the key under which the section stands."""
        own = {field.name: (owner, field) for field in fields(owner) if field.init}
        inline = next((field for _, field in own.values() if rule_of(field).inline), None)
        written = {key.value: value for key, value in node.value}
        if inline is not None:
            del own[inline.name]
            name = written["type"].value if "type" in written else inline.default
            component = registry(rule_of(inline).slot).get(name)
            own |= {field.name: (component, field) for field in fields(component) if field.init}
        for key, value in node.value:
            wrong = misspelt(key.value, f"{self.recipe.name}{key.value}")
            yield self.mutant(f"key {key.value} -> {wrong}", key, wrong)
            if key.value == "type" and inline is not None:
                yield from self.name(value)
            elif key.value in own:
                holder, field = own[key.value]
                yield from self.value(holder, field, value, key)
        for name in required(owner):
            if name in written and name in own:
                yield from self.without(node, place, name)

    def without(self, node: yaml.MappingNode, place: yaml.Node, name: str) -> Iterator[Mutant]:
        """The mapping with a required key left out; reported where the mapping stands."""
        if "extends:" in self.text:
            return  # another file has the key
        key, value = next(pair for pair in node.value if pair[0].value == name)
        lines = self.text.split("\n")
        begins_item = lines[key.start_mark.line].lstrip().startswith("- ")
        if node.flow_style or begins_item or len(node.value) == 1:
            return
        # The lines of the key and its value become comments, so that no other line moves.
        span = self.text[value.start_mark.index : value.end_mark.index].rstrip()
        last = value.start_mark.line + span.count("\n")
        for number in range(key.start_mark.line, last + 1):
            lines[number] = "#" + lines[number]
        text = "\n".join(lines)
        if place is node:
            place = yaml.compose(text)
        yield Mutant(self.recipe, f"no {name}", text, place.start_mark.line + 1)

    def name(self, node: yaml.Node) -> Iterator[Mutant]:
        wrong = misspelt(node.value, f"{self.recipe.name}{node.value}")
        yield self.mutant(f"component {node.value} -> {wrong}", node, wrong)
        yield self.mutant(f"component {node.value} -> 7", node, "7")

    def value(self, holder: type, field, node: yaml.Node, key: yaml.Node) -> Iterator[Mutant]:
        rule = rule_of(field)
        if rule.slot:
            items = node.value if isinstance(node, yaml.SequenceNode) else [node]
            for item in items:
                yield from self.slot(rule, item)
            return
        annotation = field_types(holder)[field.name]
        if is_dataclass(annotation):
            yield from self.section(annotation, node, key)
            yield self.mutant(f"{field.name} -> text", node, "some text")
            return
        if isinstance(node, yaml.SequenceNode):
            item_type = annotation.__args__[0]
            for item in node.value:
                if is_dataclass(item_type):
                    yield from self.section(item_type, item, item)
            yield self.mutant(f"{field.name} -> number", node, "5")
        elif isinstance(node, yaml.ScalarNode):
            yield from self.scalar(field, annotation, node)

    def slot(self, rule, node: yaml.Node) -> Iterator[Mutant]:
        if isinstance(node, yaml.MappingNode):
            written = {key.value: value for key, value in node.value}
            name = written["type"]
            yield from self.name(name)
            component = registry(rule.slot).get(name.value)
            for key, value in node.value:
                wrong = misspelt(key.value, f"{self.recipe.name}{key.value}")
                yield self.mutant(f"key {key.value} -> {wrong}", key, wrong)
                for field in fields(component):
                    if field.name == key.value:
                        yield from self.value(component, field, value, key)
        elif not rule.locator:
            yield from self.name(node)
        else:
            yield self.mutant("locator -> number", node, "12")

    def scalar(self, field, annotation, node: yaml.ScalarNode) -> Iterator[Mutant]:
        text = str(annotation)
        yield self.mutant(f"{field.name} -> list of mappings", node, "[{a: 1}]")
        if "Literal" in text and "str" not in text.replace("'str'", ""):
            wrong = misspelt(node.value, f"{self.recipe.name}{node.value}")
            yield self.mutant(f"{field.name} {node.value} -> {wrong}", node, wrong)
        if "str" not in text and "Literal" not in text:
            yield self.mutant(f"{field.name} -> text", node, "'seven'")
        rule = rule_of(field)
        if rule.at_least is not None or rule.above is not None:
            yield self.mutant(f"{field.name} -> below its range", node, "-1")


MUTANTS = [mutant for recipe in RECIPES for mutant in Mutator(recipe).mutants()]


def test_there_are_enough_recipes_and_mutants():
    assert len(RECIPES) >= MIN_RECIPES
    assert len({mutant.text for mutant in MUTANTS}) >= MIN_MUTANTS


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_recipe_as_shipped_is_good(recipe):
    try:
        resolve(recipe)
    except UserError as error:
        # It may need what this machine doesn't have; only then check may say no.
        needs = ShippedRecipe(recipe).needs
        assert needs and needs in str(error)


@pytest.fixture(scope="session")
def copied_recipes(tmp_path_factory) -> Path:
    """The recipes with their data, in a folder that may be written to."""
    return shutil.copytree(FOLDER, tmp_path_factory.mktemp("copy") / "recipes")


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_refused_at_its_line(mutant, copied_recipes):
    path = copied_recipes / mutant.recipe.relative_to(FOLDER)
    damaged = path.with_name("damaged.yaml")
    damaged.write_text(mutant.text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve(damaged)
    lines = [problem.line for problem in caught.value.problems if problem.file == str(damaged)]
    assert mutant.line in lines, [str(problem) for problem in caught.value.problems]
