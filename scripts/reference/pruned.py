"""Loads pruned tokenizers with transformers, to see that they do there what they do here.

    python scripts/reference/pruned.py TLM reference          # writes tests/reference/pruned.json
    python scripts/reference/pruned.py TLM SOURCE...          # checks; a SOURCE is a folder, a `tokenizer.json` or a `.model`

needs transformers 5, tokenizers 0.23, numpy. TLM is the program. Each SOURCE is pruned to 90% of the tokens of the texts of
tests/reference/tokenizer_ids.json, so that many words have to be spelt by smaller pieces, and `AutoTokenizer.from_pretrained` reads what
came out. Told is what differs: the ids of the texts from those that `dataset.pack` writes, texts that the old tokenizer gave back and
the new one does not, chat templates, and special tokens.

`pruned.json` has, for each of tests/reference/sentencepiece/*.model, how many tokens are left and the SHA-256 of the ids that
transformers has for the texts: four bytes each, little endian, -1 after each text.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
TEXTS = [case["text"] for case in json.loads((ROOT / "tokenizer_ids.json").read_text()) if case["text"]]
COVERAGE = 90
RECIPE = """use std.{{corpus, tokenizer, dataset}}
let texts  = corpus.jsonl("texts.jsonl")
let old    = tokenizer.open("{source}")
let counts = tokenizer.count(texts, old)
let small  = tokenizer.prune(old, counts, coverage: {coverage}%)
let before = dataset.pack(texts, old, seq: 1)
let after  = dataset.pack(texts, small, seq: 1)
plan default = [before, after]
"""


def make(tlm, source, folder):
    """The folders of the steps that prune a source."""
    lines = (json.dumps({"text": text}) for text in TEXTS)
    (folder / "texts.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "r.tlm").write_text(RECIPE.format(source=source.resolve(), coverage=COVERAGE))
    subprocess.run([tlm, "run", "r.tlm"], cwd=folder, check=True, capture_output=True)

    def out(step):
        shown = subprocess.run([tlm, "show", step], cwd=folder, check=True, capture_output=True, text=True).stdout
        line = next(line for line in shown.splitlines() if line.startswith("  out: "))
        return pathlib.Path(line.removeprefix("  out: ").split(", ")[0])

    return {step: out(step) for step in ["old", "small", "before", "after"]}


def packed(folder):
    """The ids of each document, without the end of the text."""
    [path] = folder.glob("tokens.u*")
    ids = np.fromfile(path, dtype="<u2" if path.suffix == ".u16" else "<u4").tolist()
    starts = np.fromfile(folder / "documents.u64", dtype="<u8").tolist()
    ends = starts[1:] + ([len(ids)] if len(starts) == len(TEXTS) else [])
    return [ids[start : end - 1] for start, end in zip(starts, ends)]


def encoded(tokenizer):
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def decoded(tokenizer, ids):
    return [tokenizer.decode(one, skip_special_tokens=False, clean_up_tokenization_spaces=False) for one in ids]


def differing(one, other):
    assert len(one) == len(other) == len(TEXTS)
    return [text for text, a, b in zip(TEXTS, one, other) if a != b]


def faults(made):
    """What is wrong with a pruned tokenizer, in words."""
    new = AutoTokenizer.from_pretrained(made["small"])
    # What the old files say, whatever class or code of its own they name.
    old = PreTrainedTokenizerFast.from_pretrained(made["old"])
    before, after = packed(made["before"]), packed(made["after"])
    found, wrong = [], differing(encoded(new), after)
    if wrong:
        found.append(f"{len(wrong)} texts have other ids, such as {wrong[0]!r}")
    if encoded(old) != before:
        found.append("the old tokenizer had other ids already")
    was_whole = decoded(old, before)
    lost = [t for t, a, b in zip(TEXTS, was_whole, decoded(new, after)) if a == t != b]
    if lost:
        found.append(f"{len(lost)} texts don't come back, such as {lost[0]!r}")
    if old.chat_template != new.chat_template:
        found.append("another chat template")
    if old.special_tokens_map != new.special_tokens_map:
        found.append(f"other special tokens: {new.special_tokens_map} for {old.special_tokens_map}")
    for name, text in old.special_tokens_map.items():
        for text in text if isinstance(text, list) else [text]:
            id = new.convert_tokens_to_ids(text)
            if id is None or new.convert_ids_to_tokens(id) != text or id >= len(new):
                found.append(f"{name} {text!r} has id {id}")
    if set(old.added_tokens_decoder) and {str(t) for t in old.added_tokens_decoder.values()} != {
        str(t) for t in new.added_tokens_decoder.values()
    }:
        found.append("other added tokens")
    return found, len(new), new


def reference(tlm):
    known = {}
    for source in sorted((ROOT / "sentencepiece").glob("*.model")):
        with tempfile.TemporaryDirectory() as folder:
            found, size, tokenizer = faults(make(tlm, source, pathlib.Path(folder)))
            assert not found, (source, found)
            digest = hashlib.sha256()
            for ids in encoded(tokenizer):
                digest.update(np.array([*ids, -1], dtype="<i4").tobytes())
            known[source.stem] = {"tokens": size, "sha256": digest.hexdigest()}
    (ROOT / "pruned.json").write_text(json.dumps(known, indent=1) + "\n")


def main(tlm, *sources):
    tlm = pathlib.Path(tlm).resolve()
    logging.set_verbosity_error()
    if sources == ("reference",):
        return reference(tlm)
    for source in map(pathlib.Path, sources):
        with tempfile.TemporaryDirectory() as folder:
            found, size, _ = faults(make(tlm, source, pathlib.Path(folder)))
        print(f"{source}: {size} tokens: {'; '.join(found) or 'as here'}", flush=True)


main(*sys.argv[1:])
