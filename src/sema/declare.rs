//! Declarations: artifact types and stages, from `stdlib/*.tlm` to what calls are checked against.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::base::units::{Dim, Unit};
use crate::base::{Atom, SourceMap, Span, Value};
use crate::diag::Diagnostic;
use crate::sema::node::{Range, Signature, Slot, Stage};
use crate::sema::steps::{Body, OutputKind, StageDecl};
use crate::sema::ty::{Field, Ty};
use crate::sema::value::{Val, literal, real};
use crate::syntax::ast::{
    self, Expr, ExprKind, ItemKind, Parameter, RecordField, TypeKind, UnaryOp,
};
use crate::syntax::parse;

/// Every module of the standard library with its text, embedded in the program.
pub const STDLIB: [(&str, &str); 9] = [
    ("artifact", include_str!("../../stdlib/artifact.tlm")),
    ("corpus", include_str!("../../stdlib/corpus.tlm")),
    ("dataset", include_str!("../../stdlib/dataset.tlm")),
    ("eval", include_str!("../../stdlib/eval.tlm")),
    ("model", include_str!("../../stdlib/model.tlm")),
    ("rounds", include_str!("../../stdlib/rounds.tlm")),
    ("source", include_str!("../../stdlib/source.tlm")),
    ("tokenizer", include_str!("../../stdlib/tokenizer.tlm")),
    ("train", include_str!("../../stdlib/train.tlm")),
];

/// Artifact types, which are known everywhere, and modules of stages.
#[derive(Clone, Debug, Default)]
pub(super) struct Library {
    /// Fields by artifact type.
    artifacts: BTreeMap<String, BTreeMap<String, Ty>>,
    /// The files of the modules.
    pub(super) files: Vec<(&'static str, ast::File)>,
    /// Stages by module.
    pub(super) modules: BTreeMap<String, BTreeMap<String, Arc<Stage>>>,
}

/// Modules that are read whoever is named: artifact types are known everywhere, and texts with a scheme are fetched.
const ALWAYS: [&str; 2] = ["artifact", "source"];

/// Returns the names of all modules.
pub(super) fn module_names() -> impl Iterator<Item = &'static str> + Clone {
    STDLIB.iter().map(|(name, _)| *name)
}

/// Returns the modules that a file names.
fn named_in(file: &ast::File) -> Vec<&str> {
    let mut named = Vec::new();
    for item in &file.items {
        let ItemKind::Use(ast::Use { from: ast::UseFrom::Std(path), names }) = &item.kind else {
            continue;
        };
        match (path.get(1), names) {
            (Some(module), _) => named.push(module.node.as_str()),
            (None, ast::UseNames::Some(names)) => {
                named.extend(names.iter().map(|name| name.node.as_str()));
            }
            (None, ast::UseNames::All(_) | ast::UseNames::Module(_)) => {
                named.extend(module_names().map(|name| -> &str { name }));
            }
        }
    }
    named
}

/// Reads the modules of the standard library that files name, and those that these name. What is found in one is a bug, and
/// told like a mistake in a recipe.
pub(super) fn stdlib<'f>(
    recipes: impl Iterator<Item = &'f ast::File>,
    sources: &mut SourceMap,
    found: &mut Vec<Diagnostic>,
) -> Library {
    let mut library = Library::default();
    let mut wanted: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    wanted.extend(recipes.flat_map(named_in).map(str::to_owned));
    let mut files: Vec<(&'static str, ast::File)> = Vec::new();
    while let Some(name) = wanted.pop() {
        let Some((module, text)) = STDLIB.iter().find(|(module, _)| *module == name) else {
            continue;
        };
        if files.iter().any(|(known, _)| known == module) {
            continue;
        }
        let parsed = parse(sources.add(format!("std/{module}.tlm"), *text), text);
        found.extend(parsed.diagnostics);
        wanted.extend(named_in(&parsed.file).into_iter().map(str::to_owned));
        files.push((module, parsed.file));
    }
    library.add_artifacts(files.iter().map(|(_, file)| file), found);
    for (module, file) in &files {
        let mut declared = BTreeMap::new();
        for item in &file.items {
            let ItemKind::Stage(stage) = &item.kind else { continue };
            let name = format!("{module}.{}", stage.name.node);
            declared.insert(stage.name.node.clone(), Arc::new(library.stage(&name, stage, found)));
        }
        library.modules.insert((*module).to_owned(), declared);
    }
    library.files = files;
    library
}

impl Library {
    /// Adds the artifact types of some files.
    pub(super) fn add_artifacts<'f>(
        &mut self,
        files: impl Iterator<Item = &'f ast::File> + Clone,
        found: &mut Vec<Diagnostic>,
    ) {
        let artifacts = files.flat_map(|file| &file.items).filter_map(|item| match &item.kind {
            ItemKind::Artifact(artifact) => Some(artifact),
            _ => None,
        });
        // Names first, so that fields may have types that come later.
        for artifact in artifacts.clone() {
            let name = &artifact.name;
            if self.artifacts.insert(name.node.clone(), BTreeMap::new()).is_some() {
                found.push(
                    Diagnostic::error(
                        "tlm::sema::duplicate",
                        format!("there is an artifact type `{}` already", name.node),
                    )
                    .label(name.span, "here again")
                    .help("give it another name; `tlm doc` lists those of the standard library"),
                );
            }
        }
        for artifact in artifacts {
            let field =
                |(name, ty): &(ast::Name, ast::Type)| (name.node.clone(), self.ty(ty, found));
            let fields = artifact.fields.iter().map(field).collect();
            self.artifacts.insert(artifact.name.node.clone(), fields);
        }
    }

    /// Returns the fields of an artifact type.
    pub(super) fn fields(&self, artifact: &str) -> Option<&BTreeMap<String, Ty>> {
        self.artifacts.get(artifact)
    }

    /// Returns a stage by its full name, as `source.fetch`.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stage>> {
        let (module, stage) = name.split_once('.')?;
        self.modules.get(module)?.get(stage)
    }

    /// Returns the type that is written.
    pub(super) fn ty(&self, ty: &ast::Type, found: &mut Vec<Diagnostic>) -> Ty {
        match &ty.kind {
            TypeKind::Named(name) => self.named(name, ty, found),
            TypeKind::Enum(names) => {
                once(names.iter(), found);
                Ty::Enum(names.iter().map(|name| name.node.clone()).collect::<Vec<_>>().into())
            }
            TypeKind::List(item) => Ty::List(Box::new(self.ty(item, found))),
            TypeKind::Optional(inner) => Ty::Optional(Box::new(self.ty(inner, found))),
            TypeKind::Record(fields) => {
                once(fields.iter().map(|field| &field.name), found);
                let field = |field: &RecordField| {
                    let ty = self.ty(&field.ty, found);
                    let default = default(field.default.as_ref(), &ty, found);
                    (field.name.node.clone(), Field { ty, default })
                };
                Ty::Record(Arc::new(fields.iter().map(field).collect()))
            }
        }
    }

    fn named(&self, name: &str, ty: &ast::Type, found: &mut Vec<Diagnostic>) -> Ty {
        if let Some(dim) = Dim::ALL.into_iter().find(|dim| dim.name() == name) {
            return Ty::Number(dim);
        }
        match name {
            "Bool" => return Ty::Bool,
            "Str" => return Ty::Str,
            "Path" => return Ty::Path,
            _ if self.artifacts.contains_key(name) => return Ty::Artifact(name.into()),
            _ => {}
        }
        let known = Dim::ALL.map(Dim::name).into_iter().chain(["Bool", "Str", "Path"]);
        let known = known.chain(self.artifacts.keys().map(String::as_str));
        let help = match did_you_mean(name, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("types are {}", known.collect::<Vec<_>>().join(", ")),
        };
        found.push(
            Diagnostic::error("tlm::sema::unknown_type", format!("there is no type `{name}`"))
                .label(ty.span, "not a type")
                .help(help),
        );
        Ty::Unknown
    }

    pub(super) fn stage(
        &self,
        name: &str,
        stage: &ast::Stage,
        found: &mut Vec<Diagnostic>,
    ) -> Stage {
        let mut slots = |params: &[Parameter]| {
            params.iter().map(|param| self.slot(param, found)).collect::<Vec<_>>()
        };
        let (mut inputs, params) = (slots(&stage.inputs), slots(&stage.params));
        let (optional, params): (Vec<_>, _) =
            params.into_iter().partition(|slot| slot.ty.is_optional_artifact());
        let result = self.ty(&stage.result, found);
        // A model folder holds its tokenizer, but only a stage that gets none makes it an output of its own.
        let makes_tokenizer = inputs.iter().all(|slot| slot.ty == Ty::file());
        inputs.extend(optional);
        let mut outputs = BTreeMap::new();
        match &result {
            Ty::Record(fields) => fields.iter().for_each(|(name, field)| {
                self.output(name, &field.ty, makes_tokenizer, &mut outputs);
            }),
            one => self.output("out", one, makes_tokenizer, &mut outputs),
        }
        let one_of = one_of(stage, &params, found);
        Stage {
            decl: Arc::new(StageDecl {
                name: name.to_owned(),
                version: stage.version.node,
                tensor: stage.tensor,
                outputs,
                body: Body::Worker,
            }),
            signature: Signature { name: name.to_owned(), inputs, params, span: stage.name.span },
            result,
            one_of,
            uses: stage.uses.clone(),
        }
    }

    /// Returns the stage that takes what was made elsewhere for an artifact of a type.
    pub(super) fn adopting(&self, kind: &str) -> Option<Stage> {
        let mut stage = Stage::clone(self.get("source.adopt")?);
        let names = self.artifacts.keys().cloned().collect::<Vec<_>>();
        let slots = stage.signature.params.iter_mut();
        slots
            .filter(|slot| slot.name == *"as")
            .for_each(|slot| slot.ty = Ty::Enum(names[..].into()));
        stage.result = Ty::Artifact(kind.into());
        let mut outputs = BTreeMap::new();
        self.output("out", &stage.result, true, &mut outputs);
        stage.decl = Arc::new(StageDecl { outputs, ..StageDecl::clone(&stage.decl) });
        Some(stage)
    }

    fn output(
        &self,
        name: &str,
        ty: &Ty,
        tokenizer: bool,
        outputs: &mut BTreeMap<String, OutputKind>,
    ) {
        let Ty::Artifact(artifact) = ty else {
            outputs.insert(name.to_owned(), OutputKind::Scalar);
            return;
        };
        outputs.insert(name.to_owned(), OutputKind::Artifact);
        for (field, ty) in self.artifacts.get(&**artifact).into_iter().flatten() {
            if tokenizer || !matches!(ty, Ty::Artifact(_)) {
                self.output(&format!("{name}.{field}"), ty, tokenizer, outputs);
            }
        }
    }

    pub(super) fn slot(&self, param: &Parameter, found: &mut Vec<Diagnostic>) -> Slot {
        let ty = self.ty(&param.ty, found);
        let default = default(param.default.as_ref(), &ty, found);
        Slot {
            name: Atom::from(&param.name.node),
            default,
            range: param.range.as_ref().map(range),
            ty,
            since: param.since.is_some(),
            place: param.place,
            span: param.name.span,
        }
    }
}

/// Returns the places of the parameters of which a call gives exactly one.
fn one_of(stage: &ast::Stage, params: &[Slot], found: &mut Vec<Diagnostic>) -> Vec<usize> {
    once(stage.one_of.iter(), found);
    let mut place = |name: &ast::Name| {
        let place = params.iter().position(|slot| {
            slot.name == *name.node && slot.default == Some(Val::Plain(Value::Null))
        });
        if place.is_none() {
            let message = format!(
                "`{}` is no parameter of `{}` that may be left out",
                name.node, stage.name.node
            );
            found.push(
                Diagnostic::error("tlm::sema::unknown_argument", message)
                    .label(name.span, "one of these has to be given")
                    .help(format!("declare it as `{}: T? = none`", name.node)),
            );
        }
        place
    };
    stage.one_of.iter().filter_map(&mut place).collect()
}

/// Finds names that stand twice in a type.
fn once<'n>(names: impl Iterator<Item = &'n ast::Name>, found: &mut Vec<Diagnostic>) {
    let mut first: BTreeMap<&str, Span> = BTreeMap::new();
    for name in names {
        if let Some(first) = first.insert(&name.node, name.span) {
            found.push(
                Diagnostic::error(
                    "tlm::sema::duplicate",
                    format!("`{}` is given twice", name.node),
                )
                .label(name.span, "here again")
                .label(first, "first here")
                .help("leave one of them out"),
            );
        }
    }
}

/// Returns a range of constants.
pub(super) fn range(range: &ast::Range) -> Range {
    let (low, high) = (range.low.as_ref(), range.high.as_ref());
    Range {
        low: low.map_or(f64::NEG_INFINITY, bound),
        high: high.map_or(f64::INFINITY, bound),
        shown: shown(low, high),
    }
}

fn bound(end: &Expr) -> f64 {
    constant(end).and_then(|value| value.known()).map_or(f64::NAN, |value| real(&value))
}

fn shown(low: Option<&Expr>, high: Option<&Expr>) -> String {
    match (low.map(written), high.map(written)) {
        (Some(low), Some(high)) => format!("from {low} to {high}"),
        (Some(low), None) => format!("{low} or more"),
        (None, Some(high)) => format!("{high} or less"),
        (None, None) => "any number".to_owned(),
    }
}

fn written(number: &Expr) -> String {
    match &number.kind {
        ExprKind::Number { digits, units } => {
            let unit = |unit: &&Unit| match unit.name.len() {
                1 => unit.name.to_owned(),
                _ => format!(" {}", unit.name),
            };
            format!("{digits}{}", units.iter().map(unit).collect::<String>())
        }
        ExprKind::Unary(UnaryOp::Neg, inner) => format!("-{}", written(inner)),
        _ => String::new(),
    }
}

/// Returns a default as its slot wants it.
fn default(expr: Option<&Expr>, ty: &Ty, found: &mut Vec<Diagnostic>) -> Option<Val> {
    let expr = expr?;
    let value = constant(expr).filter(|value| suits(expr, ty) && is_of(value, ty));
    let value = value.and_then(|value| value.conform(ty).ok());
    if value.is_none() {
        found.push(
            Diagnostic::error("tlm::sema::default", format!("this is no default for {ty}"))
                .label(expr.span, "expected a constant of that type")
                .help("write a number, a text, `true`, `false`, `none` or a variant"),
        );
    }
    value
}

/// Returns whether names and units in a constant make sense for a type.
fn suits(expr: &Expr, ty: &Ty) -> bool {
    match (&expr.kind, ty) {
        (_, Ty::Optional(inner)) => suits(expr, inner),
        (ExprKind::Name(_), ty) => matches!(ty, Ty::Enum(_) | Ty::Unknown),
        (ExprKind::Unary(_, inner), _) => suits(inner, ty),
        (ExprKind::List(items), Ty::List(item)) => items.iter().all(|expr| suits(expr, item)),
        (ExprKind::Number { units, .. }, Ty::Number(dim)) => {
            dim_of(units).is_none_or(|unit| Ty::Number(unit).fits(&Ty::Number(*dim)))
        }
        _ => true,
    }
}

fn is_of(value: &Val, ty: &Ty) -> bool {
    match (value, ty) {
        (_, Ty::Unknown) | (Val::Plain(Value::Null), Ty::Optional(_)) => true,
        (value, Ty::Optional(inner)) => is_of(value, inner),
        (Val::List(items), Ty::List(item)) => items.iter().all(|value| is_of(value, item)),
        (Val::Plain(Value::Str(name)), Ty::Enum(names)) => names.contains(name),
        (Val::Plain(value), ty) => matches!(
            (value, ty),
            (Value::Int(_) | Value::Float(_), Ty::Number(_))
                | (Value::Bool(_), Ty::Bool)
                | (Value::Str(_), Ty::Str | Ty::Path)
        ),
        _ => false,
    }
}

/// Returns the value of a constant; a name is an enum's variant.
fn constant(expr: &Expr) -> Option<Val> {
    let value = match &expr.kind {
        ExprKind::Number { digits, units } => literal(digits, units),
        ExprKind::Str(text) | ExprKind::Name(text) => Value::Str(text.clone()),
        ExprKind::Bool(value) => Value::Bool(*value),
        ExprKind::None => Value::Null,
        ExprKind::Unary(UnaryOp::Neg, inner) => match constant(inner)? {
            Val::Plain(Value::Int(value)) => Value::Int(value.checked_neg()?),
            Val::Plain(Value::Float(value)) => Value::Float(-value),
            _ => return None,
        },
        ExprKind::List(items) => {
            return items.iter().map(constant).collect::<Option<_>>().map(Val::List);
        }
        _ => return None,
    };
    Some(Val::Plain(value))
}

/// Returns the dimension that a literal's units fix.
pub(super) fn dim_of(units: &[&Unit]) -> Option<Dim> {
    units.iter().find_map(|unit| unit.dim)
}
