"""Trains the small models of tests/reference/sentencepiece and writes `ids.json`: what sentencepiece makes of short texts.

    python scripts/reference/pieces.py        # sentencepiece 0.2.3, zstandard

The texts are those of tests/reference/tokenizer_ids.json that are short and have no control symbol in them: `tlm` takes
`<s>` in a text for the token, as Hugging Face's tokenizers do, sentencepiece for three characters. A `.model` with the rules of
`nmt_nfkc` has a quarter of a megabyte, so `unigram` has a few rules of its own.
"""

import io
import json
import pathlib
import tempfile

import sentencepiece
import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "tests" / "reference" / "sentencepiece"
RULES = [("A", "a"), ("ﬁ", "fi"), ("\t", " "), ("\u3000", " "), ("e\u0301", "é"), ("１", "1"), ("½", "1/2"), ("\u00ad", "")]
MODELS = {
    "bpe_bytes": dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
                      remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "bpe": dict(model_type="bpe", vocab_size=400, normalization_rule_name="identity", pad_id=3),
    "bpe_symbols": dict(model_type="bpe", vocab_size=400, normalization_rule_name="identity", byte_fallback=False,
                        remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "\u2581\u2581", "ing"],
                        control_symbols=["[INST]"]),
    "unigram": dict(model_type="unigram", vocab_size=500, byte_fallback=True),
}


def lines():
    for path in sorted((ROOT / "examples" / "quickstart" / "data").glob("*.txt.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            yield from [line.rstrip("\n") for line in file if 8 <= len(line) <= 160 and line.isascii()][:3000]
    yield from ["道可道，非常道。名可名，非常名。", "naïve café ½ é"] * 40


def train(options):
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        if options["model_type"] == "unigram":
            for old, new in RULES:
                rules.write(" ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n")
            rules.flush()
            options = {**options, "normalization_rule_tsv": rules.name}
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(list(lines())), model_writer=out, character_coverage=0.98, num_threads=1,
            minloglevel=2, **options)
        return out.getvalue()


def main():
    texts = [case["text"] for case in json.loads((TARGET.parent / "tokenizer_ids.json").read_text())]
    texts = [text for text in texts if len(text.encode()) <= 40 and not any(mark in text for mark in ["<s>", "</s>", "<unk>", "<pad>", "[INST]"])]
    texts += ["<sep>", "a<sep>b", "a <sep> b", "singing  ing", "  two  blanks  ", "\u2581x", "half ½ e\u0301 \u00ad"]
    ids = {}
    for name, options in MODELS.items():
        model = train(options)
        (TARGET / f"{name}.model").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids[name] = [processor.encode(text) for text in texts]
    lines = [json.dumps([text, *[ids[name][at] for name in MODELS]], ensure_ascii=True, separators=(",", ":")) for at, text in enumerate(texts)]
    (TARGET / "ids.json").write_text("[\n" + ",\n".join([json.dumps(list(MODELS)), *lines]) + "\n]\n")


main()
