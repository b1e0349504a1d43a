//! What goes together: artifacts that remember what they were made with, and calls that combine them.
//!
//! Token ids mean something under one tokenizer, which artifacts carry along ([`Val::Artifact`]). Longest sequences and scored
//! datasets are found by going back through the steps.

use crate::base::{Span, Value};
use crate::diag::Diagnostic;
use crate::sema::eval::Eval;
use crate::sema::make::Slots;
use crate::sema::node::{Call, Slot};
use crate::sema::steps::{Arg, Input, OutputRef, Step};
use crate::sema::ty::Ty;

/// Where a stage has a property of its result from.
enum From {
    /// A parameter.
    Param(&'static str),
    /// A field of a record.
    Field(&'static str, &'static str),
    /// An input with that property.
    Input(&'static str),
}

type Origins = &'static [(&'static str, From)];

/// The length of a dataset's sequences.
const SEQ: Origins = &[
    ("dataset.internevo", From::Param("seq")),
    ("dataset.pack", From::Param("seq")),
    ("dataset.part", From::Input("data")),
    ("dataset.remap", From::Input("data")),
    ("rounds.resample", From::Input("data")),
];

/// The input that says in which ids the result is, where other inputs are in other ones.
const INTO: [(&str, &str); 1] = [("dataset.remap", "to")];

/// The longest sequence that a model reads.
const CONTEXT: Origins = &[
    ("model.init", From::Field("shape", "context")),
    ("train.run", From::Input("init")),
    ("train.keep", From::Input("init")),
];

/// A property of an artifact, and where it is written.
struct Known {
    value: i64,
    span: Span,
}

impl<'p> Eval<'p> {
    /// Returns the tokenizer that the outputs' token ids mean something under: the one given, or the one that all inputs agree on.
    pub(super) fn tokenizer(
        &mut self,
        call: &'p Call,
        slots: &Slots,
        tokenizers: &[Option<OutputRef>],
        span: Span,
    ) -> Option<Option<OutputRef>> {
        let declared = &call.stage.signature.inputs;
        let given = declared.iter().any(|slot| takes(slot, "Tokenizer"));
        let into = INTO.iter().find(|(stage, _)| *stage == call.stage.decl.name);
        let mut first: Option<(&OutputRef, Span)> = None;
        let mut result = None;
        for (at, tokenizer) in slots.iter().zip(tokenizers) {
            let (slot, arg) = (&declared[*at], &call.inputs[*at]);
            if into.is_some_and(|(_, name)| slot.name == **name) {
                result.clone_from(tokenizer);
                continue;
            }
            // A donor goes with any tokenizer: its embeddings are gathered anew.
            let free = given && takes(slot, "Checkpoint");
            let Some(own) = tokenizer.as_ref().filter(|_| !free) else { continue };
            match first {
                None => first = Some((own, arg.node().span)),
                Some((other, _)) if other == own => {}
                Some((other, other_span)) => {
                    let (made, made_too) = (self.describe(own), self.describe(other));
                    let message =
                        format!("`{}` gets token ids of two tokenizers", call.stage.decl.name);
                    self.found.push(
                        Diagnostic::error("tlm::eval::tokenizer_mismatch", message)
                            .label(arg.node().span, format!("made with `{made}`"))
                            .label(other_span, format!("made with `{made_too}`"))
                            .label(self.maker(own).span(), format!("`{made}` is made here"))
                            .label(self.maker(other).span(), format!("`{made_too}` is made here"))
                            .label(span, "in this call")
                            .help(match takes(slot, "Checkpoint") {
                                true => "give the models one tokenizer: `model.inherit(teacher, tokenizer, shape: {})`",
                                false => "pack the data with the model's own tokenizer",
                            }),
                    );
                    return None;
                }
            }
        }
        Some(result.or_else(|| first.map(|(tokenizer, _)| tokenizer.clone())))
    }

    /// Checks that the model reads sequences of the dataset's length, and that losses are those of the dataset.
    pub(super) fn fits_together(
        &mut self,
        call: &'p Call,
        slots: &Slots,
        inputs: &[Input],
        span: Span,
    ) -> Option<()> {
        let all = |wanted: &'static str| {
            slots.iter().zip(inputs).filter_map(move |(at, input)| match input {
                Input::Output(output) if takes(&call.stage.signature.inputs[*at], wanted) => {
                    Some((output, call.inputs[*at].node().span))
                }
                _ => None,
            })
        };
        let input = |wanted| all(wanted).next();
        let pairs =
            all("Checkpoint").flat_map(|model| all("Dataset").map(move |data| (model, data)));
        for ((model, model_span), (data, data_span)) in pairs {
            let (Some(context), Some(seq)) = (self.origin(CONTEXT, model), self.origin(SEQ, data))
            else {
                continue;
            };
            if seq.value <= context.value {
                continue;
            }
            let message =
                format!("`{}` gets sequences that its model can't read", call.stage.decl.name);
            self.found.push(
                Diagnostic::error("tlm::eval::shape_mismatch", message)
                    .label(data_span, format!("sequences of {} tokens", seq.value))
                    .label(model_span, format!("reads {} tokens at most", context.value))
                    .label(seq.span, "the length of the sequences")
                    .label(context.span, "the model's `context`")
                    .label(span, "in this call")
                    .help("pack shorter sequences, or give the model a longer `context`"),
            );
            return None;
        }
        if let Some((data, data_span)) = input("Dataset")
            && let Some((losses, losses_span)) = input("Losses")
            && let Some(scored) = self.scored(losses)
            && scored != data
        {
            let message = format!("`{}` gets the losses of another dataset", call.stage.decl.name);
            let (given, other) = (self.describe(data), self.describe(scored));
            self.found.push(
                Diagnostic::error("tlm::eval::dataset_mismatch", message)
                    .label(losses_span, format!("losses of `{other}`"))
                    .label(data_span, format!("this is `{given}`"))
                    .label(self.maker(scored).span(), format!("`{other}` is made here"))
                    .label(self.maker(data).span(), format!("`{given}` is made here"))
                    .label(span, "in this call")
                    .help("score the dataset that is drawn from"),
            );
            return None;
        }
        Some(())
    }

    /// Returns a property of an artifact, if it is known before anything ran.
    fn origin(&self, origins: Origins, output: &OutputRef) -> Option<Known> {
        let step = self.maker(output);
        let (_, from) = origins.iter().find(|(stage, _)| *stage == step.stage().name)?;
        let (name, value) = match from {
            From::Input(name) => return self.origin(origins, named(step, name)?),
            From::Param(name) => (*name, step.param(name)?),
            From::Field(name, _) => (*name, step.param(name)?),
        };
        let Arg::Value(value) = value else { return None };
        let value = match (from, value) {
            (From::Field(_, field), Value::Map(fields)) => fields.get(*field)?,
            (_, value) => value,
        };
        let Value::Int(value) = value else { return None };
        Some(Known { value: *value, span: step.arg_span(name).unwrap_or(step.span()) })
    }

    /// Returns the dataset that losses were computed on.
    fn scored(&self, losses: &OutputRef) -> Option<&OutputRef> {
        let step = self.maker(losses);
        named(step, "data").filter(|_| step.stage().name == "rounds.score")
    }

    fn maker(&self, output: &OutputRef) -> &Step {
        &self.steps[output.step.0 as usize]
    }

    fn describe(&self, output: &OutputRef) -> String {
        let label = self.maker(output).label();
        match output.output.strip_prefix("out") {
            Some(rest) => format!("{label}{rest}"),
            None => format!("{label}.{}", output.output),
        }
    }
}

fn takes(slot: &Slot, wanted: &str) -> bool {
    match &slot.ty {
        Ty::Optional(inner) => **inner == Ty::Artifact(wanted.into()),
        ty => *ty == Ty::Artifact(wanted.into()),
    }
}

fn named<'s>(step: &'s Step, name: &str) -> Option<&'s OutputRef> {
    step.inputs().find_map(|(own, input)| match input {
        Input::Output(output) if own == name => Some(output),
        _ => None,
    })
}
