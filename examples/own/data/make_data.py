"""Makes the sample data of this folder out of the quickstart's text: `python make_data.py`, in this folder.

Needs pyarrow, tokenizers and zstandard. The texts are of the King James Version, which is in the public domain; what is
wrong with some of them is put there on purpose.
"""

import json
import pathlib

import pyarrow
import pyarrow.parquet
import tokenizers
import zstandard

QUICKSTART = pathlib.Path("../../quickstart/data/english.txt.zst")


def documents() -> list[str]:
    with zstandard.open(QUICKSTART, "rt", encoding="utf-8") as file:
        return file.read().split("\n\f\n")


def chapters(all_documents: list[str], first_words: str, count: int) -> list[str]:
    first = next(at for at, text in enumerate(all_documents) if text.startswith(first_words))
    return all_documents[first : first + count]


def crawled(psalms: list[str]) -> list[str]:
    """Lines as crawls have them: among the texts one again, one slightly changed, an error page, a stub, a broken line."""
    again = psalms[3].upper().replace("\n", "  \n")
    changed = psalms[7].replace("earth", "world", 1)
    texts = [*psalms, again, changed, "404 Not Found", "Selah."]
    lines = [json.dumps({"url": f"psalms/{at}", "doc": {"text": text}}) for at, text in enumerate(texts, 1)]
    return [*lines, lines[0][:60]]


def base_tokenizer() -> tokenizers.Tokenizer:
    """Returns byte-level BPE without any merge: what `tokenizer.retrain` needs to know how text is cut."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", *alphabet]
    vocabulary = {name: at for at, name in enumerate(names)}
    base = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    base.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = tokenizers.decoders.ByteLevel()
    base.add_special_tokens(["<|endoftext|>"])
    return base


def main() -> None:
    bible = documents()
    psalms = chapters(bible, "Blessed is the man that walketh not", 80)
    genesis = chapters(bible, "In the beginning God created", 25)
    letters = chapters(bible, "That which was from the beginning", 7)

    pathlib.Path("psalms-1.jsonl").write_text("\n".join(crawled(psalms[:20])) + "\n", "utf-8")
    rest = "\n".join(json.dumps({"doc": {"text": text}}) for text in psalms[20:]) + "\n"
    pathlib.Path("psalms-2.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(rest.encode()))
    table = pyarrow.table({"chapter": range(1, 26), "text": genesis})
    pyarrow.parquet.write_table(table, "genesis.parquet", compression="zstd", compression_level=19)
    pathlib.Path("letters").mkdir(exist_ok=True)
    for at, text in enumerate(letters, 1):
        pathlib.Path(f"letters/john-{at}.txt").write_text(text + "\n", "utf-8")
    base_tokenizer().save("tokenizer.json", pretty=False)
    pathlib.Path("tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}) + "\n")


if __name__ == "__main__":
    main()
