//! Archives: what is in them, and what is refused.

use std::io::Write;

use tar::{EntryType, Header};
use zip::write::SimpleFileOptions;

use crate::run::inputs::{gzip_bytes, made};
use crate::run::space::{Run, Space};

/// A tar archive of members: kind, name, content.
fn tar(members: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, content) in members {
        let mut header = Header::new_gnu();
        // The crate's own functions refuse evil names.
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if *kind == EntryType::Symlink || *kind == EntryType::Link {
            header.set_link_name("/etc/passwd").expect("a name");
        }
        header.set_cksum();
        archive.append(&header, *content).expect("written");
    }
    archive.into_inner().expect("written")
}

fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in members {
        archive.start_file(*name, SimpleFileOptions::default()).expect("started");
        archive.write_all(content).expect("written");
    }
    archive.finish().expect("written").into_inner()
}

fn run(space: &Space, args: &str) -> Run {
    space.write(
        "r.tlm",
        format!(
            "use std.{{corpus, source}}\nlet text = corpus.text(source.unpack({args}))\nplan default = text\n"
        ),
    );
    space.run(&[])
}

#[track_caller]
fn documents(space: &Space, args: &str) -> Vec<String> {
    let run = run(space, args);
    assert_eq!(run.code, Some(0), "{run}");
    let corpus = tlm::data::Corpus::open(&made(space, "text")).expect("a corpus");
    (0..corpus.documents()).map(|at| corpus.document(at).expect("text").to_owned()).collect()
}

#[test]
fn archives_are_folders_of_their_files() {
    let plain = tar(&[
        (EntryType::Directory, "d/", b""),
        (EntryType::Regular, "d/b.txt", b"two"),
        (EntryType::Regular, "./a.txt", b"one"),
        (EntryType::Regular, "d/e/c.md", b"three"),
    ]);
    let space = Space::new();
    space.write("a.tar", &plain);
    space.write("a.tgz", gzip_bytes(&plain));
    space.write("a.tar.zst", zstd::encode_all(&*plain, 3).expect("compressed"));
    space.write("a.zip", zip(&[("d/b.txt", b"two"), ("a.txt", b"one"), ("d/e/c.md", b"three")]));
    for name in ["a.tar", "a.tgz", "a.tar.zst", "a.zip"] {
        assert_eq!(documents(&space, &format!("\"{name}\"")), ["one", "two", "three"], "{name}");
        assert_eq!(documents(&space, &format!("\"{name}\", only: \"d/*\"")), ["two", "three"]);
    }
}

#[test]
fn what_is_evil_or_broken_in_an_archive_is_refused() {
    let one: &[u8] = b"one";
    let zeros = vec![0; 300 << 20];
    let good = tar(&[(EntryType::Regular, "a", one)]);
    for (bytes, args, told) in [
        (tar(&[(EntryType::Regular, "../a", one)]), "", "`../a` is refused: its name leads out"),
        (
            tar(&[(EntryType::Regular, "/tmp/a", one)]),
            "",
            "`/tmp/a` is refused: its name leads out",
        ),
        (tar(&[(EntryType::Regular, "d/../../a", one)]), "", "its name leads out"),
        (zip(&[("../../a", one)]), "", "its name leads out"),
        (zip(&[("d\\..\\a", one)]), "", "its name leads out"),
        (tar(&[(EntryType::Symlink, "a", b"")]), "", "`a` is refused: it is a link or a device"),
        (tar(&[(EntryType::Link, "a", b"")]), "", "it is a link or a device"),
        (tar(&[(EntryType::Fifo, "a", b"")]), "", "it is a link or a device"),
        (
            tar(&[(EntryType::Regular, "a", one), (EntryType::Regular, "./a", one)]),
            "",
            "it is there twice",
        ),
        (
            tar(&[(EntryType::Regular, "a", one), (EntryType::Regular, "a/b", one)]),
            "",
            "a folder on its path is a file",
        ),
        (zip(&[("bomb", &zeros)]), "", "made to fill a disk"),
        (zip(&[("a", one)]), ", limit: 2", "holds more than 2 B, the `limit`"),
        (good[..700].to_vec(), "", "is no whole zip or tar archive"),
        (zip(&[("a", one)])[..50].to_vec(), "", "is no whole zip or tar archive"),
        (b"no archive".to_vec(), "", "is no whole zip or tar archive"),
        (good, ", only: \"b*\"", "has no such files"),
    ] {
        let space = Space::new();
        space.write("x", bytes);
        let run = run(&space, &format!("\"x\"{args}"));
        assert_eq!(run.code, Some(1), "{told}\n{run}");
        run.says(&[told]);
        space.check_store();
    }
}
