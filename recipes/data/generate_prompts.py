"""Sums and differences -> prompts.jsonl and prompts_eval.jsonl: prompts with the right answers.

No sum of the held-out prompts is among the others.

    python recipes/data/generate_prompts.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 7
NUM_ROWS = {"prompts.jsonl": 256, "prompts_eval.jsonl": 32}
SYSTEM_PROMPT = "Answer with the number alone."
HERE = Path(__file__).parent


def all_rows() -> list[dict[str, object]]:
    """Every question once, in a fixed order."""
    rows: list[dict[str, object]] = []
    for left in range(2, 40):
        for right in range(2, 40):
            rows.append(_row(f"What is {left} + {right}?", left + right))
            if right < left:
                rows.append(_row(f"What is {left} - {right}?", left - right))
    return rows


def _row(question: str, answer: int) -> dict[str, object]:
    return {"system": SYSTEM_PROMPT, "prompt": question, "answer": str(answer)}


def main() -> None:
    """Writes both files."""
    rows = all_rows()
    random.Random(SEED).shuffle(rows)
    start = 0
    for name, number in NUM_ROWS.items():
        lines = [json.dumps(row) + "\n" for row in rows[start : start + number]]
        (HERE / name).write_text("".join(lines), encoding="utf-8")
        start += number


if __name__ == "__main__":
    main()
