"""What was measured of each picture, kept in a file of JSON lines, so that a command that was stopped goes on.

Decides which rows are of one measurement: those whose key is the same. It knows no model and no score.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Rows:
    """The rows of a file, those that are added included; in memory alone where path is None."""

    def __init__(self, path: Path | None):
        self.path = path
        there = path.read_text().splitlines() if path and path.is_file() else []
        self.all: list[dict] = [json.loads(line) for line in there]

    def of(self, key: Mapping[str, Any]) -> dict[int, dict]:
        """{number of the picture: its row} of the measurement `key`."""
        return {row["number"]: row for row in self.all if all(row.get(k) == v for k, v in key.items())}

    def add(self, key: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """rows: each with a `number`."""
        made = [{**key, **row} for row in rows]
        self.all += made
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
