"""-> classes.jsonl, scores.jsonl and steps.jsonl: what a model with a head of numbers learns from.

Classes are letters to a shop: a complaint, a question or a thank-you. A score is how many stars a
review sounds like. Steps add a row of numbers one by one; from a mistake on they are wrong.

    python recipes/data/generate_ratings.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NUM_ROWS = 200
SEED = 2026
HERE = Path(__file__).parent
THINGS = ("lamp", "kettle", "chair", "jacket", "radio", "bicycle", "clock", "tent")
LETTERS = {
    "complaint": ("The {thing} arrived broken.", "My {thing} stopped working after a day."),
    "question": ("When will the {thing} be delivered?", "Is the {thing} sold in green?"),
    "thanks": ("The {thing} is lovely, thank you!", "Many thanks for the quick {thing}."),
}
VERDICTS = {
    1.0: ("terrible", "useless"),
    2.0: ("poor", "disappointing"),
    3.0: ("acceptable", "all right"),
    4.0: ("good", "solid"),
    5.0: ("excellent", "perfect"),
}
REVIEWS = ("A {verdict} {thing}.", "We found the {thing} {verdict}.", "This {thing}: {verdict}.")


def make_letter(random_source: random.Random) -> dict[str, Any]:
    """A letter as a conversation, and its class."""
    label = random_source.choice(sorted(LETTERS))
    text = random_source.choice(LETTERS[label]).format(thing=random_source.choice(THINGS))
    return {"messages": [{"role": "user", "content": text}], "label": label}


def make_review(random_source: random.Random) -> dict[str, Any]:
    """A review and its stars."""
    score = random_source.choice(sorted(VERDICTS))
    verdict = random_source.choice(VERDICTS[score])
    thing = random_source.choice(THINGS)
    text = random_source.choice(REVIEWS).format(verdict=verdict, thing=thing)
    return {"text": text, "score": score}


def make_sum(random_source: random.Random) -> dict[str, Any]:
    """A sum in steps, and which of them are right."""
    numbers = [random_source.randrange(1, 9) for _ in range(4)]
    wrong_from = random_source.choice((1, 2, 3, None))
    steps: list[str] = []
    labels: list[bool] = []
    total = numbers[0]
    for place, number in enumerate(numbers[1:], start=1):
        slip = random_source.choice((-1, 1)) if place == wrong_from else 0
        steps.append(f"{total} + {number} = {total + number + slip}")
        total += number + slip
        labels.append(wrong_from is None or place < wrong_from)
    prompt = f"Add {', '.join(map(str, numbers))}."
    return {"prompt": prompt, "completions": steps, "labels": labels}


def generate(into: Path) -> None:
    """Writes the three files, the same bytes every time."""
    makers = {"classes": make_letter, "scores": make_review, "steps": make_sum}
    for name, make in makers.items():
        random_source = random.Random(f"{SEED}/{name}")
        lines = [json.dumps(make(random_source)) + "\n" for _ in range(NUM_ROWS)]
        (into / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    generate(HERE)
