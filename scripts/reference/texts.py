"""Collects natural text and code from unpacked packages, for `docs/pruning.md`: a line `{"text": ...}` a file.

    python scripts/reference/texts.py OUT FOLDER...      # writes OUT/english.jsonl, OUT/chinese.jsonl, OUT/code.jsonl

HTML loses its tags, manual pages their markup; files come in the order of their paths, each one once, up to `LIMIT` bytes of each
kind. A text is Chinese when at least a fifth of its characters are.
"""

import gzip
import hashlib
import html
import json
import pathlib
import re
import sys

LIMIT = 80_000_000
CODE = {".py", ".rs", ".c", ".h", ".js", ".css", ".sh", ".sql", ".pl"}
PROSE = {".html", ".htm", ".rst", ".txt", ".md"}
MARKUP = re.compile(r"(?s)<(script|style|head)\b.*?</\1>|<!--.*?-->|<[^>]*>")
MANUAL = re.compile(r"(?m)^[.'].{0,3}\s?|\\f.|\\[-&|]")


def text_of(path):
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8")
    kind = pathlib.Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind in {".html", ".htm"}:
        text = html.unescape(MARKUP.sub("", text))
    elif re.fullmatch(r"\.[1-9].*", kind):
        text = MANUAL.sub("", text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return kind, re.sub(r"\n{3,}", "\n\n", text).strip()


def verses(path):
    """The poems of a JSON file of the npm package `chinese-poetry`."""
    found = json.loads(path.read_text())
    for poem in found if isinstance(found, list) else [found]:
        lines = poem.get("paragraphs") if isinstance(poem, dict) else None
        if lines and all(isinstance(line, str) for line in lines):
            yield "\n".join([poem.get("title") or "", poem.get("author") or "", *lines]).strip()


def documents(folder):
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 2_000_000:
            continue
        try:
            if path.suffix == ".json":
                yield from (("poem", poem) for poem in verses(path))
                continue
            kind, text = text_of(path)
        except (UnicodeDecodeError, OSError, json.JSONDecodeError, EOFError):
            continue
        if kind in CODE or kind in PROSE or re.fullmatch(r"\.[1-9].*", kind) or "fortunes" in path.parts:
            yield kind, text


def main():
    out, sizes, seen = pathlib.Path(sys.argv[1]), {}, set()
    files = {name: open(out / f"{name}.jsonl", "w") for name in ("english", "chinese", "code")}
    for folder in sys.argv[2:]:
        for kind, text in documents(folder):
            chinese = sum("\u4e00" <= c <= "\u9fff" for c in text)
            name = "chinese" if chinese > len(text) / 5 else "code" if kind in CODE else "english"
            digest = hashlib.sha256(text.encode()).digest()
            size = len(text.encode())
            if size < 200 and kind != "poem" or digest in seen or sizes.get(name, 0) + size > LIMIT:
                continue
            seen.add(digest)
            sizes[name] = sizes.get(name, 0) + size
            files[name].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(sizes)


main()
