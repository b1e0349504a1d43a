//! `train.run`: next-token prediction with AdamW.

use std::fs;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tch::Tensor;
use tlm::base::Value;
use tlm::data::order::Order;
use tlm::data::tokenizer::files::copy_tokenizer;
use tlm::data::train_log::write_events;
use tlm::stage::{Context, StageError};

use crate::nn::adamw::{AdamW, Course, Hyper, Schedule};
use crate::nn::backward::{Losses, Sums, Teacher};
use crate::nn::llama::Llama;
use crate::nn::masks::Learner;
use crate::nn::runtime::{all_finite, fault};
use crate::nn::sequences::Sequences;
use crate::nn::weights::Safetensors;
use crate::stage::journal::Journal;
use crate::stage::losses::each_loss;
use crate::stage::spikes::{OnSpike, WINDOW, is_spike};
use crate::stage::state::{Origin, tell_unusable};
use crate::stage::train_state::{self, Position, Tensors};
use crate::stage::validation::{self, Validation};
use crate::stage::{Attention, UNSAVED, check_not_empty, load, micro_batch, open_data};

#[derive(Deserialize)]
pub(super) struct Params {
    pub(super) tokens: u64,
    pub(super) batch: u64,
    pub(super) lr: f64,
    pub(super) lr_end: f64,
    pub(super) warmup: f64,
    pub(super) schedule: Schedule,
    pub(super) decay: f64,
    pub(super) weight_decay: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) clip: f64,
    pub(super) dtype: String,
    pub(super) seed: i64,
    pub(super) attention: Attention,
    pub(super) on_spike: OnSpike,
    pub(super) validations: u64,
    pub(super) distill: f64,
    pub(super) temperature: f64,
}

/// What `train.keep` does besides.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Keeping {
    /// Models to keep; none are by `train.run`.
    pub(super) snapshots: u64,
    /// Parts of the data to see one after the other.
    pub(super) parts: u64,
}

impl Keeping {
    /// What `train.run` keeps.
    pub(super) const NOTHING: Self = Self { snapshots: 0, parts: 1 };
}

/// Runs `train.run`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params = context.params()?;
    train(context, &params, Keeping::NOTHING)
}

/// Trains, from the state folder's position if it has one.
pub(super) fn train(
    context: &mut Context,
    params: &Params,
    keeping: Keeping,
) -> Result<(), StageError> {
    let model = load(context, "init", &params.dtype)?;
    let mut run = Run::new(context, params, keeping, model, None)?;
    run.go(context)?;
    run.publish(context)
}

/// Masks that are learned along with the model.
pub(super) struct Learning {
    pub(super) learner: Learner,
    /// Their peak learning rate.
    pub(super) lr: f64,
    /// The part of the steps over which the shape shrinks.
    pub(super) shrinking: f64,
}

/// A training run at some step.
pub(super) struct Run {
    pub(super) model: Llama,
    pub(super) learning: Option<Learning>,
    teacher: Option<Teacher>,
    validation: Option<Validation>,
    on_spike: OnSpike,
    data: Sequences,
    optimiser: AdamW,
    gradient: Tensor,
    pub(super) course: Course,
    pub(super) position: Position,
    log: Journal,
    order: Order,
    /// Models to keep.
    pub(super) snapshots: u64,
    /// Sequences in an optimiser step.
    batch: u64,
    saved: Instant,
    /// Steps and validations that were done when it was saved.
    saved_at: (u64, u64),
    last_step: Duration,
}

impl Run {
    pub(super) fn new(
        context: &mut Context,
        params: &Params,
        keeping: Keeping,
        model: Llama,
        learning: Option<Learning>,
    ) -> Result<Self, StageError> {
        check_hyper(params)?;
        let data = open_data(context, &model, params.attention)?;
        let Keeping { snapshots, parts } = keeping;
        check(params, keeping, &data)?;
        let hyper = Hyper {
            beta1: params.beta1,
            beta2: params.beta2,
            eps: params.eps,
            weight_decay: params.weight_decay,
            clip: params.clip,
        };
        let mut optimiser = AdamW::new(&model.flat, model.layout.decayed, hyper)?;
        let earlier = carry_on(context, &model, &mut optimiser)?;
        let micro = micro_batch(context, &data, &model);
        let held = held(&model, &optimiser, learning.as_ref());
        let (position, log) = resume(context, &held, micro)?;
        optimiser.steps = earlier + position.updates;
        let steps = params.tokens.div_ceil(params.batch);
        let validation =
            Validation::of(context, &model, params.attention, params.validations, steps)?;
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
            saved_at: (position.step, position.validations),
            last_step: Duration::ZERO,
            teacher: teacher(context, params, &model, data.length)?,
            validation,
            on_spike: params.on_spike,
            model,
            learning,
            data,
            optimiser,
            course,
            position,
            log,
        })
    }

    /// Trains to the end.
    pub(super) fn go(&mut self, context: &mut Context) -> Result<(), StageError> {
        while self.position.step < self.course.steps || self.validation_is_due() {
            let stopped = context.interrupted() || !self.advance(context)?;
            self.keep_if_due(context)?;
            if stopped || self.save_is_due() {
                self.save(context)?;
            }
            if stopped {
                return Err(StageError::Interrupted);
            }
        }
        if all_finite(&self.model.flat).map_err(fault)? {
            return Ok(());
        }
        let steps = self.position.step;
        Err(self.diverged(&format!("the weights are not finite after {steps} steps")))
    }

    /// Returns tokens in an optimiser step.
    pub(super) fn step_tokens(&self) -> u64 {
        self.batch * self.data.length
    }

    fn validation_is_due(&self) -> bool {
        let Position { validations, step, .. } = self.position;
        self.validation.as_ref().is_some_and(|validation| validation.is_due(validations, step))
    }

    /// Does one step or validation; returns false if it was interrupted, with nothing changed.
    fn advance(&mut self, context: &mut Context) -> Result<bool, StageError> {
        match self.validation_is_due() {
            true => self.validate(context),
            false => self.step(context),
        }
    }

    fn validate(&mut self, context: &mut Context) -> Result<bool, StageError> {
        // It may take long, and an interruption begins it anew.
        self.save(context)?;
        let Some(validation) = &self.validation else { return Ok(true) };
        let tokens = self.position.origin.micro_batch * self.data.length;
        let Some(loss) = validation.loss(context, &self.model, tokens)? else {
            return Ok(false);
        };
        self.check_finite("loss on `valid`", loss)?;
        let tokens = self.position.step * self.step_tokens();
        self.log.append(validation::line(self.position.step, tokens, loss).as_bytes())?;
        context.metric("valid_loss", loss);
        self.position.validations += 1;
        Ok(true)
    }

    /// Does one step; returns false if it was interrupted, with nothing changed.
    fn step(&mut self, context: &mut Context) -> Result<bool, StageError> {
        let start = Instant::now();
        let step = self.position.step;
        if let Some(Learning { learner, .. }) = &mut self.learning {
            learner.draw(&self.model, step).map_err(fault)?;
        }
        let Some(Losses { nll, divergence }) = self.accumulate(context)? else {
            return Ok(false);
        };
        let tokens = self.step_tokens();
        let loss = nll / tokens as f64;
        self.check_finite("loss", loss)?;
        let lr = self.course.at(step);
        self.learn(step)?;
        let norm = self.optimiser.norm(&self.gradient).map_err(fault)?;
        self.check_finite("gradient norm", norm)?;
        let skipped = self.is_skipped(loss, norm)?;
        if !skipped {
            let (flat, gradient) = (&self.model.flat, &self.gradient);
            self.optimiser.step(flat, gradient, norm, lr).map_err(fault)?;
            self.position.updates += 1;
        }
        self.position.step += 1;
        self.remember(loss, norm);
        self.last_step = start.elapsed();
        let speed = tokens as f64 / self.last_step.as_secs_f64();
        let done = self.position.step * tokens;
        let mut line = json!({
            "step": self.position.step,
            "tokens": done,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
        });
        if skipped {
            line["skipped"] = json!(1);
        }
        if self.teacher.is_some() {
            line["distill_loss"] = json!(divergence / tokens as f64);
        }
        if let Some(Learning { learner, .. }) = &self.learning {
            for (unit, size) in learner.masks().sizes().map_err(fault)? {
                line[unit.name()] = json!(size);
                context.metric(unit.name(), size);
            }
        }
        self.log.append(format!("{line}\n").as_bytes())?;
        context.metric("loss", loss);
        context.metric("tokens_per_s", speed.round());
        context.progress(done, Some(self.course.steps * tokens), "tokens");
        Ok(true)
    }

    /// Returns whether a step's update is left out.
    fn is_skipped(&self, loss: f64, norm: f64) -> Result<bool, StageError> {
        let Position { losses, norms, step, .. } = &self.position;
        if self.on_spike == OnSpike::Ignore || !(is_spike(losses, loss) || is_spike(norms, norm)) {
            return Ok(false);
        }
        match self.on_spike {
            OnSpike::Stop => Err(self.diverged(&format!(
                "the loss {loss:.3} or the gradient norm {norm:.3} of step {} is far above those before",
                step + 1
            ))),
            OnSpike::Skip | OnSpike::Ignore => Ok(true),
        }
    }

    /// Keeps a step's numbers as long as they are needed.
    fn remember(&mut self, loss: f64, norm: f64) {
        let keep = self.window().max(WINDOW);
        for (last, value) in [(&mut self.position.losses, loss), (&mut self.position.norms, norm)] {
            last.push(value);
            let surplus = last.len().saturating_sub(keep);
            last.drain(..surplus);
        }
    }

    /// Returns how many of the last steps `loss` is the mean of.
    fn window(&self) -> usize {
        (self.course.steps / 20).max(1) as usize
    }

    /// Lets masks learn from the gradient, which becomes that by the weights.
    fn learn(&mut self, step: u64) -> Result<(), StageError> {
        let Some(Learning { learner, lr, shrinking }) = &mut self.learning else { return Ok(()) };
        let shrinking = (self.course.steps as f64 * *shrinking).max(1.0);
        let shrunk = ((step + 1) as f64 / shrinking).min(1.0);
        let lr = *lr * self.course.at(step) / self.course.peak;
        learner.learn(&self.model, &self.gradient, shrunk, lr).map_err(fault)
    }

    /// Fills the gradient of the mean loss over one batch and returns the summed losses; none when interrupted.
    fn accumulate(&mut self, context: &Context) -> Result<Option<Losses>, StageError> {
        let _ = self.gradient.f_zero_().map_err(fault)?;
        let first = self.position.step * self.batch;
        let scale = 1.0 / (self.batch * self.data.length) as f64;
        let masked = self.learning.as_ref().map(|learning| learning.learner.masked());
        let model = masked.unwrap_or(&self.model);
        let mut sums = Sums::zero(model.device()).map_err(fault)?;
        let mut done = 0;
        while done < self.batch {
            if context.interrupted() {
                return Ok(None);
            }
            let end = (done + self.position.origin.micro_batch).min(self.batch);
            let indices: Vec<u64> = (done..end).map(|at| self.order.at(first + at)).collect();
            let rows = self.data.batch(&indices, model.device())?;
            let teacher = self.teacher.as_ref();
            model
                .backward(&rows, scale, &mut self.gradient, teacher)
                .and_then(|more| sums.merge(&more))
                .map_err(fault)?;
            done = end;
        }
        sums.read().map(Some).map_err(fault)
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
        self.is_unsaved() && self.saved.elapsed() + self.last_step > UNSAVED
    }

    fn is_unsaved(&self) -> bool {
        (self.position.step, self.position.validations) != self.saved_at
    }

    fn save(&mut self, context: &mut Context) -> Result<(), StageError> {
        if self.is_unsaved() {
            let log = self.log.mark()?;
            let folder = context.state_dir();
            let held = held(&self.model, &self.optimiser, self.learning.as_ref());
            train_state::save(folder, &held, &self.position, log)?;
            self.saved_at = (self.position.step, self.position.validations);
        }
        self.saved = Instant::now();
        context.checkpointed(self.position.step * self.batch * self.data.length);
        Ok(())
    }

    fn publish(self, context: &mut Context) -> Result<(), StageError> {
        if self.snapshots > 0 {
            self.publish_kept(context)?;
        }
        let out = context.out_dir("model")?;
        self.model.save(&out)?;
        copy_tokenizer(context.input("init"), &out)?;
        context.output("model.params", Value::Int(self.model.config.params()))?;
        self.publish_log(context)
    }

    /// Publishes what the optimiser remembers: `mean.NAME` and `square.NAME` of each tensor of the checkpoint.
    pub(super) fn publish_optimiser(&self, context: &Context) -> Result<(), StageError> {
        let AdamW { mean, square, steps, .. } = &self.optimiser;
        let path = context.out_dir("optimiser")?.join(OPTIMISER);
        let buffers = [("mean", mean), ("square", square)];
        self.model.save_buffers(&path, &buffers, ("updates", &steps.to_string()))
    }

    /// Publishes the log and the loss.
    pub(super) fn publish_log(self, context: &mut Context) -> Result<(), StageError> {
        let losses = &self.position.losses;
        let loss = match &losses[losses.len().saturating_sub(self.window())..] {
            [] => self.untrained_loss()?,
            last => last.iter().sum::<f64>() / last.len() as f64,
        };
        let folder = context.out_dir("log")?;
        let log = folder.join("log.jsonl");
        fs::copy(self.log.finish()?, &log).map_err(|e| StageError::io("write", &log, &e))?;
        write_events(&folder)?;
        context.output("loss", Value::Float(loss))
    }

    /// Returns the mean loss on what would have been the first batch; zero where there is no data.
    fn untrained_loss(&self) -> Result<f64, StageError> {
        let count = self.batch.min(self.data.count);
        let mut nll = 0.0;
        // One at a time, so that the bits don't depend on how many fit at once.
        for at in 0..count {
            nll += each_loss(&self.model, &self.data, &[self.order.at(at)])?[0];
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

/// Returns the model of the optional input `teacher`, which has to have the same vocabulary.
fn teacher(
    context: &Context,
    params: &Params,
    model: &Llama,
    length: u64,
) -> Result<Option<Teacher>, StageError> {
    if context.optional("teacher").is_none() {
        return Ok(None);
    }
    let Params { distill: weight, temperature, .. } = *params;
    if temperature <= 0.0 {
        return Err(StageError::input(format!("`temperature` is {temperature}, not above zero"))
            .help("give `temperature` a number above zero; 1 leaves predictions as they are"));
    }
    let taught = load(context, "teacher", &params.dtype)?;
    let limit = taught.config.context;
    if length > limit as u64 {
        return Err(StageError::input(format!(
            "the dataset's sequences have {length} tokens, but the teacher's context is {limit}"
        ))
        .help(format!("pack the dataset with a `seq` of at most {limit}")));
    }
    let [own, other] = [model, &taught].map(|model| model.config.vocab);
    if own != other {
        let message = format!("the teacher's vocabulary has {other} tokens, the model's {own}");
        return Err(StageError::input(message).help("use a teacher with the model's own tokenizer"));
    }
    let model = taught.frozen().map_err(fault)?;
    Ok(Some(Teacher { model, weight, temperature }))
}

/// The file of an `Optimiser`.
const OPTIMISER: &str = "optimiser.safetensors";

/// Takes over what the optional input `optimiser` remembers, and returns the updates that it has seen.
fn carry_on(context: &Context, model: &Llama, optimiser: &mut AdamW) -> Result<u64, StageError> {
    let Some(folder) = context.optional("optimiser") else { return Ok(0) };
    let path = folder.join(OPTIMISER);
    let file = Safetensors::open_file(&path)?;
    let updates = file.metadata("updates").and_then(|updates| updates.parse().ok());
    let updates = updates.ok_or_else(|| {
        StageError::input(format!(
            "`{}` doesn't say after how many `updates` it is",
            path.display()
        ))
        .help("give what `train.keep` made")
    })?;
    for (name, buffer) in [("mean", &optimiser.mean), ("square", &optimiser.square)] {
        model.load_buffer(buffer, name, &file)?;
    }
    Ok(updates)
}

/// Returns what a saved state holds.
fn held(model: &Llama, optimiser: &AdamW, learning: Option<&Learning>) -> Tensors {
    let same = Tensor::shallow_clone;
    let mut held = vec![
        ("mean", same(&optimiser.mean)),
        ("param", same(&model.flat)),
        ("square", same(&optimiser.square)),
    ];
    if let Some(Learning { learner, .. }) = learning {
        held.push(("mask_mean", same(&learner.moments.mean)));
        held.push(("mask_param", same(learner.odds())));
        held.push(("mask_square", same(&learner.moments.square)));
    }
    held
}

/// Returns where the run stands, and its log there; puts a saved state into what it holds.
fn resume(
    context: &mut Context,
    held: &Tensors,
    micro_batch: u64,
) -> Result<(Position, Journal), StageError> {
    match train_state::find(context, held) {
        Ok(Some(mut saved)) => {
            saved.restore(held)?;
            context.log(format!("resumes after step {}", saved.position.step));
            saved.position.origin.go_on(context);
            return Ok((saved.position, saved.log));
        }
        Ok(None) => {}
        Err(why) => tell_unusable(context, &why),
    }
    let log = Journal::create(context.state_dir().join("log.jsonl"))?;
    let origin = Origin::new(context, micro_batch);
    let (losses, norms, kept) = (Vec::new(), Vec::new(), Vec::new());
    Ok((Position { origin, step: 0, updates: 0, validations: 0, losses, norms, kept }, log))
}
