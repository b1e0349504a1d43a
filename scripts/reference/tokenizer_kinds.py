"""Writes tests/reference/tokenizers/: small tokenizers of every kind, and digests of the ids that the Python package has for them.

    python scripts/reference/tokenizer_kinds.py

needs tokenizers 0.23, which splits with Oniguruma where the Rust crate has fancy-regex. Each is trained on the texts of
tests/reference/tokenizer_ids.json, which does not come out the same each time. `python.json` has, by name, the SHA-256 of the ids of these texts, four bytes each, little endian, -1
after each text; special tokens in a text are parsed, none are put around it.
"""

import hashlib
import json
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
TEXTS = [case["text"] for case in json.loads((ROOT / "tokenizer_ids.json").read_text())]
PIECES = 420

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
# Possessive, which automata don't have: the crate splits.
TIKTOKEN = LLAMA3.replace(r"[^\r\n\p{L}\p{N}]?", r"[^\r\n\p{L}\p{N}]?+")


def regex(pattern, behavior="isolated", invert=False):
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior.capitalize(), "invert": invert,
    }


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def byte_level(use_regex=False, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
NFC = {"type": "NFC"}


def normalizer_sequence(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def token(content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


PLAIN = [token("<|endoftext|>"), token("<|im_end|>"), token("<|im_start|>", special=False)]
NORMALIZED = [token("the", normalized=True, special=False), token("é", normalized=True, special=False)]
ODD = [token("<|im_end|>", lstrip=True), token("<|im_start|>", rstrip=True), token("on", single_word=True, special=False)]


def train(model, trainer, pre_tokenizer=None, normalizer=None, texts=TEXTS):
    """Returns the model that is learned from texts."""
    tokenizer = Tokenizer(model)
    whole = json.loads(tokenizer.to_str())
    whole["pre_tokenizer"], whole["normalizer"] = pre_tokenizer, normalizer
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_bpe(pre_tokenizer, normalizer=None, **options):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    return {**train(models.BPE(), trainer, pre_tokenizer, normalizer), **options}


def sp_bpe(fallback=True, **options):
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] * fallback
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 330, special_tokens=special, limit_alphabet=130, show_progress=False)
    learned = train(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback), trainer, metaspace("always", True))
    return {**learned, **options}


def unigram(pre_tokenizer):
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    latin = [text for text in TEXTS if all(" " <= char < "ſ" for char in text)]
    learned = train(models.Unigram(), trainer, pre_tokenizer, texts=latin)
    # Sums of these are exact, so that equal ones stay equal whoever reads and adds them.
    learned["vocab"] = [[piece, round(score * 1024) / 1024] for piece, score in learned["vocab"]]
    return learned


def kinds():
    """Yields names, models, normalizers, pre-tokenizers and added tokens."""
    split = sequence(regex(LLAMA3), byte_level())
    gpt2 = byte_bpe(byte_level(use_regex=True))
    llama3 = byte_bpe(split)
    yield "gpt2", gpt2, None, byte_level(use_regex=True), PLAIN
    yield "gpt2_prefixed", gpt2, None, byte_level(use_regex=True, add_prefix_space=True), PLAIN
    digits = sequence({"type": "Digits", "individual_digits": True}, byte_level(use_regex=True))
    yield "smollm", without_bytes(gpt2), None, digits, PLAIN + NORMALIZED
    runs = sequence({"type": "Digits", "individual_digits": False}, byte_level(use_regex=True))
    yield "digit_runs", gpt2, None, runs, PLAIN
    falcon = sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), {"type": "Digits", "individual_digits": False})
    yield "falcon", gpt2, None, falcon, PLAIN
    yield "llama3", {**unreachable(llama3), "ignore_merges": True}, None, split, PLAIN
    yield "tiktoken", llama3, None, sequence(regex(TIKTOKEN), byte_level()), PLAIN
    yield "odd_tokens", llama3, None, split, ODD
    yield "odd_normalized", llama3, NFC, split, [token("é on", normalized=True, rstrip=True)]
    qwen = sequence(regex(QWEN2), byte_level())
    yield "qwen2", byte_bpe(qwen, NFC), NFC, qwen, PLAIN + NORMALIZED
    o200k = sequence(regex(O200K, "removed", True), byte_level())
    yield "o200k", byte_bpe(o200k), None, o200k, PLAIN
    deepseek = sequence(*map(regex, DEEPSEEK), byte_level())
    yield "deepseek", byte_bpe(deepseek), normalizer_sequence(), deepseek, PLAIN + NORMALIZED
    marked = sp_bpe()
    yield "llama2", marked, normalizer_sequence(PREPEND, REPLACE), None, PLAIN
    yield "llama2_normalized", marked, normalizer_sequence(PREPEND, REPLACE), None, PLAIN + NORMALIZED
    gemma = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    yield "gemma", marked, REPLACE, gemma, PLAIN + [token("\n\n"), token("▁▁"), token("  ")]
    yield "mistral", marked, None, metaspace("first", False), PLAIN
    yield "metaspace", marked, None, metaspace("always", True), PLAIN
    yield "unknown", sp_bpe(fallback=False), normalizer_sequence(PREPEND, REPLACE), None, PLAIN
    yield "unknown_apart", sp_bpe(fallback=False, fuse_unk=False), REPLACE, None, PLAIN
    yield "few_bytes", without_fallback(marked), REPLACE, None, PLAIN
    yield "merged_bytes", merged_bytes(marked), REPLACE, None, PLAIN
    yield "unigram", unigram(metaspace("always", True)), None, metaspace("always", True), PLAIN
    yield "unigram_first", unigram(metaspace("first", True)), NFC, metaspace("first", True), PLAIN + NORMALIZED
    t5 = sequence({"type": "WhitespaceSplit"}, metaspace("always", True))
    yield "t5", unigram(t5), {"type": "NFKC"}, t5, PLAIN
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    wordpiece = trainers.WordPieceTrainer(vocab_size=420, special_tokens=["[UNK]"], limit_alphabet=120, show_progress=False)
    learned = train(models.WordPiece(unk_token="[UNK]"), wordpiece, {"type": "BertPreTokenizer"}, bert)
    yield "wordpiece", learned, bert, {"type": "BertPreTokenizer"}, PLAIN + ODD[2:]
    words = trainers.WordLevelTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    learned = train(models.WordLevel(unk_token="[UNK]"), words, {"type": "Whitespace"}, {"type": "Lowercase"})
    yield "wordlevel", learned, {"type": "Lowercase"}, {"type": "Whitespace"}, PLAIN
    suffix = trainers.BpeTrainer(vocab_size=500, end_of_word_suffix="</w>", limit_alphabet=120, show_progress=False)
    learned = train(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), suffix, {"type": "WhitespaceSplit"})
    learned["vocab"]["<unk>"] = len(learned["vocab"])
    yield "suffixed", learned, None, {"type": "WhitespaceSplit"}, PLAIN


def without_bytes(model):
    """Some control characters and first bytes without a token, as SmolLM2 has it."""
    lost = [chr(256 + byte) for byte in (0x04, 0x06, 0x13)] + ["ñ", "ò", "Ł"]
    merged = {piece for piece in model["vocab"] if len(piece) > 1 and any(char in piece for char in lost)}
    pieces = [piece for piece in model["vocab"] if piece not in lost and piece not in merged]
    return renumbered(model, pieces)


def unreachable(model):
    """Pieces that no merge makes, which `ignore_merges` finds all the same."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = [" brown", "nobody", "道可道", "举头望明月", "低头", "  ", "\n\n\n"]
    return renumbered(model, [*model["vocab"], *(split.pre_tokenize_str(text)[0][0] for text in whole)])


def without_fallback(model):
    return renumbered(model, [piece for piece in model["vocab"] if piece not in ("<0xE4>", "<0xF0>")])


def merged_bytes(model):
    """A merge of two bytes, so that characters without a piece may join."""
    merged = renumbered(model, [*model["vocab"], "<0xE4><0xB8>", "<0xAD><0xE6>"])
    merged["merges"] += [["<0xE4>", "<0xB8>"], ["<0xAD>", "<0xE6>"]]
    return merged


def renumbered(model, pieces):
    vocab = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    merges = [merge for merge in model["merges"] if {*merge, "".join(merge)} <= vocab.keys()]
    return {**model, "vocab": vocab, "merges": merges}


def build(model, normalizer, pre_tokenizer, added):
    size = len(model["vocab"])
    added = [{"id": size + at, **token} for at, token in enumerate(added)]
    vocab = model["vocab"]
    known = {piece: at for at, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
    for token_ in added:
        token_["id"] = known.get(token_["content"], token_["id"])
    added.sort(key=lambda token: token["id"])
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": None, "model": model,
    }


def digest(text):
    tokenizer, sum_ = Tokenizer.from_str(text), hashlib.sha256()
    for encoding in tokenizer.encode_batch_fast(TEXTS, add_special_tokens=False):
        sum_.update(b"".join(id_.to_bytes(4, "little", signed=True) for id_ in [*encoding.ids, -1]))
    return sum_.hexdigest()


def main():
    folder = ROOT / "tokenizers"
    folder.mkdir(exist_ok=True)
    digests = {}
    for name, *parts in kinds():
        text = json.dumps(build(*parts), ensure_ascii=False, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text + "\n")
        digests[name] = digest(text)
        print(name, len(text))
    (folder / "python.json").write_text(json.dumps(digests, indent=1) + "\n")


main()
