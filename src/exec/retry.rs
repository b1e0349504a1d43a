//! What a step gets when it is tried again.

use std::time::Duration;

use crate::base::text;
use crate::exec::control::Limits;
use crate::exec::{Machine, Raised};
use crate::sema::steps::RunSpec;
use crate::stage::{Failure, FailureKind};

/// How long a step rests whose surroundings failed, before it is tried for the second time; twice as long each time.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// How a step is run this time: as the recipe says at first, with more of what it lacked when it is tried again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Terms {
    pub(super) limits: Limits,
    /// Peak memory in bytes.
    pub(super) mem: u64,
    /// What the log says of all that.
    pub(super) changed: Option<String>,
    /// Which attempt this is, from 1.
    pub(super) tries: u32,
    retries: u32,
}

impl Terms {
    /// Returns what the recipe says.
    pub(super) fn of(run: &RunSpec) -> Self {
        let span = |seconds: Option<f64>| Duration::try_from_secs_f64(seconds?).ok();
        Self {
            limits: Limits { limit: span(run.limit_s), stall: span(run.stall_s) },
            mem: run.mem.unwrap_or(0),
            changed: None,
            tries: 1,
            retries: run.retries,
        }
    }

    /// Returns the terms of another attempt after a failure, what is raised in them, and how long to rest before; none when
    /// there is to be none.
    pub(super) fn again(
        &self,
        failure: &Failure,
        machine: &Machine,
    ) -> Option<(Self, Raised, Duration)> {
        if self.retries == 0 || !may_pass(failure.kind) {
            return None;
        }
        let mut next = Self { tries: self.tries + 1, retries: self.retries - 1, ..self.clone() };
        let mut raised = Raised::default();
        match failure.kind {
            FailureKind::TimedOut => {
                next.limits.limit = self.limits.limit.map(|limit| limit.saturating_mul(2));
                raised.limit = next.limits.limit;
            }
            FailureKind::Killed if self.mem > 0 => {
                next.mem = self.mem.saturating_mul(2).min(machine.mem.unwrap_or(u64::MAX));
                raised.mem = Some(next.mem);
            }
            _ => {}
        }
        let rest = match failure.kind {
            FailureKind::Environment => (REST * 2u32.saturating_pow(self.tries - 1)).min(REST_MAX),
            _ => Duration::ZERO,
        };
        next.changed = Some(format!("attempt {}{raised}", next.tries));
        Some((next, raised, rest))
    }
}

/// Returns whether trying again may help.
fn may_pass(kind: FailureKind) -> bool {
    use FailureKind::{Crashed, Environment, Input, Internal, Killed, Stalled, TimedOut};
    match kind {
        Environment | Crashed | Killed | TimedOut | Stalled => true,
        Input | Internal => false,
    }
}

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(limit) = self.limit {
            write!(f, ", limit {}", text::duration(limit.as_secs_f64()))?;
        }
        match self.mem {
            Some(mem) => write!(f, ", mem {}", text::bytes(mem)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let (tlm, torch) = ("tlm".into(), "tlm-torch".into());
        Machine { cpus: 2, gpus: 0, mem: Some(10 << 30), tlm, torch }
    }

    /// Fails as often as it is tried; returns what each attempt but the first got more, and how long it rested.
    fn attempts(run: &RunSpec, kind: FailureKind) -> Vec<String> {
        let failure = Failure { kind, message: String::new(), help: None };
        let mut terms = Terms::of(run);
        let mut told = Vec::new();
        while let Some((next, _, rest)) = terms.again(&failure, &machine()) {
            told.push(format!("{}; {rest:?}", next.changed.clone().unwrap_or_default()));
            terms = next;
        }
        told
    }

    #[test]
    fn an_attempt_gets_more_of_what_was_lacking() {
        let run =
            RunSpec { retries: 2, limit_s: Some(90.0), mem: Some(4 << 30), ..RunSpec::default() };
        let check =
            |kind, expected: &[&str]| assert_eq!(attempts(&run, kind), expected, "{kind:?}");
        check(
            FailureKind::TimedOut,
            &["attempt 2, limit 3m00s; 0ns", "attempt 3, limit 6m00s; 0ns"],
        );
        check(
            FailureKind::Killed,
            &["attempt 2, mem 8.0 GiB; 0ns", "attempt 3, mem 10.0 GiB; 0ns"],
        );
        check(FailureKind::Environment, &["attempt 2; 1s", "attempt 3; 2s"]);
        check(FailureKind::Crashed, &["attempt 2; 0ns", "attempt 3; 0ns"]);
        check(FailureKind::Stalled, &["attempt 2; 0ns", "attempt 3; 0ns"]);
        check(FailureKind::Input, &[]);
        check(FailureKind::Internal, &[]);
    }
}
