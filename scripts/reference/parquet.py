"""Writes `tests/golden/stages/c.parquet`, as pyarrow does: several row groups, dictionary and plain pages, nulls, an inner record.

    python scripts/reference/parquet.py tests/golden/stages/c.parquet     # pyarrow 22 or later
"""

import sys

import pyarrow
import pyarrow.parquet

texts = [f"{at} the cat sat on ümlaut" for at in range(8)] + ["again"] * 8
rows = [
    {"id": at, "meta": {"text": None if at == 5 else text, "tags": ["a", "b"]}}
    for at, text in enumerate(texts)
]
table = pyarrow.Table.from_pylist(rows)
pyarrow.parquet.write_table(table, sys.argv[1], row_group_size=5, compression="zstd")
