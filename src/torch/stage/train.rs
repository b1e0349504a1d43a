//! `train.run`: next-token prediction with AdamW.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tch::Tensor;
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::adamw::{AdamW, Course, Hyper, Schedule};
use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::sequences::{Sequences, mix, shuffled};
use crate::stage::state::{self, Position};
use crate::stage::{load, micro_batch, open_data, tokenizer};

#[derive(Deserialize)]
struct Params {
    tokens: u64,
    batch: u64,
    lr: f64,
    lr_end: f64,
    warmup: f64,
    schedule: Schedule,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    clip: f64,
    dtype: String,
    seed: i64,
}

/// The longest that work may stay unsaved.
const UNSAVED: Duration = Duration::from_secs(60);

/// Trains, from the state folder's position if it has one.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "init", &params.dtype)?;
    let data = open_data(context, &model)?;
    let mut run = Run::new(context, &params, model, data)?;
    while run.position.step < run.course.steps {
        if context.interrupted() || run.save_is_due() {
            run.save(context)?;
        }
        if context.interrupted() || !run.step(context)? {
            run.save(context)?;
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
    log: File,
    log_path: PathBuf,
    seed: u64,
    /// Sequences in an optimiser step.
    batch: u64,
    micro: u64,
    saved: Instant,
    saved_step: u64,
    last_step: Duration,
}

impl Run {
    fn new(
        context: &mut Context,
        params: &Params,
        model: Llama,
        data: Sequences,
    ) -> Result<Self, StageError> {
        check(params, &data)?;
        let hyper = Hyper {
            beta1: params.beta1,
            beta2: params.beta2,
            eps: params.eps,
            weight_decay: params.weight_decay,
            clip: params.clip,
        };
        let mut optimiser = AdamW::new(&model.flat, model.layout.decayed, hyper).map_err(fault)?;
        let position = state::restore(context.state_dir(), &model, &mut optimiser)?;
        if let Some(position) = &position {
            context.log(format!("resumes after step {}", position.step));
        }
        let position = position.unwrap_or_default();
        let (log, log_path) = open_log(context, position.log_bytes)?;
        let steps = params.tokens.div_ceil(params.batch);
        let course = Course {
            peak: params.lr,
            end: params.lr_end,
            warmup: (params.warmup * steps as f64).round() as u64,
            steps,
            schedule: params.schedule,
        };
        Ok(Self {
            gradient: model.flat.f_zeros_like().map_err(fault)?,
            batch: params.batch / data.length,
            micro: micro_batch(context, &data, &model),
            seed: mix(u64::from_le_bytes(params.seed.to_le_bytes())),
            saved: Instant::now(),
            saved_step: position.step,
            last_step: Duration::ZERO,
            model,
            data,
            optimiser,
            course,
            position,
            log,
            log_path,
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
            "tokens_per_s": speed.round(),
        });
        self.write_log(&format!("{line}\n"))?;
        context.metric("loss", loss);
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
            let end = (done + self.micro).min(self.batch);
            let indices: Vec<u64> =
                (done..end).map(|at| shuffled(first + at, self.data.count, self.seed)).collect();
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
        Err(StageError::input(format!(
            "the {what} is {value} at step {} of {}",
            self.position.step + 1,
            self.course.steps
        ))
        .help("use a smaller `lr`, a longer `warmup` or a smaller `clip`"))
    }

    fn save_is_due(&self) -> bool {
        self.position.step > self.saved_step && self.saved.elapsed() + self.last_step > UNSAVED
    }

    fn save(&mut self, context: &mut Context) -> Result<(), StageError> {
        if self.position.step > self.saved_step {
            self.log.sync_data().map_err(|e| StageError::io("write", &self.log_path, &e))?;
            state::save(context.state_dir(), &self.model, &self.optimiser, &self.position)?;
            self.saved_step = self.position.step;
        }
        self.saved = Instant::now();
        context.checkpointed(self.position.step * self.batch * self.data.length);
        Ok(())
    }

    fn write_log(&mut self, line: &str) -> Result<(), StageError> {
        self.log
            .write_all(line.as_bytes())
            .map_err(|e| StageError::io("write", &self.log_path, &e))?;
        self.position.log_bytes += line.len() as u64;
        Ok(())
    }

    fn publish(self, context: &mut Context) -> Result<(), StageError> {
        let loss = match self.position.losses.as_slice() {
            [] => self.untrained_loss()?,
            last => last.iter().sum::<f64>() / last.len() as f64,
        };
        let out = context.out_dir("model")?;
        self.model.save(&out)?;
        tokenizer::copy(context.input("init"), &out)?;
        let log = context.out_dir("log")?.join("log.jsonl");
        fs::copy(&self.log_path, &log).map_err(|e| StageError::io("write", &log, &e))?;
        context.output("model.params", Value::Int(self.model.config.params()));
        context.output("loss", Value::Float(loss));
        Ok(())
    }

    /// Returns the loss on what would have been the first sequences.
    fn untrained_loss(&self) -> Result<f64, StageError> {
        let count = self.micro.min(self.data.count);
        let indices: Vec<u64> =
            (0..count).map(|at| shuffled(at, self.data.count, self.seed)).collect();
        let (inputs, targets) = self.data.batch(&indices, self.model.device())?;
        let nll = self.model.nll(&inputs, &targets).and_then(|nll| nll.f_mean(tch::Kind::Double));
        nll.and_then(|mean| mean.f_double_value(&[])).map_err(fault)
    }
}

fn check(params: &Params, data: &Sequences) -> Result<(), StageError> {
    if data.count == 0 {
        return Err(StageError::input("the dataset has no whole sequence")
            .help("give more text, or pack it with a smaller `seq`"));
    }
    if params.batch == 0 || !params.batch.is_multiple_of(data.length) {
        let nearest = (params.batch / data.length).max(1) * data.length;
        return Err(StageError::input(format!(
            "`batch` is {} tokens, not a multiple of the dataset's sequences of {} tokens",
            params.batch, data.length
        ))
        .help(format!("use `batch: {nearest} tokens`")));
    }
    Ok(())
}

/// Opens the run's log, cut to what the resume state knows.
fn open_log(context: &Context, bytes: u64) -> Result<(File, PathBuf), StageError> {
    let path = context.state_dir().join("log.jsonl");
    let io = |e| StageError::io("open", &path, &e);
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
    log.set_len(bytes).map_err(io)?;
    Ok((log, path))
}
