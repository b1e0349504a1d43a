//! What there is to run on, and whether a step can ever fit.

use std::path::PathBuf;

use crate::base::{World, text};
use crate::diag::Diagnostic;
use crate::graph::{Plan, Planned};

/// The version of libtorch that `scripts/libtorch.sh` installs and `tlm-torch` is built against.
pub const LIBTORCH: &str = "2.11.0";

/// The machine and the worker programs.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Cores.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory in bytes, where it is known.
    pub mem: Option<u64>,
    /// `tlm`, which as `tlm worker` runs the stages without tensors.
    pub tlm: PathBuf,
    /// `tlm-torch`.
    pub torch: PathBuf,
}

/// What a step takes of the machine while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) cpus: u32,
    pub(super) gpus: u32,
    pub(super) mem: u64,
}

impl Machine {
    /// Returns this machine. The tensor worker is `torch`, or else `$TLM_TORCH`, or else `tlm-torch` beside this program.
    pub fn of(world: &World, torch: Option<PathBuf>) -> Self {
        let torch = torch.map(|torch| world.cwd().join(torch));
        let torch = torch.or_else(|| world.path_var("TLM_TORCH"));
        Self {
            cpus: world.cpus(),
            gpus: if has_cuda(world) { world.gpus() } else { 0 },
            mem: world.memory(),
            tlm: world.program().to_owned(),
            torch: torch.unwrap_or_else(|| world.program().with_file_name("tlm-torch")),
        }
    }

    /// Returns the class of results that tensor steps give here, as `cpu/libtorch-2.11.0`.
    pub fn numerics(&self) -> String {
        format!("{}/libtorch-{LIBTORCH}", if self.gpus > 0 { "cuda" } else { "cpu" })
    }

    /// Returns what a step takes when `others` more could start now. A tensor step takes all cores, or a GPU and one core;
    /// others share the cores.
    pub(super) fn share(&self, planned: Planned<'_>, free_cpus: u32, others: usize) -> Share {
        let (run, stage) = (planned.step.run(), planned.step.stage());
        let gpus = match (run.gpus, stage.tensor && self.uses_gpu(planned)) {
            (Some(gpus), _) => gpus,
            (None, true) => 1,
            (None, false) => 0,
        };
        let default = match stage.tensor {
            true if gpus > 0 => 1,
            true => self.cpus,
            false => (free_cpus / (others as u32 + 1)).max(1),
        };
        Share { cpus: run.cpus.unwrap_or(default).max(1), gpus, mem: run.mem.unwrap_or(0) }
    }

    /// Returns whether a tensor step runs on a GPU.
    pub(super) fn uses_gpu(&self, planned: Planned<'_>) -> bool {
        match planned.step.run().device.as_deref() {
            Some(device) => device == "cuda",
            None => self.gpus > 0,
        }
    }
}

/// Returns whether libtorch's CUDA part is where the tensor worker looks for it.
fn has_cuda(world: &World) -> bool {
    let given = world.var("LD_LIBRARY_PATH").unwrap_or_default().split(':').map(PathBuf::from);
    let libtorch = world.path_var("LIBTORCH").map(|root| root.join("lib"));
    given.chain(libtorch).any(|folder| folder.join("libtorch_cuda.so").exists())
}

/// Returns a finding for each step that has to run but never can: it wants more than there is, or its worker is missing.
pub fn fits(plan: &Plan, machine: &Machine) -> Vec<Diagnostic> {
    let due = || plan.due().iter().filter_map(|id| plan.get(*id));
    let mut found: Vec<_> = due().filter_map(|planned| never_fits(planned, machine)).collect();
    if let Some(planned) = due().find(|planned| planned.step.stage().tensor)
        && !machine.torch.exists()
    {
        found.push(
            Diagnostic::error("tlm::exec::no_worker", "the tensor worker is missing")
                .label(
                    planned.step.span(),
                    format!("this step needs it at `{}`", machine.torch.display()),
                )
                .help(
                    "build it with `make libtorch && cargo build --release`, \
                     or name it with `--torch PROGRAM`",
                ),
        );
    }
    found
}

fn never_fits(planned: Planned<'_>, machine: &Machine) -> Option<Diagnostic> {
    let share = machine.share(planned, machine.cpus, 0);
    let (what, wanted, there) = if share.cpus > machine.cpus {
        ("cpus", share.cpus.to_string(), machine.cpus.to_string())
    } else if share.gpus > machine.gpus {
        ("gpus", share.gpus.to_string(), machine.gpus.to_string())
    } else {
        let mem = machine.mem.filter(|mem| share.mem > *mem)?;
        ("mem", text::bytes(share.mem), text::bytes(mem))
    };
    let message = format!("`{}` can never run here", planned.step.label());
    Some(
        Diagnostic::error("tlm::exec::never_fits", message)
            .label(planned.step.span(), format!("wants {wanted} of `{what}`; there are {there}"))
            .help("ask for less in its `run { }`, or run it on a larger machine"),
    )
}
