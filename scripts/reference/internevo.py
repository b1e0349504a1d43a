"""Writes `tests/golden/stages/cache/en/a.bin` and its `.meta`, as InternEvo's `tools/tokenizer.py` does.

    python scripts/reference/internevo.py tests/golden/stages/cache     # numpy
"""

import json
import pathlib
import sys

import numpy

folder = pathlib.Path(sys.argv[1]) / "en"
folder.mkdir(parents=True, exist_ok=True)
rows, offset = [], 0
with open(folder / "a.bin", "wb") as file:
    for at in range(5):
        tokens = [at] + list(range(60, 60 + 7 * at))
        line = (json.dumps({"tokens": tokens}) + "\n").encode()
        file.write(line)
        rows.append((offset, len(tokens)))
        offset += len(line)
with open(folder / "a.bin.meta", "wb") as file:
    numpy.save(file, numpy.array(rows, dtype=numpy.int32))
