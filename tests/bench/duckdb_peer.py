# SPDX-License-Identifier: Apache-2.0
"""What `cargo xtask bench query` asks DuckDB: to load an export of cima, and to answer in SQL.

    duckdb_peer.py load EXPORT DATABASE
    duckdb_peer.py ask DATABASE SQL       rows as JSON arrays; the query's own seconds on standard error
"""

import json
import sys
import time

import duckdb

# What `cima export --format jsonl` gives, in full: told what comes, DuckDB neither guesses nor reads anything twice.
COLUMNS = {
    "v": "UTINYINT",
    "id": "VARCHAR",
    "node": "VARCHAR",
    "boot_id": "VARCHAR",
    "entry": "UBIGINT",
    "event": "UINTEGER",
    "time": "VARCHAR",
    "since_boot_ns": "UBIGINT",
    "kind": "VARCHAR",
    "violation": "BOOLEAN",
    "container": "STRUCT(id VARCHAR, name VARCHAR, image VARCHAR, image_name VARCHAR, number UBIGINT, mnt_ns UBIGINT)",
    "path": "VARCHAR",
    "digest": "VARCHAR",
    "digests": "VARCHAR[]",
    "volume": "VARCHAR",
    "process": "STRUCT(pid UINTEGER, tid UINTEGER, ns_pid UINTEGER, start_ns UBIGINT, comm VARCHAR, uid UINTEGER, "
    "gid UINTEGER, login_uid UINTEGER, session UINTEGER)",
    "ancestors": "STRUCT(pid UINTEGER, start_ns UBIGINT, comm VARCHAR)[]",
    "args": "VARCHAR[]",
    "args_truncated": "BOOLEAN",
    "detail": "VARCHAR",
    "damaged": "VARCHAR",
}


def load(export: str, database: str) -> None:
    with duckdb.connect(database) as connection:
        connection.execute(
            "CREATE TABLE events AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = ?)",
            [export, COLUMNS],
        )
        connection.execute("CHECKPOINT")


def ask(database: str, sql: str) -> None:
    with duckdb.connect(database, read_only=True) as connection:
        began = time.perf_counter()
        rows = connection.execute(sql).fetchall()
        print(time.perf_counter() - began, file=sys.stderr)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"load": load, "ask": ask}[command](*arguments)
