"""Load rows into a SQLite database, all or none. It is for db-loader: Perl's core has no SQLite.

usage: load_rows.py DATABASE KEEP_LOTS < ROWS

A row is a CSV line: the table, then the values. A lot that is there already is replaced.
"""

import csv
import sqlite3
import sys
from contextlib import closing

TABLES = {
    "wafers": "lot, wafer, dies, good, yield",
    "bins": "lot, wafer, bin, dies",
    "tests": "lot, wafer, test, unit, n, mean, sigma, cpk",
    "dies": "lot, wafer, x, y, bin",
    "measurements": "lot, wafer, x, y, test, value",
}
#: What grows with every die is only kept of the newest lots.
BULKY = ("dies", "measurements")


def load(db: sqlite3.Connection, rows: dict[str, list[list[str]]], keep_lots: int) -> None:
    """Load them in one transaction."""
    with db:
        for table, columns in TABLES.items():
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({typed(columns)})")
            db.execute(f"CREATE INDEX IF NOT EXISTS {table}_lot ON {table} (lot)")
            lots = {row[0] for row in rows[table]}
            db.executemany(f"DELETE FROM {table} WHERE lot = ?", [(lot,) for lot in lots])
            marks = ", ".join("?" * len(columns.split(",")))
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
        for table in BULKY:
            db.execute(
                f"DELETE FROM {table} WHERE lot NOT IN"
                " (SELECT DISTINCT lot FROM wafers ORDER BY lot DESC LIMIT ?)",
                (keep_lots,),
            )


def typed(columns: str) -> str:
    """Columns with their types: SQLite turns the texts of the CSV into numbers by these."""
    texts = ("lot", "wafer", "test", "unit")
    return ", ".join(
        f"{name} {'TEXT' if name in texts else 'NUMERIC'}" for name in columns.split(", ")
    )


def main() -> None:
    """Read all rows, then load them."""
    path, keep_lots = sys.argv[1], int(sys.argv[2])
    rows: dict[str, list[list[str]]] = {table: [] for table in TABLES}
    for table, *values in csv.reader(sys.stdin):
        rows[table].append(values)
    with closing(sqlite3.connect(path, timeout=30)) as db:
        load(db, rows, keep_lots)


if __name__ == "__main__":
    main()
