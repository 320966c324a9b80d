"""A proof of all rows -> the paragraph that says what was proven, or what was found."""

from __future__ import annotations

from framework.data.preview import visible
from framework.data.reproof import Reproof, RowFinding
from framework.proofs.findings import RULES

MOST_SHOWN = 20
"""Findings that the terminal shows; `--json` has more."""


def proof_text(proof: Reproof) -> str:
    """One paragraph where all is proven, else a line for each finding."""
    return _findings(proof) if proof.problems else _proven(proof)


def _proven(proof: Reproof) -> str:
    arrays = proof.arrays
    lines = [
        f"Proven: all {proof.num_rows:,} rows were read, rendered and tokenized again, and each of "
        f"the {arrays.num_documents:,} documents on disk is what its row becomes: "
        f"{arrays.num_tokens:,} tokens, of which {arrays.num_trained_tokens:,} are trained in "
        f"{arrays.num_trained_runs:,} stretches. What precedes each answer is the prompt that a "
        "server makes, each ends in a trained token at which a server stops, each says all that "
        "its message does, and nothing else is trained."
    ]
    left = {
        "do not fit and are skipped": proof.num_skipped_rows,
        "are removed by cleaners": proof.num_cleaned_rows,
        "train nothing or are dropped for their length": proof.num_dropped_rows,
    }
    lines += [f"{number:,} rows {what}." for what, number in left.items() if number]
    if arrays.num_open_runs:
        lines.append(
            f"{arrays.num_open_runs:,} stretches end in no stop token: turns of other roles, text "
            f"that was cut or tokenized elsewhere; {proof.num_cut_answers:,} of them are answers "
            "that the recipe's `data.over_length` cuts."
        )
    if proof.num_unproven_documents:
        lines.append(
            f"{proof.num_unproven_documents:,} documents are the trainer's own: they are what it "
            "makes of their rows, and no rule knows their masks."
        )
    return " ".join(lines)


def _findings(proof: Reproof) -> str:
    lines = [_line(problem) for problem in proof.problems[:MOST_SHOWN]]
    rest = proof.num_problems - len(lines)
    if rest:
        lines.append(f"and {rest:,} more; `--json` lists them")
    rules = sorted({problem.rule for problem in proof.problems})
    lines += [f"{rule}: {RULES[rule]}" for rule in rules]
    found = "1 fault" if proof.num_problems == 1 else f"{proof.num_problems:,} faults"
    return "\n".join([f"Not proven: {found} in {proof.num_rows:,} rows.", *lines])


def _line(problem: RowFinding) -> str:
    place = "arrays" if problem.dataset is None else f"{problem.dataset}:{problem.row}"
    return visible(f"  {place}: {problem.rule}: {problem.detail}").replace("\n", "⏎")
