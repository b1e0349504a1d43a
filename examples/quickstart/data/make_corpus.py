"""Makes the quickstart's corpus from Debian packages: `python3 make_corpus.py FOLDER`.

FOLDER holds the packages of ORIGIN.md, each unpacked into a folder of its name (`dpkg-deb -x`). Writes
english.txt and chinese.txt; a line with only a form feed parts documents. `zstd -19` makes what is committed.
"""

import gzip
import html.parser
import pathlib
import re
import subprocess
import sys

BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "li", "dt", "dd", "pre", "div", "tr", "td", "th", "br"}
NAVIGATION = {"Download the ebook", "Prev", "Next", "上一页", "下一页", "The Debian Administrator's Handbook", "Debian 管理员手册",
              "Product Site", "Documentation Site"}
SKIPPED = {"script", "style", "head", "nav"}


class Text(html.parser.HTMLParser):
    """Collects the text of a page: a line a block, `pre` as it stands."""

    def __init__(self):
        super().__init__()
        self.parts, self.skipped, self.pre = [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.skipped += tag in SKIPPED
        self.pre += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.skipped -= tag in SKIPPED
        self.pre -= tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.skipped:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))


def tidy(text):
    lines = (line.rstrip() for line in text.replace("\f", "\n").replace("\u00a0", " ").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line.strip() not in NAVIGATION)).strip()


def handbook(root, language):
    folder = root / "debian-handbook/usr/share/doc/debian-handbook/html" / language
    for page in sorted(folder.glob("*.html")):
        if page.name in {"index.html", "ix01.html"}:
            continue
        parser = Text()
        parser.feed(page.read_text("utf-8"))
        yield tidy("".join(parser.parts))


def reference(root, package, language):
    path = root / package / f"usr/share/debian-reference/debian-reference.{language}.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    # The plain text numbers its sections: `3.2. ...` at the start of a line.
    yield from map(tidy, re.split(r"\n(?=\d+\.\d+\.\s)", text))


def chinese_only(documents):
    """Drops paragraphs without a Chinese character: the translation is not complete."""
    for document in documents:
        paragraphs = [p for p in document.split("\n\n") if re.search(r"[\u4e00-\u9fff]", p)]
        yield "\n\n".join(paragraphs)


def poems(root, name):
    text = (root / "fortunes-zh/usr/share/games/fortunes" / name).read_text("utf-8")
    text = re.sub(r"\x1b\[\d*m", "", text)
    yield "\n\n".join(tidy(poem) for poem in text.split("\n%\n"))


def bible(root):
    folder = root / "bible-kjv-text/usr"
    program = root / "bible-kjv/usr/bin/bible"
    text = subprocess.run(
        [program, "-f", "-p", folder / "lib", "Gen1:1-Rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    chapter, verses = None, []
    for line in text.splitlines():
        place, verse = re.match(r"(\w+:?\d+):\d+ (.*)", line).groups()
        if place != chapter and verses:
            yield "\n".join(verses)
            verses = []
        chapter = place
        verses.append(verse.strip())
    yield "\n".join(verses)


def write(name, documents):
    documents = [document for document in documents if len(document) >= 200]
    text = "\n\f\n".join(documents) + "\n"
    pathlib.Path(name).write_text(text, "utf-8")
    print(name, len(documents), "documents", len(text.encode()), "bytes")


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1])
    write("english.txt", [*handbook(root, "en-US"), *reference(root, "debian-reference-en", "en"), *bible(root)])
    write("chinese.txt", [
        *chinese_only(handbook(root, "zh-CN")),
        *chinese_only(reference(root, "debian-reference-zh-cn", "zh-cn")),
        *poems(root, "tang300"),
        *poems(root, "song100"),
    ])
