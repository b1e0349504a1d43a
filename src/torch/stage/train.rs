//! `train.run`: next-token prediction with AdamW.

use std::fs;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tch::Tensor;
use tlm::base::{Digest, Value};
use tlm::data::order::Order;
use tlm::data::snapshots::Snapshots;
use tlm::data::tokenizer::files::copy_tokenizer;
use tlm::stage::{Context, StageError};

use crate::nn::adamw::{AdamW, Course, Hyper, Schedule};
use crate::nn::llama::Llama;
use crate::nn::runtime::{all_finite, fault};
use crate::nn::sequences::Sequences;
use crate::stage::journal::Journal;
use crate::stage::state::{Origin, tell_unusable};
use crate::stage::train_state::{self, Position, kept_file};
use crate::stage::{UNSAVED, check_not_empty, load, micro_batch, open_data};

#[derive(Deserialize)]
pub(super) struct Params {
    tokens: u64,
    batch: u64,
    lr: f64,
    lr_end: f64,
    warmup: f64,
    schedule: Schedule,
    decay: f64,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    clip: f64,
    dtype: String,
    seed: i64,
}

/// What `train.keep` does besides.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Keeping {
    /// Models to keep; none are by `train.run`.
    pub(super) snapshots: u64,
    /// Parts of the data to see one after the other.
    pub(super) parts: u64,
}

/// Runs `train.run`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params = context.params()?;
    train(context, &params, Keeping { snapshots: 0, parts: 1 })
}

/// Trains, from the state folder's position if it has one.
pub(super) fn train(
    context: &mut Context,
    params: &Params,
    keeping: Keeping,
) -> Result<(), StageError> {
    check_hyper(params)?;
    let model = load(context, "init", &params.dtype)?;
    let data = open_data(context, &model)?;
    let mut run = Run::new(context, params, keeping, model, data)?;
    while run.position.step < run.course.steps {
        let stopped = context.interrupted() || !run.step(context)?;
        run.keep_if_due(context)?;
        if stopped || run.save_is_due() {
            run.save(context)?;
        }
        if stopped {
            return Err(StageError::Interrupted);
        }
    }
    run.publish(context)
}

/// A training run at some step.
struct Run {
    model: Llama,
    data: Sequences,
    optimiser: AdamW,
    gradient: Tensor,
    course: Course,
    position: Position,
    log: Journal,
    order: Order,
    /// Models to keep.
    snapshots: u64,
    /// Sequences in an optimiser step.
    batch: u64,
    saved: Instant,
    saved_step: u64,
    last_step: Duration,
}

impl Run {
    fn new(
        context: &mut Context,
        params: &Params,
        keeping: Keeping,
        model: Llama,
        data: Sequences,
    ) -> Result<Self, StageError> {
        let Keeping { snapshots, parts } = keeping;
        check(params, keeping, &data)?;
        let hyper = Hyper {
            beta1: params.beta1,
            beta2: params.beta2,
            eps: params.eps,
            weight_decay: params.weight_decay,
            clip: params.clip,
        };
        let mut optimiser = AdamW::new(&model.flat, model.layout.decayed, hyper).map_err(fault)?;
        let micro = micro_batch(context, &data, &model);
        let (position, log) = resume(context, &model, &mut optimiser, micro)?;
        let steps = params.tokens.div_ceil(params.batch);
        let course = Course {
            peak: params.lr,
            end: params.lr_end,
            warmup: (params.warmup * steps as f64).round() as u64,
            steps,
            schedule: params.schedule,
            decay: (params.decay * steps as f64).round() as u64,
        };
        let batch = params.batch / data.length;
        Ok(Self {
            gradient: model.flat.f_zeros_like().map_err(fault)?,
            order: Order::new(data.count, params.seed, parts, steps * batch),
            batch,
            snapshots,
            saved: Instant::now(),
            saved_step: position.step,
            last_step: Duration::ZERO,
            model,
            data,
            optimiser,
            course,
            position,
            log,
        })
    }

    /// Does one step; returns false if it was interrupted, with nothing changed.
    fn step(&mut self, context: &mut Context) -> Result<bool, StageError> {
        let start = Instant::now();
        let step = self.position.step;
        let Some(nll) = self.accumulate(context)? else {
            return Ok(false);
        };
        let tokens = self.batch * self.data.length;
        let loss = nll / tokens as f64;
        self.check_finite("loss", loss)?;
        let lr = self.course.at(step);
        let norm = self.optimiser.step(&self.model.flat, &self.gradient, lr).map_err(fault)?;
        self.check_finite("gradient norm", norm)?;
        self.position.step += 1;
        self.position.losses.push(loss);
        let keep = (self.course.steps / 20).max(1) as usize;
        let surplus = self.position.losses.len().saturating_sub(keep);
        self.position.losses.drain(..surplus);
        self.last_step = start.elapsed();
        let speed = tokens as f64 / self.last_step.as_secs_f64();
        let done = self.position.step * tokens;
        let line = json!({
            "step": self.position.step,
            "tokens": done,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
        });
        self.log.append(format!("{line}\n").as_bytes())?;
        context.metric("loss", loss);
        context.metric("tokens_per_s", speed.round());
        context.progress(done, Some(self.course.steps * tokens), "tokens");
        Ok(true)
    }

    /// Fills the gradient of the mean loss over one batch and returns the summed loss; none when interrupted.
    fn accumulate(&mut self, context: &Context) -> Result<Option<f64>, StageError> {
        let _ = self.gradient.f_zero_().map_err(fault)?;
        let first = self.position.step * self.batch;
        let scale = 1.0 / (self.batch * self.data.length) as f64;
        let mut nll = 0.0;
        let mut done = 0;
        while done < self.batch {
            if context.interrupted() {
                return Ok(None);
            }
            let end = (done + self.position.origin.micro_batch).min(self.batch);
            let indices: Vec<u64> = (done..end).map(|at| self.order.at(first + at)).collect();
            let (inputs, targets) = self.data.batch(&indices, self.model.device())?;
            nll += self.model.backward(&inputs, &targets, scale, &self.gradient).map_err(fault)?;
            done = end;
        }
        Ok(Some(nll))
    }

    fn check_finite(&self, what: &str, value: f64) -> Result<(), StageError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(self.diverged(&format!(
            "the {what} is {value} at step {} of {}",
            self.position.step + 1,
            self.course.steps
        )))
    }

    fn diverged(&self, what: &str) -> StageError {
        StageError::input(what).help(if self.optimiser.clips() {
            "use a smaller `lr`, a longer `warmup` or a smaller `clip`"
        } else {
            "use a smaller `lr` or a longer `warmup`, or a `clip` above zero"
        })
    }

    fn save_is_due(&self) -> bool {
        self.position.step > self.saved_step && self.saved.elapsed() + self.last_step > UNSAVED
    }

    fn save(&mut self, context: &mut Context) -> Result<(), StageError> {
        if self.position.step > self.saved_step {
            let log = self.log.mark()?;
            let folder = context.state_dir();
            train_state::save(folder, &self.model, &self.optimiser, &self.position, log)?;
            self.saved_step = self.position.step;
        }
        self.saved = Instant::now();
        context.checkpointed(self.position.step * self.batch * self.data.length);
        Ok(())
    }

    /// Keeps the model, if another part of the training is over, in the state folder until the end.
    fn keep_if_due(&mut self, context: &Context) -> Result<(), StageError> {
        let number = self.position.kept.len() as u64 + 1;
        if number > self.snapshots || self.position.step < self.snapshot_step(number) {
            return Ok(());
        }
        let path = kept_file(context.state_dir(), number);
        self.model.save_weights(&path)?;
        let digest = Digest::of_file(&path).map_err(|e| StageError::io("read", &path, &e))?;
        self.position.kept.push(digest);
        Ok(())
    }

    /// Returns after which step a model is kept, counted from 1.
    fn snapshot_step(&self, number: u64) -> u64 {
        (self.course.steps * number).div_ceil(self.snapshots)
    }

    fn publish_kept(&self, context: &Context) -> Result<(), StageError> {
        let out = context.out_dir("snapshots")?;
        let numbers = 1..=self.snapshots;
        for number in numbers.clone() {
            let folder = Snapshots::folder(&out, number);
            fs::create_dir(&folder).map_err(|e| StageError::io("create", &folder, &e))?;
            self.model.config.write(&folder)?;
            copy_tokenizer(context.input("init"), &folder)?;
            let (kept, to) =
                (kept_file(context.state_dir(), number), folder.join("model.safetensors"));
            // The state stays whole until the step is done.
            fs::hard_link(&kept, &to)
                .or_else(|_| fs::copy(&kept, &to).map(|_| ()))
                .map_err(|e| StageError::io("write", &to, &e))?;
        }
        let size = self.batch * self.data.length;
        let tokens = numbers.map(|number| self.snapshot_step(number) * size).collect();
        Ok(Snapshots { tokens, params: self.model.config.params() }.write(&out)?)
    }

    fn publish(self, context: &mut Context) -> Result<(), StageError> {
        if !all_finite(&self.model.flat).map_err(fault)? {
            let steps = self.position.step;
            return Err(self.diverged(&format!("the weights are not finite after {steps} steps")));
        }
        let loss = match self.position.losses.as_slice() {
            [] => self.untrained_loss()?,
            last => last.iter().sum::<f64>() / last.len() as f64,
        };
        if self.snapshots > 0 {
            self.publish_kept(context)?;
        }
        let out = context.out_dir("model")?;
        self.model.save(&out)?;
        copy_tokenizer(context.input("init"), &out)?;
        let log = context.out_dir("log")?.join("log.jsonl");
        fs::copy(self.log.finish()?, &log).map_err(|e| StageError::io("write", &log, &e))?;
        context.output("model.params", Value::Int(self.model.config.params()))?;
        context.output("loss", Value::Float(loss))
    }

    /// Returns the mean loss on what would have been the first batch; zero where there is no data.
    fn untrained_loss(&self) -> Result<f64, StageError> {
        let count = self.batch.min(self.data.count);
        let mut nll = 0.0;
        // One at a time, so that the bits don't depend on how many fit at once.
        for at in 0..count {
            let (inputs, targets) = self.data.batch(&[self.order.at(at)], self.model.device())?;
            nll += self
                .model
                .nll(&inputs, &targets)
                .and_then(|nll| nll.f_sum(tch::Kind::Double)?.f_double_value(&[]))
                .map_err(fault)?;
        }
        Ok(nll / (count * self.data.length).max(1) as f64)
    }
}

fn check(params: &Params, keeping: Keeping, data: &Sequences) -> Result<(), StageError> {
    // Nothing is read for zero tokens, so an empty selection is no hindrance.
    if params.tokens > 0 {
        check_not_empty(data)?;
    }
    if params.batch == 0 || !params.batch.is_multiple_of(data.length) {
        let nearest = (params.batch / data.length).max(1) * data.length;
        return Err(StageError::input(format!(
            "`batch` is {} tokens, not a multiple of the dataset's sequences of {} tokens",
            params.batch, data.length
        ))
        .help(format!("use `batch: {nearest} tokens`")));
    }
    let steps = params.tokens.div_ceil(params.batch);
    if keeping.snapshots > steps {
        let message = format!("`snapshots` is {}, but there are {steps} steps", keeping.snapshots);
        return Err(StageError::input(message).help("keep fewer models, or train more tokens"));
    }
    if keeping.parts > 1 && keeping.parts > data.count {
        let message =
            format!("`parts` is {}, but there are {} sequences", keeping.parts, data.count);
        return Err(StageError::input(message).help("make fewer parts"));
    }
    Ok(())
}

/// Checks what the declaration's ranges, which include both ends, can't say.
fn check_hyper(params: &Params) -> Result<(), StageError> {
    for (name, beta) in [("beta1", params.beta1), ("beta2", params.beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return Err(StageError::input(format!("`{name}` is {beta}, not below 1"))
                .help(format!("give `{name}` a number from 0 to below 1, such as 0.95")));
        }
    }
    if params.eps.is_finite() && params.eps > 0.0 {
        return Ok(());
    }
    Err(StageError::input(format!("`eps` is {}, not above zero", params.eps))
        .help("give `eps` a small number, such as 1e-8"))
}

/// Returns where the run stands, and its log there; puts a saved state into model and optimiser.
fn resume(
    context: &mut Context,
    model: &Llama,
    optimiser: &mut AdamW,
    micro_batch: u64,
) -> Result<(Position, Journal), StageError> {
    match train_state::find(context, model) {
        Ok(Some(mut saved)) => {
            saved.restore(model, optimiser)?;
            context.log(format!("resumes after step {}", saved.position.step));
            saved.position.origin.go_on(context);
            return Ok((saved.position, saved.log));
        }
        Ok(None) => {}
        Err(why) => tell_unusable(context, &why),
    }
    let log = Journal::create(context.state_dir().join("log.jsonl"))?;
    let origin = Origin::new(context, micro_batch);
    Ok((Position { origin, step: 0, losses: Vec::new(), kept: Vec::new() }, log))
}
