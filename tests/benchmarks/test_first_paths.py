"""The table of the ways into the package: the last measurement of each command, and which are not measured."""

from benchmarks import first_paths, report


def test_the_last_line_of_a_path_counts_and_what_is_not_measured_is_said():
    (first, second), name = first_paths.PATHS["Parquet"], "Parquet"
    lines = [
        {
            "path": name,
            "commands": [
                {"command": first, "wall": wall, "cpu": 2.0},
                {"command": "old", "wall": 1, "cpu": 1},
            ],
        }
        for wall in (9.0, 7.4)
    ]
    rows = report.paths_table(lines).splitlines()
    assert len(rows) == 2 + sum(map(len, first_paths.PATHS.values()))
    at = rows.index(f"| {name} | `{first}` | 7 | 2 |")
    assert rows[at + 1] == f"|  | `{second}` | – | – |"
    assert sum(row.endswith("| – | – |") for row in rows) == len(rows) - 3


def test_at_most_three_commands_lead_from_one_thing_to_another():
    assert all(1 <= len(commands) <= 3 for commands in first_paths.PATHS.values())
