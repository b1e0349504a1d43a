//! `tlm sample`: a checkpoint writes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::{Digest, Value};
use crate::cli::stored::{find_pinned, open};
use crate::cli::{Console, ENVIRONMENT, Exit, FAILED, INTERNAL, SampleArgs, StoreArgs, USAGE};
use crate::exec::{Machine, ask};
use crate::stage::action::PROTOCOL;
use crate::stage::{Action, FailureKind};
use crate::store::Output;

/// `tlm sample`
pub(super) fn sample(args: &SampleArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    check(args, console)?;
    let model = checkpoint(&args.checkpoint, &args.store, console)?;
    let machine = Machine::of(console.world, args.torch.clone());
    let whole = |number: u32| Value::Int(i64::from(number));
    let params = BTreeMap::from([
        ("prompt".to_owned(), Value::Str(args.prompt.clone())),
        ("tokens".to_owned(), whole(args.tokens)),
        ("temperature".to_owned(), Value::Float(args.temperature)),
        ("top_k".to_owned(), whole(args.top_k)),
        ("top_p".to_owned(), Value::Float(args.top_p)),
        ("seed".to_owned(), whole(args.seed)),
    ]);
    let action = Action {
        protocol: PROTOCOL,
        key: Digest::of(b"tlm sample"),
        stage: "sample".to_owned(),
        params,
        inputs: BTreeMap::from([("model".to_owned(), vec![model])]),
        out: PathBuf::new(),
        state: PathBuf::new(),
        seed: 0,
        threads: machine.cpus,
        device: if machine.gpus > 0 { "cuda:0" } else { "cpu" }.to_owned(),
        micro_batch: None,
        recompute: false,
        shell: None,
    };
    write!(console.out, "{}", args.prompt)?;
    console.out.flush()?;
    let mut written = Ok(());
    let asked = ask(&machine.torch, action, &mut |piece| {
        if written.is_ok() {
            written = write!(console.out, "{piece}").and_then(|()| console.out.flush());
        }
    });
    written?;
    writeln!(console.out)?;
    asked.map_err(|failure| {
        let code = match failure.kind {
            FailureKind::Environment => ENVIRONMENT,
            FailureKind::Internal => INTERNAL,
            _ => FAILED,
        };
        console.fail(code, failure.message, failure.help.as_deref().unwrap_or_default())
    })
}

fn check(args: &SampleArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let mut wrong = |what: &str, help: &str| Err(console.fail(USAGE, what.to_owned(), help));
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return wrong(
            "`--temperature` is no number from 0 up",
            "0 takes the likeliest token, 1 draws as the model says",
        );
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return wrong("`--top-p` is not above 0 and at most 1", "1 leaves all tokens");
    }
    Ok(())
}

/// Returns the folder of a checkpoint: a path, or what a step of the store made.
fn checkpoint(wanted: &str, store: &StoreArgs, console: &mut Console<'_>) -> Result<PathBuf, Exit> {
    let folder = console.world.cwd().join(wanted);
    if is_checkpoint(&folder) {
        return Ok(folder);
    }
    if folder.exists() {
        let message = format!("`{wanted}` is no checkpoint");
        return Err(console.fail(
            USAGE,
            message,
            "give a folder with `config.json`, `model.safetensors` and `tokenizer.json`",
        ));
    }
    let store = open(store, console)?;
    let record = find_pinned(&store, wanted, console)?;
    let objects = record.outputs.values().filter_map(|output| match output {
        Output::Object { digest, .. } => Some(store.object_path(*digest)),
        Output::Scalar(_) => None,
    });
    objects.into_iter().find(|path| is_checkpoint(path)).ok_or_else(|| {
        let message = format!("`{wanted}` made no checkpoint that is still there");
        console.fail(USAGE, message, "`tlm ls` lists all steps; a run makes again what was removed")
    })
}

fn is_checkpoint(folder: &Path) -> bool {
    ["config.json", "tokenizer.json"].iter().all(|name| folder.join(name).exists())
}
