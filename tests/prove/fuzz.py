"""Files and overrides that were damaged at random: each is read, or refused with a message."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from framework.core.problems import UserError
from framework.launching.cluster import read_cluster
from framework.planning.devices import TABLE, cluster_of
from framework.recipe.resolve import resolve
from prove.rows import Row

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
PIECES = (
    *"{}[]:,&*!|>%@`'\"#?-\n\t\\$~=<",
    "\x00\x1b\x85\u2028\ufeff\U0001f600",
    "!!python/object/apply:os.system ['touch canary']",
    "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp 2001-02-30", "!x y",
    "&a [*a]", "*nothing", "<<: {a: 1}", "? [a, b] : c", "--- ", "...", "%YAML 9.9\n",
    "${", "${}", "${trainer}", "${oc.env:HOME}", "${oc.decode:'$'}", "${a:b}", "${..}", "${[}",
    "1e999", "-.inf", ".nan", "0x" + "f" * 5000, "9" * 5000, "1:30:99", "0o17", "012", "1_0",
    "null", "~", "no", "2001-01-01", "[]", "{}", "''", "[[[[[[[[", "{a: {a: {a: ", "- - - - ",
    "extends: /dev/zero", "extends: [..]", "extends: recipe.yaml", "type: lora", "a: b: c",
    "matches(text, '(a+)+')", "{% for a in b %}", "{{ 1/0 }}", "../../../etc/passwd", "a\n" * 50,
    "[" * 2000, "{a: " * 2000, "- " * 2000,
)  # fmt: skip
"""What is put in at random places."""


def damaged(text: str, others: str, chance: random.Random) -> bytes:
    """The text with one to five things changed."""
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.choice((0, 1, 1, 3, 20, 200)))
        lines = text.split("\n")
        kind = chance.randrange(6)
        if kind == 0:
            text = text[:at] + chance.choice(PIECES) + text[end:]
        elif kind == 1:
            text = text[:at] + text[end:]
        elif kind == 2:
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(others.split("\n")))
            text = "\n".join(lines)
        elif kind == 3:
            line = chance.randrange(len(lines))
            lines[line] = " " * chance.randrange(6) + lines[line].lstrip()
            text = "\n".join(lines)
        elif kind == 4:
            values = list(re.finditer(r"(?<=: )\S.*", text))
            if values:
                value = chance.choice(values)
                text = text[: value.start()] + chance.choice(PIECES) + text[value.end() :]
        else:
            text = text[:at] + chr(chance.choice((0, 9, 27, 0x85, 0xD7FF, 0x10FFFF))) + text[at:]
    content = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        at = chance.randrange(len(content) + 1)
        content = content[:at] + chance.randbytes(3) + content[at:]
    return content


CLUSTER = """
num_nodes: 2
processes_per_node: 4
gpus_per_node: 4
port: 29500
network_interface: eth0
time_limit_minutes: 90
environment: {NCCL_DEBUG: INFO}
pass_environment: [HF_TOKEN]
working_directory: /work
container: image:latest
submitters:
  - {type: slurm, partition: gpu}
"""


SECTIONS = ("", "+", "trainer.", "data.", "+data.train.", "adapter.", "model.", "[", "..")
KEYS = ("trainer.seed", "trainer.max_steps", "data.max_length", "output.dir", "+output.dir")
"""Where overrides may stand."""


def _include(path: Path, chance: random.Random) -> None:
    outer = path.with_name("outer.yaml")
    kinds = (f"extends: {path.name}\n", f"extends: [{path.name}, {path.name}]\n")
    outer.write_text(chance.choice(kinds) + "trainer: {seed: 3}\n", encoding="utf-8")
    try:
        resolve(outer)
    finally:
        outer.unlink()


def _override(path: Path, chance: random.Random) -> None:
    """Damaged lines of a recipe as overrides of the recipe that stands beside it."""
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    written = []
    for _ in range(chance.choice((1, 1, 3))):
        key, _, value = chance.choice(lines).strip().partition(": ")
        key = chance.choice((f"{chance.choice(SECTIONS)}{key}", *KEYS))
        value = chance.choice((value, str(chance.randrange(200)), chance.choice(PIECES)))
        written.append(f"{key}={value}")
    resolve(RECIPES[0], written)


KINDS: Mapping[str, tuple[int, Callable[[Path, random.Random], object]]] = {
    "recipes": (12, lambda path, chance: resolve(path)),
    "included files": (3, _include),
    "overrides": (3, _override),
    "cluster files": (1, lambda path, chance: read_cluster(path)),
    "device tables": (1, lambda path, chance: cluster_of("8xH100-80GB", 1, path)),
}
"""What is damaged: of how many in twenty cases, and who reads it."""


def run(folder: Path, model: Path, num_cases: int = 10_000, seed: int = 0) -> Row:
    """Damages shipped recipes, and what is read like them, and reads each as commands do.

    Args:
        model: what proofs are given; recipes are read without one.
    """
    chance = random.Random(seed)
    texts = {recipe: recipe.read_text(encoding="utf-8") for recipe in RECIPES}
    recipes = folder / "recipes"
    shutil.copytree(FOLDER, recipes)
    known = set(recipes.rglob("*"))
    tried, good, failures = Counter[str](), Counter[str](), []
    kinds = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
    others = {"cluster files": CLUSTER, "device tables": TABLE.read_text(encoding="utf-8")}
    for number in range(num_cases):
        recipe, kind = chance.choice(RECIPES), chance.choice(kinds)
        # A name of its own for each, as what was read of a device table is kept.
        path = recipes / recipe.relative_to(FOLDER).with_name(f"damaged-{number}.yaml")
        text = others.get(kind, texts[recipe])
        path.write_bytes(damaged(text, texts[chance.choice(RECIPES)], chance))
        tried[kind] += 1
        try:
            KINDS[kind][1](path, chance)
            good[kind] += 1
        except UserError as error:
            if not str(error).strip():
                failures.append(f"case {number}, of {kind}: no message")
        except Exception as error:
            failures.append(f"case {number}, of {kind}: {type(error).__name__}: {error}"[:200])
        path.unlink()
    failures += [f"wrote {path}" for path in sorted(set(recipes.rglob("*")) - known)]
    return Row(
        case=f"{', '.join(KINDS)} damaged at random: read or refused, no traceback "
        f"({len(RECIPES)} recipes)",
        tries=num_cases,
        failures=len(failures),
        notes=f"seed {seed}; still good: "
        + ", ".join(f"{good[kind]} of {tried[kind]} {kind}" for kind in KINDS)
        + "".join(f"; {one}" for one in failures[:5]),
    )
