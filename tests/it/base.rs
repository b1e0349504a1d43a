//! Digests, texts for people, and places in sources.

use proptest::collection;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use tlm::base::{Digest, SourceMap, Span, Value, telling_digits, text, units};

#[test]
fn digests_agree_with_the_published_blake3_vectors() {
    // BLAKE3 test_vectors.json: input bytes count 0, 1, ..., 250, 0, ...
    let input: Vec<u8> = (0..2048u32).map(|i| (i % 251) as u8).collect();
    for (len, hex) in [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
        (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
        (2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"),
    ] {
        assert_eq!(Digest::of(&input[..len]).to_string(), hex);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), &input[..len]).expect("written");
        assert_eq!(Digest::of_file(file.path()).expect("read").to_string(), hex);
        assert_eq!(Digest::of_reader(&input[..len]).expect("read").to_string(), hex);
    }
}

#[test]
fn digests_on_a_screen_can_be_told_apart() {
    let mut random: Vec<_> = (0..1_000_000u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    random.sort_unstable();
    let digits = telling_digits(random.iter().rev().copied());
    let shown: Vec<_> = random.iter().map(|digest| digest.digits(digits)).collect();
    assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "{digits} digits");

    let from = |text: &str| format!("{text:0<64}").parse::<Digest>().expect("64 digits");
    for (a, b, digits) in [
        ("1", "2", 12),
        ("123456789abc", "123456789abd", 12),
        ("123456789abcd1", "123456789abcd2", 14),
        ("123456789abcde1", "123456789abcde2", 15),
        ("1", "1", 12),
    ] {
        assert_eq!(telling_digits([from(a), from(b)]), digits, "{a} {b}");
    }
    assert_eq!(telling_digits([]), 12);
}

#[test]
fn only_64_lowercase_digits_are_a_digest() {
    let good = Digest::of(b"tlm").to_string();
    assert_eq!(good.parse::<Digest>().map(|d| d.to_string()), Ok(good.clone()));
    for bad in
        [&good[1..], &good.to_uppercase(), &format!("{good}0"), &good.replace(&good[..1], "g")]
    {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

#[test]
fn sizes_are_numbers_of_bytes_with_units() {
    for (text, expected) in [
        ("0", Some(0)),
        ("4096", Some(4096)),
        ("200GiB", Some(200 << 30)),
        ("1.5 TB", Some(1_500_000_000_000)),
        (" 7 bytes ", Some(7)),
        ("", None),
        ("GiB", None),
        ("3 tokens", None),
        ("3 gib", None),
        ("-1GiB", None),
        ("inf", None),
        ("1e400", None),
    ] {
        assert_eq!(units::bytes(text), expected, "{text}");
    }
    for (text, expected) in [
        ("400T", Some(4e14)),
        ("4e14", Some(4e14)),
        ("0.5k", Some(500.0)),
        ("4 bytes", None),
        ("40%", None),
        ("T", None),
        ("inf", None),
    ] {
        assert_eq!(units::number(text), expected, "{text}");
    }
}

#[test]
fn numbers_read_well() {
    for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
        assert_eq!(text::thousands(number), expected);
    }
    for (count, expected) in
        [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (97_727_283, "93.2 MiB")]
    {
        assert_eq!(text::bytes(count), expected);
    }
    for (seconds, expected) in [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (185.0, "3m05s"),
        (7620.0, "2h07m"),
    ] {
        assert_eq!(text::duration(seconds), expected);
    }
    assert_eq!(
        (text::plural(1, "step"), text::plural(2, "step")),
        ("1 step".into(), "2 steps".into())
    );
}

#[test]
fn suggestions_are_near_misses_only() {
    let names = ["train", "tokenizer", "model"];
    for (written, expected) in
        [("trian", Some("train")), ("toknizer", Some("tokenizer")), ("x", None), ("corpus", None)]
    {
        assert_eq!(text::did_you_mean(written, names), expected, "{written}");
    }
}

#[test]
fn places_count_characters_from_one() {
    let mut sources = SourceMap::default();
    let file = sources.add("a.tlm", "let a = 1\nlet 变量 = x\n");
    let span = Span::new(file, 23, 24);
    assert_eq!((sources.snippet(span), sources.line_column(span)), ("x", (2, 10)));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e300..1e300).prop_map(Value::Float),
        ".{0,4}".prop_map(Value::Str),
        any::<[u8; 32]>().prop_map(|bytes| Value::Digest(bytes.into())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            collection::btree_map(".{0,2}", inner, 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_comes_back_from_its_bytes_and_no_other_bytes_give_it(
        value in value(), at in any::<usize>(), bit in 0..8,
    ) {
        let mut bytes = value.encode();
        prop_assert_eq!(Value::decode(&bytes), Some(value));
        prop_assert_eq!(Value::decode(&bytes[..bytes.len() - 1]), None);
        let at = at % bytes.len();
        bytes[at] ^= 1u8 << bit;
        if let Some(other) = Value::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}

#[test]
fn bytes_that_nest_without_end_are_no_value() {
    let list = [[5, 1, 0, 0, 0, 0, 0, 0, 0]];
    assert_eq!(Value::decode(list.repeat(1_000_000).as_flattened()), None);
    assert_eq!(Value::decode(&[5, 255, 255, 255, 255, 255, 255, 255, 255]), None);
}
