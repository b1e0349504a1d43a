//! SIGKILL at random moments: of the run, of its workers, of both. The same command goes on to the same artifacts, and no
//! process is left. `make test-kill` does so a thousand times.

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use tlm::base::{Digest, World, processes};
use tlm::store::{Output, Store};

use crate::run::space::{Run, Space, eventually, processes_of, start, wait};

/// Thirty steps: three of our own stages, and for each of nine points one that copies, one that saves how far it is, and one
/// that leaves a program running.
const RECIPE: &str = r#"use std.{corpus, tokenizer}

axis n : Count = [1, 2, 3, 4, 5, 6, 7, 8, 9]

stage twice(raw: Corpus; n: Count) -> File version 1 shell "cat {raw}/text.bin {raw}/text.bin > {out}; echo {n} >> {out}"

stage count(raw: File; to: Count) -> File version 1 shell """
  i=$(cat $TLM_STATE/i || echo 0)
  while [ $i -lt {to} ]; do
    i=$((i+1)); echo $i > $TLM_STATE/new; mv $TLM_STATE/new $TLM_STATE/i; sleep 0.01
  done
  seq $i | cat {raw} - > {out}"""

stage last(raw: File) -> File version 1 shell "setsid sleep 1000 & sort {raw} > {out}"

let text  = corpus.text("texts/*.txt", delimiter: "\n\n")
let split = corpus.split(text, valid: 25%, seed: 7)
let base  = tokenizer.open("tokenizer.json")
let a     = twice(split.train, n: n)
let b     = count(a, to: n)
let c     = last(b)

plan default = [c, base] vary n
"#;

/// The longest time that a run gets before the kill.
const LONGEST_MS: u64 = 300;
/// After so many kills a run is left alone, so that the test ends on a slow machine too.
const KILLS_PER_RUN: u32 = 60;

/// Returns a number of the environment.
fn setting(name: &str, default: u64) -> io::Result<u64> {
    let world = World::of_process()?;
    Ok(world.var(name).map_or(default, |text| text.parse().expect("a number")))
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}

/// Whom to kill.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Run,
    Workers,
    Both,
}

/// Returns what the store has, by recipe key.
fn records(space: &Space) -> BTreeMap<Digest, BTreeMap<String, Output>> {
    let store = Store::open(&space.path(".tlm")).expect("opens");
    let records = store.records();
    records.iter().map(|record| (record.recipe, record.outputs.clone())).collect()
}

fn workers_of(run: u32) -> impl Iterator<Item = u32> {
    processes::descendants(run).into_iter().filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.ends_with(b"tlm\0worker\0")
    })
}

fn kill(run: &Child, victim: Victim) {
    let mut ids: Vec<u32> = match victim {
        Victim::Run => Vec::new(),
        Victim::Workers | Victim::Both => workers_of(run.id()).collect(),
    };
    if !matches!(victim, Victim::Workers) {
        ids.push(run.id());
    }
    // What has ended meanwhile is no error, and neither is nobody.
    let ids = ids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg("-KILL").args(ids).output();
}

#[test]
#[ignore = "slow: a hundred kills take half a minute; `make test-slow`"]
fn a_run_killed_at_random_moments_ends_in_what_a_clean_one_makes() -> io::Result<()> {
    let (seed, wanted) = (setting("TLM_TEST_SEED", 1)?, setting("TLM_TEST_KILLS", 100)? as u32);
    let clean = Space::with(RECIPE);
    let run = clean.run(&[]);
    assert_eq!((run.code, run.steps("finished").len()), (Some(0), 30), "{run}");
    let expected = records(&clean);
    assert_eq!(expected.len(), 30);

    let mut random = Random(seed);
    let mut kills = 0;
    while kills < wanted {
        kills += kill_until_done(&mut random, wanted - kills, seed, &expected);
    }
    Ok(())
}

/// Runs a recipe in a new folder, and kills it until it is done or has been killed often enough; returns how often.
fn kill_until_done(
    random: &mut Random,
    wanted: u32,
    seed: u64,
    expected: &BTreeMap<Digest, BTreeMap<String, Output>>,
) -> u32 {
    let space = Space::with(RECIPE);
    let mut kills = 0;
    while kills < wanted.min(KILLS_PER_RUN) {
        let victim = [Victim::Run, Victim::Workers, Victim::Both][random.below(3) as usize];
        let moment = Duration::from_millis(random.below(LONGEST_MS));
        let what = format!("seed {seed}: {victim:?} after {moment:?}, kill {kills} of this run");
        let mut child = start(&mut space.run_command(&[]));
        thread::sleep(moment);
        if child.try_wait().expect("it can be waited for").is_some() {
            break;
        }
        kill(&child, victim);
        kills += 1;
        if matches!(victim, Victim::Workers) {
            // It fails their steps and goes on, but not for long.
            thread::sleep(Duration::from_millis(random.below(LONGEST_MS / 3)));
            kill(&child, Victim::Run);
            kills += 1;
        }
        drop(child.stdout.take());
        let ended = wait(child);
        assert!(!ended.err.contains("bug"), "{what}: {ended:?}");
        // The next run may begin while what is left of this one ends.
        if random.below(2) == 0 {
            eventually(&format!("the end of all, {what}"), || {
                processes_of(&space.path("")).is_empty().then_some(())
            });
        }
    }
    let run = Run::of(wait(start(&mut space.run_command(&[]))));
    assert_eq!(run.code, Some(0), "seed {seed}, {kills} kills: {run}");
    assert_eq!(&records(&space), expected, "seed {seed}, {kills} kills");
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
    space.run(&[]).check(0, &[]);
    space.check_store();
    assert!(space.stored("state").is_empty(), "seed {seed}, {kills} kills");
    kills
}
