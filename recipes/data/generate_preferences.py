"""-> preferences.jsonl and rated_answers.jsonl: short sums, one answer to the point and one not.

The better answer is a whole sentence with the right number, the worse one has another number or
says nothing. `margin` of a pair is how far off the worse number is, at most 1.

    python recipes/data/generate_preferences.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_PAIRS = 240
SEED = 2026
HERE = Path(__file__).parent
QUESTIONS = (
    "What is {left} plus {right}?",
    "Add {right} to {left}.",
    "How much do {left} and {right} make?",
    "Sum of {left} and {right}, please.",
)
EVASIONS = (
    "That is hard to say.",
    "It depends on many things.",
    "You could look that up.",
)


def make_pair(random_source: random.Random) -> dict[str, Any]:
    """A question, a right answer and a wrong one."""
    left, right = random_source.randrange(2, 60), random_source.randrange(2, 60)
    question = random_source.choice(QUESTIONS).format(left=left, right=right)
    pair = {"prompt": question, "chosen": f"{left} plus {right} is {left + right}."}
    if random_source.random() < 0.3:
        return {**pair, "rejected": random_source.choice(EVASIONS), "margin": 1.0}
    wrong = left + right + random_source.choice((-10, -2, -1, 1, 2, 10))
    margin = abs(wrong - left - right) / 10
    return {**pair, "rejected": f"{left} plus {right} is {wrong}.", "margin": margin}


def make_pairs() -> list[dict[str, Any]]:
    """Pairs of different questions."""
    random_source = random.Random(SEED)
    pairs: dict[str, dict[str, Any]] = {}
    while len(pairs) < NUM_PAIRS:
        pair = make_pair(random_source)
        pairs.setdefault(pair["prompt"], pair)
    return list(pairs.values())


def rated(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of the pairs one by one, and whether each is good, in random order."""
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    random.Random(SEED).shuffle(rows)
    return rows


def generate(into: Path) -> None:
    """Writes both files, the same bytes every time."""
    pairs = make_pairs()
    for name, rows in {"preferences": pairs, "rated_answers": rated(pairs)}.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (into / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    generate(HERE)
