"""One table, measured and written into docs/benchmarks.md.

    python benchmarks/run.py TABLE --data FOLDER [--rounds 3] [--print] [--same]

The tables are the files in `tables/`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

from harness import HERE, PAGE, Bench, footer, write_table


def main() -> None:
    """Measures a table and writes it."""
    tables = sorted(path.stem for path in (HERE / "tables").glob("*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("table", choices=tables)
    folder = os.environ.get("FRAMEWORK_TEST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=folder and Path(folder),
        required=folder is None,
        help="folder with alpaca_en_demo.json and dpo_en_demo.json",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--print", action="store_true", help="write nothing into the page")
    parser.add_argument(
        "--same",
        action="store_true",
        help="the same rows in every step, to compare losses; writes nothing into the page",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(
            folder=Path(name),
            data=arguments.data.absolute(),
            rounds=arguments.rounds,
            same=arguments.same,
        )
        table = importlib.import_module(f"tables.{arguments.table}")
        text = table.measure(bench)
        text = f"{text}\n\n{footer(bench, f'python benchmarks/run.py {arguments.table}')}"
    print(text)
    if not (arguments.print or arguments.same):
        write_table(PAGE, arguments.table, text)


if __name__ == "__main__":
    main()
