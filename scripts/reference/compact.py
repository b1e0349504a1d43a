"""Compacts a vocabulary as the published scripts do (paper section 2.1, `step3`), to compare with `tokenizer.prune`.

    python scripts/reference/compact.py reference                      # writes tests/reference/compact.json
    python scripts/reference/compact.py compare TOKENIZER COUNTS CORPUS PRUNED...     # prints the table of docs/pruning.md

needs tokenizers and zstandard. TOKENIZER is a folder with a `tokenizer.json` as it is converted from a SentencePiece BPE model; COUNTS,
CORPUS and PRUNED are artifacts of `tokenizer.count`, `corpus.split` (the part held out) and `tokenizer.prune`.

`step3` sorts the pieces by count (a stable sort, here over the ids), always keeps those that look like `<...>` or `[...]`, adds the
others in order until there are enough, and keeps their scores. So two symbols merge if what comes out is a piece: of the merges
those stay whose parts and result do.
"""

import json
import mmap
import pathlib
import random
import sys
from array import array

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "tests" / "reference" / "compact.json"
CORPUS = ROOT / "examples" / "quickstart" / "data"


def is_special(text):
    return len(text) > 2 and (text[0] == "<" and text[-1] == ">" or text[0] == "[" and text[-1] == "]")


def keep(vocab, counts, size):
    """The ids that `step3` keeps."""
    kept = {id for text, id in vocab.items() if is_special(text)}
    for id in sorted(range(len(counts)), key=lambda id: -counts[id]):
        if len(kept) >= size:
            break
        kept.add(id)
    return sorted(kept)


def compact(tokenizer, kept):
    """The `tokenizer.json` of the kept ids."""
    tokenizer = json.loads(json.dumps(tokenizer))
    model, new = tokenizer["model"], {id: at for at, id in enumerate(kept)}
    vocab = model["vocab"]
    left = {text: new[id] for text, id in vocab.items() if id in new}
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    model["merges"] = [[a, b] for a, b in merges if a in left and b in left and a + b in left]
    model["vocab"] = left
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["id"]]
    for token in ((tokenizer["post_processor"] or {}).get("special_tokens") or {}).values():
        token["ids"] = [new[id] for id in token["ids"]]
    return tokenizer


def orphans(tokenizer, special=frozenset()):
    """The pieces that the model does not make of their own text, but for bytes and those that are special by their type."""
    model = Tokenizer.from_str(json.dumps(tokenizer)).model
    special = {*special, "<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))}
    plain = (text for text in tokenizer["model"]["vocab"] if text not in special)
    return {text for text in plain if [token.value for token in model.tokenize(text)] != [text]}


def documents(folder):
    offsets = array("Q")
    offsets.frombytes((folder / "offsets.u64").read_bytes())
    with open(folder / "text.bin", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for start, end in zip(offsets, list(offsets[1:]) + [len(text)]):
            yield text[start:end].decode()


def tokens(tokenizer, texts):
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
    blocks = (texts[at : at + 500] for at in range(0, len(texts), 500))
    encoded = (tokenizer.encode_batch_fast(block, add_special_tokens=False) for block in blocks)
    return sum(len(ids) for block in encoded for ids in block)


def compare(folder, counts, corpus, *pruned):
    read = lambda folder: json.loads((pathlib.Path(folder) / "tokenizer.json").read_text())
    tokenizer, texts, known = read(folder), list(documents(pathlib.Path(corpus))), array("Q")
    known.frombytes((pathlib.Path(counts) / "counts.u64").read_bytes())
    config = json.loads((pathlib.Path(folder) / "tokenizer_config.json").read_text())
    special = {int(id) for id in config.get("added_tokens_decoder", {})}
    special = {text for text, id in tokenizer["model"]["vocab"].items() if id in special}
    whole, dead = tokens(tokenizer, texts), orphans(tokenizer, special)
    print(f"{len(texts)} documents, {sum(len(text.encode()) for text in texts)} bytes, {whole} tokens; {len(dead)} orphans: {sorted(dead)[:5]}")
    print("| tokens | coverage | orphans | tokens on held-out text | coverage, `prune` | orphans | tokens on held-out text |")
    for ours in map(read, sorted(pruned, key=lambda folder: len(read(folder)["model"]["vocab"]))):
        size = len(ours["model"]["vocab"])
        kept = keep(tokenizer["model"]["vocab"], known, size)
        cells = [f"{size:,}"]
        for small, ids in [(compact(tokenizer, kept), kept), (ours, [tokenizer["model"]["vocab"][text] for text in ours["model"]["vocab"]])]:
            assert len(small["model"]["vocab"]) == size
            covered = sum(known[id] for id in ids) / sum(known)
            more = tokens(small, texts) / whole - 1
            cells += [f"{covered:.2%}", f"{len(orphans(small, special)):,}", f"+{more:.2%}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def small_tokenizer(texts):
    """A BPE tokenizer as they are converted from SentencePiece: byte pieces, and each way to part a piece is a merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=["▁"], limit_alphabet=120)
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    ids = {text: id for id, text in enumerate(vocab)}
    ways = ([text[:at], text[at:]] for text in pieces for at in range(1, len(text)))
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": id, "content": vocab[id], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for id in range(3)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "vocab": ids, "merges": [way for way in ways if way[0] in ids and way[1] in ids],
        },
    }


def reference():
    import zstandard

    lines = []
    for path in sorted(CORPUS.glob("*.txt.zst")):
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
            lines += [line for line in file if 20 <= len(line) <= 300]
    lines = random.Random(4).sample(lines, 1500)
    tokenizer = small_tokenizer(lines[:1000])
    loaded, vocab = Tokenizer.from_str(json.dumps(tokenizer)), tokenizer["model"]["vocab"]
    counts = [0] * len(vocab)
    for line in lines[500:]:
        for id in loaded.encode(line, add_special_tokens=False).ids:
            counts[id] += 1
    # Counted as parts of the text and not of the encoded text, no piece is more frequent than its parts: nothing is orphaned.
    text = "".join(lines[500:]).replace(" ", "▁")
    parts = [text.count(piece) for piece in vocab]
    cases = []
    for name, known, sizes in [("parts", parts, [270, 400, 500, 700, 900]), ("tokens", counts, [270, 400, 600, 800, 959])]:
        for size in sizes:
            kept = keep(vocab, known, size)
            cases.append({"counts": name, "keep": size, "kept": kept, "orphans": len(orphans(compact(tokenizer, kept)))})
    found = {"tokenizer": tokenizer, "counts": {"parts": parts, "tokens": counts}, "cases": cases}
    TARGET.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
    print([(case["counts"], case["keep"], case["orphans"]) for case in cases], TARGET.stat().st_size, "bytes")


{"reference": reference, "compare": compare}[sys.argv[1]](*sys.argv[2:])
