"""Writes tests/reference/tokenizer_ids.json: texts and their ids as transformers computes them, for tests/it/tokenizer.rs.

    python scripts/reference/tokenizer.py FILE.gguf

needs transformers 5, gguf and zstandard, not torch; FILE is the donor's, SmolLM2-135M-Instruct.Q4_1.gguf. Read by the
gguf package and converted by transformers, its tokenizer splits words as GPT-2's does. SmolLM2's own tokenizer.json
parts digits first: Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, trim_offsets=True,
use_regex=True)]), without normalizer; that is set here explicitly. Ids are without special tokens around the text;
those in the text are parsed as such.

Some texts are lines of the quickstart's corpus; examples/quickstart/data/ORIGIN.md says where they are from.
"""

import base64
import json
import pathlib
import random
import sys
import unicodedata

import zstandard
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf import convert_gguf_tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ROOT / "examples" / "quickstart" / "data"
TARGET = ROOT / "tests" / "reference" / "tokenizer_ids.json"
SEED = 20

PROSE = [
    "Hello, world!",
    "hello",
    " hello",
    "The quick brown fox jumps over the lazy dog.",
    "It was the best of times, it was the worst of times, it was the age of wisdom…",
    "Dr. Smith (b. 1932) arrived at 5:45 p.m.; nobody noticed -- or did they?",
    "“Curly quotes”, ‘single ones’, «guillemets», and an em—dash.",
    "ALL CAPS SHOUTING, camelCaseWords, snake_case_words, kebab-case-words, PascalCase",
    "antidisestablishmentarianism and floccinaucinihilipilification",
    "Wait... what?! No!!! Really??",
    "e.g. i.e. etc. vs. a.m. U.S.A.",
    "One sentence.Two without a blank.Three",
    "A paragraph\nthat goes on\nover three lines.\n\nAnd another one.\n",
    "Q: What is the capital of France?\nA: Paris.",
    "* one\n* two\n  * two and a half\n1. three",
    "# Heading\n\nSome **bold** and _italic_ text with `code` and [a link](x.md).",
    "50% off! $9.99 (was £12.50, €14,90, ¥1,600) #sale @shop",
    "naïve café façade résumé coöperate Zoë piñata",
    "Der Donaudampfschifffahrtsgesellschaftskapitän trank Äpfelsaft auf der Straße.",
    "L'été, c'est où l'on s'aperçoit qu'aujourd'hui n'est déjà plus.",
    "¿Dónde está el niño? ¡Aquí!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "İstanbul'da ılık bir akşam; ığdır, IĞDIR",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία.",
    "Tôi yêu tiếng nước tôi từ khi mới ra đời",
    "ﬁne ligatures: ﬀ ﬃ ﬄ ﬆ, ĳ, Ǆ",
]

CONTRACTIONS = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'VE",
    "I've we're you'll he'd she's can't I'm",
    "I'VE WE'RE YOU'LL HE'D SHE'S CAN'T I'M",
    "I’ve we’re you’ll he’d she’s can’t I’m",
    "y'all'd've 'tis o'clock rock'n'roll 'twas",
    "'sound 'tree 'really 'very 'll 'LL 'lL 'Ll",
    "''s '''ll ' s ' ve 's's's",
    "dogs' cats' James's",
    "'𝒔 'ſ 'ſt",
]

CHINESE = [
    "你好，世界！",
    "道可道，非常道。名可名，非常名。",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "繁體中文：臺灣、香港、澳門，「引號」與『雙引號』。",
    "中文English混合Text没有空格",
    "今天是2024年3月15日，气温是25.6℃。",
    "一二三四五六七八九十百千万亿",
    "生僻字：㐀㐁䶵龘𠀀𠮷𪚥",
    "，。、；：？！…—·《》〈〉【】（）",
    "　　全角空格开头",
    "他说：“我们去吧。”她点了点头。",
    "ＦＵＬＬＷＩＤＴＨ　ａｂｃ　１２３！",
]

JAPANESE = [
    "こんにちは、世界。",
    "いろはにほへと　ちりぬるを",
    "カタカナとひらがなと漢字が混ざっている。",
    "ｶﾀｶﾅ ﾊﾝｶｸ ﾊﾟﾋﾟﾌﾟ",
    "東京タワーは333メートルです。",
    "っゃゅょー々〆〇ヶ",
    "が か\u3099 ぱ は\u309a",
    "「吾輩は猫である。名前はまだ無い。」",
]

KOREAN = [
    "안녕하세요, 세계!",
    "나랏말싸미 듕귁에 달아",
    unicodedata.normalize("NFD", "한글 자모"),
    "ㄱㄴㄷ ㅏㅑㅓ 2024년",
]

ARABIC_HEBREW = [
    "مرحبا بالعالم",
    "بِسْمِ ٱللَّهِ ٱلرَّحْمَـٰنِ ٱلرَّحِيمِ",
    "السعر ٣٫٥٠ دينار؛ أليس كذلك؟",
    "لا إله إلا الله ﷲ ﷺ ﻻ",
    "فارسی: می\u200cخواهم کتاب\u200cها را بخوانم",
    "שלום עולם",
    "בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "mixed عربي and עברית in one \u202bline\u202c",
    "اردو: یہ ایک جملہ ہے۔",
]

INDIC_AND_OTHERS = [
    "नमस्ते दुनिया",
    "क्षत्रिय, ज्ञान, श्रृंखला — संयुक्ताक्षर",
    "क\u094d\u200dष क\u094d\u200cष",
    "१२३ हिन्दी अंक",
    "বাংলা ভাষা আমার মাতৃভাষা ৪৫৬",
    "தமிழ் மொழி ௧௨௩ ௰",
    "తెలుగు ಕನ್ನಡ മലയാളം",
    "ગુજરાતી ਪੰਜਾਬੀ ଓଡ଼ିଆ සිංහල",
    "สวัสดีชาวโลก ๑๒๓",
    "ສະບາຍດີ ភាសាខ្មែរ မြန်မာ",
    "བོད་ཡིག ᠮᠣᠩᠭᠣᠯ",
    "ამ ქართული და Հայերեն",
    "አማርኛ ግዕዝ ፩፪፫",
    "ᚠᚢᚦᚨᚱᚲ ᛏ 𐌰𐌱𐌲 𓀀𓁐 𒀀𒁀",
    "ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ꦗꦮ",
    "\ua7c0\ua7c1 \u1c80 \U00016e40\U00016e60 \U0001e100 \U0001e290 \U00010d30\U00010d31 \U0001e950",
]

EMOJI = [
    "😀", "😀😃😄", "I ❤️ you", "❤ ❤️ ♥︎",
    "👍🏻👍🏼👍🏽👍🏾👍🏿",
    "👨‍👩‍👧‍👦 family, 👩🏽‍💻 coder, 🏳️‍🌈 flag, 🏴‍☠️",
    "🇩🇪🇫🇷🇯🇵 🇺🇳 🇩",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 England",
    "1️⃣2️⃣#️⃣*️⃣ 🔟",
    "🤷🏾‍♀️🤦🏼‍♂️ 🧑🏻‍❤️‍💋‍🧑🏿",
    "text😂text 😂 text",
    "☃☄★☎✓✗✿ ⌘⌥⇧ ♠♣♥♦ ⚠️",
    "🫠🫡🫥🩷🪿🫨",
    "¯\\_(ツ)_/¯ (╯°□°）╯︵ ┻━┻ ಠ_ಠ",
    "\u200d\ufe0f\u200d",
]

CODE = [
    "def f(x):\n    return x ** 2 + 1  # square\n",
    "class A(B):\n\tdef __init__(self, *args, **kwargs):\n\t\tsuper().__init__(*args, **kwargs)\n",
    "import numpy as np\nx = np.array([[1, 2], [3, 4]])[::-1, ..., None]",
    "f\"{x!r:>{width}.3f}\" 'it''s' \"\"\"doc\"\"\" r'\\d+'",
    "fn main() -> Result<(), Box<dyn Error>> {\n    println!(\"{:?}\", vec![1u8; 4]);\n    Ok(())\n}\n",
    "impl<'a, T: 'static + ?Sized> Trait for &'a mut T where T: Fn(u32) -> u64 {}",
    "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 0xFF & ~1);\n\treturn 0;\n}\n",
    "template <typename... Ts> auto g(Ts&&... ts) -> decltype((ts + ...));",
    "const f = async (x) => { await x?.y ?? `t ${z}`; };",
    "<div class=\"a b\" id='c'>&nbsp;&amp;&#x27;</div><!-- note --><br/>",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 'it''s' GROUP BY 1 ORDER BY 2 DESC;",
    "for i in $(seq 1 10); do echo \"$i\" >> out.txt 2>&1 || exit 1; done",
    "main :: IO ()\nmain = mapM_ print $ filter even [1..] >>= \\x -> [x, x]",
    "{\"a\": [1, 2.5e-10, null, true], \"b\": {\"c\": \"\\u00e9\\n\"}}",
    "key: value\nlist:\n  - one\n  - \"two\"\n...\n",
    "\\begin{equation}\\frac{\\partial f}{\\partial x} = \\sum_{i=0}^{n} x_i^2\\end{equation}",
    "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+)@(?:[a-z0-9-]+\\.)+[a-z]{2,}$",
    "if (a && b || !c) { a <<= 2; b >>>= 3; c ^= ~d; } else { --i; ++j; }",
    "        deeply.indented(\n                arguments,\n        )\n",
    "x=1;y=2;z=x+y;//comment/*not*/\n/* block\n * comment\n */",
    "package main\n\nimport (\n\t\"fmt\"\n)\n\nfunc main() { ch <- 1; x := <-ch }\n",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n context\n",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "==== ---- **** //// #### ~~~~ ____ ....",
    "0x1F 0b1010 0o777 1_000_000 1e10 .5 5. -0",
    "$ git commit -m 'x' && cd ~/.ssh; ls -la | grep '^d'",
    "C:\\Windows\\System32\\drivers\\etc\\hosts /usr/local/bin/../lib",
    "A\\\nB \\t \\\\ \\\"",
]

BLANKS = [
    "", " ", "  ", "   ", "    ", " " * 7, " " * 8, " " * 16, " " * 33, " " * 100,
    "\t", "\t\t", "\t\t\t\t", "\n", "\n\n", "\n\n\n", "\n" * 20, "\r", "\r\n", "\r\n\r\n", "\n\r", "\v", "\f",
    " \n", "\n ", " \n \n ", "\t \t", " \t", "\t ", "\n\t\n", "\n    ", "    \n",
    "a b", "a  b", "a   b", "a    b", "a\tb", "a\t\tb", "a \tb", "a\t b", "a\nb", "a\n\nb", "a \n b", "a\r\nb", "a\r\n\r\nb\r\n",
    "trailing ", "trailing  ", "trailing\n", "trailing \n", "trailing\t", " leading", "  leading", "\tleading", "\n leading",
    " both ", "  both  ",
    "a\u00a0b", "a\u00a0\u00a0b \u00a0c", "a\u2003b\u2009c\u200ad", "a\u202fb\u205fc\u1680d", "a\u3000b\u3000\u3000c",
    "a\u2028b\u2029c\u0085d", "a\u200bb\ufeffc\u2060d\u180ee", "\ufefftext after a mark",
    "a \u3000 \u00a0 b", "x\u0085\u0085y \u0085", "a\u001cb\u001eb\u001fb \u001c ",
]

DIGITS = [
    "0", "1", "12", "123", "1234", "123456", "1234567890", "007", " 1", " 12", "  12", "1 2 3", "a1b2c3", "1a", "a1", "x 1y",
    "3.14", "-3.14e-10", "1,234,567.89", "1.234.567,89", "12:34:56", "2024-03-15T12:34:56.789Z", "192.168.0.1", "+1 (555) 123-4567",
    "٣", "٠١٢٣٤٥٦٧٨٩", "۴۵۶", "²", "x² + y³ = z⁴", "H₂O CO₂", "①", "①②③⑩⑳", "½ ¼ ¾ ⅓ 1½", "Ⅳ Ⅻ ⅷ ↁ", "㊀㊁ ㈠ ㉑", "𝟏𝟐𝟑 𝟙𝟚", "１２３", "〇 〡〢〣",
    "1st 2nd 3rd 4th 21st", "v1.2.3-rc.4+build.5", "50% 3/4 2^10 10⁻³", "1 000 000", "1\u00a0000", "1\n2\n3", "99 bottles", "IPv6 ::1 fe80::1%eth0",
    "pi=3.14159265358979323846264338327950288",
    "'1 '2s 1's 2'll", "৳১০০ ₹५०", "৴ ௰ ൰ ፼",
]

MARKS = [
    unicodedata.normalize("NFC", "é ñ ü Å ệ ǟ"),
    unicodedata.normalize("NFD", "é ñ ü Å ệ ǟ"),
    unicodedata.normalize("NFC", "Việt Nam"),
    unicodedata.normalize("NFD", "Việt Nam"),
    unicodedata.normalize("NFKD", "ﬁ ² Å ½ ㎏"),
    "\u0301", " \u0301", "a\u0301\u0302\u0303\u0304b", "e\u0301 e\u0301e\u0301",
    "Z\u0351\u036b\u0343a\u0329\u034dl\u0321\u0353g\u0347o\u0322\u031c!",
    "\u00c5 A\u030a \u212b", "\u03a9 \u2126", "x\u20d7 y\u0338 =\u0338", "\u0345 \u034f a\u034fb",
    "\u0e01\u0e33\u0e49 \u0e4d", "\u1100\u1161\u11a8 \u3131\u314f",
]

CONTROLS = [
    "\u0000", "a\u0000b", "\u0000\u0000", "\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008", "\u000e\u000f\u0010\u0011\u0012",
    "\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a", "\u001b[31mred\u001b[0m", "\u001c\u001d\u001e\u001f", "\u007f",
    "a\u0004b", "the\u0006re", "\u0080\u0081\u009f", "\u00ad soft\u00adhyphen", "\u200e\u200f\u202a\u202d\u202e\u2066\u2069",
    "\ufffd", "a\ufffdb\ufffd\ufffd", "\uffff \ufffe \ufdd0", "\U0010ffff", "a\U0010ffffb", "\U0010fffd\U000f0000", "\ue000\uf8ff",
    "\U0001fffe \U000e0001 \U000e0100", "\U00040000", "a\U00050000b", "\U00080000\U000c0000", "\ufe0e\ufe0f", "\ufff9\ufffb",
    "\ud7fb\uf900", "\u0fda\u1000\u07ff\u0800", "\U00010000\U0001d54f\U0001f9ff\U00020000",
]

LONG = [
    "a" * 300, "ab" * 150, "A" * 64, "ha" * 40 + "!", "0" * 70, "é" * 60, "的" * 60, "😀" * 20, "-" * 80, "=" * 79 + "\n", "." * 50,
    "Lopadotemachoselachogaleokranioleipsanodrimhypotrimmatosilphiokarabomelitokatakechymenokichlepikossyphophattoperisteralektryonoptekephalliokigklopeleiolagoiosiraiobaphetraganopterygon",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "x_" * 60, "aA" * 50, "_" * 33, "''" * 20, "\\" * 17, "word " * 40, "\n " * 20, "🏽" * 6,
]

ADDRESSES = [
    "https://example.org/a/b?c=d&e=%20f#g",
    "http://user:pass@localhost:8080/~x/index.html;v=1",
    "ftp://example.org mailto:someone+tag@example.org www.example.org",
    "See https://example.org/路径/ü?q=日本語.",
    "bitcoin:1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa data:text/plain;base64,SGk=",
    "550e8400-e29b-41d4-a716-446655440000",
    "d41d8cd98f00b204e9800998ecf8427e",
    "AKIA/EXAMPLE+key==",
]

MIXED = [
    "Hello мир 世界 שלום 🌍 123",
    "aбвγδ漢字かな한글",
    "LaтιnГrееk",
    "price:５００円(税込)=about$3.50",
    "x\u0000y\tz\r\n\u3000終",
    "C++17の新機能、Pythonのf\"{x}\"",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ⇒ γ ∮ ≠ ≤ ∞",
    "𝕳𝖊𝖑𝖑𝖔 𝓌ℴ𝓇𝓁𝒹 𝔗𝔥𝔢 ⓐⓑⓒ 🄰🄱",
    "┌─┬─┐\n│ │ │\n└─┴─┘ ░▒▓█",
    "♩♪♫♬ 𝄞 ℃ ℉ № ™ © ® § ¶ † ‡ • ‰",
    "Ġt Ċ ĉ Ā ł Ń ġ",
    "▁the ▁▁ <0x0A> ##ing </w> @@",
]

SPECIAL_TEXTS = [
    "<|im_start|>user\nHi there!<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
    "one<|endoftext|>two",
    "one <|endoftext|> two",
    "<|endoftext|><|endoftext|>",
    "<|endoftext|>\n\n<|endoftext|> ",
    "  <|im_end|>  ",
    "1<|im_end|>2",
    "don<|im_start|>'t",
    "<repo_name>tlm<file_sep>src/main.rs\nfn main() {}\n<|endoftext|>",
    "<issue_start><issue_comment>text<issue_closed>",
    "<jupyter_start><jupyter_text>t<jupyter_code>1+1<jupyter_output>2<empty_output>",
    "<|im_start", "|im_start|>", "< |im_start|>", "<|IM_START|>", "<|im_start |>", "<<|im_start|>>", "<|im_<|im_end|>start|>",
    "<reponame", "<filename >x", "<|begin_of_text|><s></s>[INST]<pad><unk>",
    "é<gh_stars>é <gh_stars>100",
]


def noise(random_):
    """Base64, random letters, and random characters."""
    yield base64.b64encode(random_.randbytes(48)).decode()
    yield base64.urlsafe_b64encode(random_.randbytes(100)).decode()
    yield random_.randbytes(40).hex()
    yield "".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=80))
    yield "".join(random_.choices("abcXYZ019 \t\n'.,-_", k=120))
    # Unicode 3.2, so that neither Python's version nor a later Unicode matters.
    known = [chr(x) for x in range(0x20, 0xD800) if unicodedata.ucd_3_2_0.category(chr(x)) != "Cn"]
    for low, high in [("\u0020", "\u024f"), ("\u0370", "\u07ff"), ("\u0900", "\u1fff"), ("\u2000", "\u2fff"), ("\u3000", "\ud7ff")]:
        yield "".join(random_.choices([x for x in known if low <= x <= high], k=24))
    for _ in range(3):
        yield "".join(x + random_.choice(["", " ", "s", "7"]) for x in random_.choices(known, k=24))



def corpus(random_):
    for path in sorted(CORPUS.glob("*.txt.zst")):
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = [line for line in file if 8 <= len(line) <= 160]
        yield from random_.sample(lines, 20)


def texts(special):
    random_ = random.Random(SEED)
    fixed = (PROSE + CONTRACTIONS + CHINESE + JAPANESE + KOREAN + ARABIC_HEBREW + INDIC_AND_OTHERS + EMOJI + CODE + BLANKS + DIGITS
             + MARKS + CONTROLS + LONG + ADDRESSES + MIXED + SPECIAL_TEXTS)
    return list(dict.fromkeys([*fixed, *special, *noise(random_), *corpus(random_)]))


def metadata(path):
    fields = GGUFReader(path).fields
    keys = {"tokenizer_type": "model", "pre_tokenizer_type": "pre", "tokens": "tokens", "token_type": "token_type", "merges": "merges"}
    return {name: fields[f"tokenizer.ggml.{key}"].contents() for name, key in keys.items()}


def load(description):
    backend, _ = convert_gguf_tokenizer("llama", description)
    assert description["pre_tokenizer_type"] == "smollm" and backend.normalizer is None
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def main():
    description = metadata(sys.argv[1])
    special = [token for token, kind in zip(description["tokens"], description["token_type"]) if kind == 3]
    tokenizer = load(description)
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts(special)]
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    TARGET.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(cases)} texts, {TARGET.stat().st_size} bytes")


main()
