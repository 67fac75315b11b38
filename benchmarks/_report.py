"""How every benchmark ends: a table on the screen and one JSON file.

In: named figures and the rows of each table. Out: `{"name", "date", "commit", "machine", "figures", "tables"}`, so that results of
different days and machines compare. Next: results worth keeping are committed under `benchmarks/results/`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

Row = Mapping[str, str | int | float]


def arguments(
    description: str, *, flags: Mapping[str, str] | None = None, choices: Mapping[str, Sequence[str]] | None = None
) -> argparse.Namespace:
    """Parse the options that every benchmark has, `--quick` and `--json FILE`, and this one's own.

    `flags` (name: help) are on or off; of `choices` (name: values) the first value is the default.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, values in (choices or {}).items():
        parser.add_argument(f"--{name}", choices=values, default=values[0])
    for name, meaning in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: shows that it runs, not how fast")
    parser.add_argument("--json", type=pathlib.Path, required=True, metavar="FILE", help="where the result goes")
    return parser.parse_args()


def finish(
    path: pathlib.Path, *, name: str, figures: Mapping[str, float], tables: Mapping[str, Sequence[Row]], notes: str = ""
) -> None:
    """Print the tables and write the file; `notes` says in words what the figures do not show."""
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}")
            _print_table(rows)
    if notes:
        print(f"\n{notes}")
    result = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "figures": dict(figures),
        "tables": {title: [dict(row) for row in rows] for title, rows in tables.items()},
        "notes": notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def _print_table(rows: Sequence[Row]) -> None:
    columns = list(rows[0])
    cells = [columns, *([_text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _text(value: str | int | float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _commit() -> str:
    if shutil.which("git") is None:
        return ""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


def _machine() -> dict[str, str | int | None]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": sys.version.split()[0],
    }
