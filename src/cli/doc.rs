//! `tlm doc`: the reference of the standard library, written from its own sources.

use crate::base::text::did_you_mean;
use crate::base::{SourceMap, Span};
use crate::cli::{Console, Exit, USAGE};
use crate::sema::STDLIB;
use crate::syntax::ast::{
    Artifact, Binding, ExprKind, Fn, ItemKind, Parameter, RecordField, Stage, Type, TypeKind,
};
use crate::syntax::parse;

/// What stands above all modules in the written reference.
const HEAD: &str = "# The standard library

Written by `tlm doc --markdown` from `stdlib/*.tlm`; `tlm doc NAME` shows a part of it. A signature has what must be given:
inputs by position, then parameters by name; `...` where there are more, with defaults. Ranges include both ends.
";

/// The modules of the standard library in the order of their names.
struct Library {
    sources: SourceMap,
    modules: Vec<Module>,
}

struct Module {
    name: &'static str,
    /// The comment at the top of its file.
    about: String,
    entries: Vec<Entry>,
}

/// A stage, a function, a constant or an artifact type.
struct Entry {
    /// `train.run`, `Checkpoint`
    name: String,
    doc: String,
    kind: ItemKind,
}

/// `tlm doc`
pub(super) fn doc(
    name: Option<&str>,
    markdown: bool,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let library = Library::read();
    let text = match name {
        Some(name) => library.find(name).ok_or_else(|| library.unknown(name, console))?,
        None if markdown => library.whole(),
        None => library.list(),
    };
    write!(console.out, "{text}")?;
    Ok(())
}

/// Returns the comment at the top of a file.
pub(super) fn about(text: &str) -> String {
    let comment: Vec<_> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    comment.join("\n")
}

impl Library {
    fn read() -> Self {
        let mut sources = SourceMap::default();
        let mut module = |(name, text): (&'static str, &str)| {
            let items = parse(sources.add(format!("std/{name}.tlm"), text), text).file.items;
            let entry = |item: crate::syntax::ast::Item| {
                let own = match &item.kind {
                    ItemKind::Stage(stage) => format!("{name}.{}", stage.name.node),
                    ItemKind::Fn(function) => format!("{name}.{}", function.name.node),
                    ItemKind::Let(constant) => format!("{name}.{}", constant.name.node),
                    ItemKind::Artifact(artifact) => artifact.name.node.clone(),
                    _ => return None,
                };
                Some(Entry { name: own, doc: item.doc.unwrap_or_default(), kind: item.kind })
            };
            let entries = items.into_iter().filter_map(entry).collect();
            Module { name, about: about(text), entries }
        };
        let modules = STDLIB.into_iter().map(&mut module).collect();
        Self { sources, modules }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.modules.iter().flat_map(|module| &module.entries)
    }

    /// Returns the names of modules and entries with the first sentence on each.
    fn list(&self) -> String {
        let wide = self.entries().map(|entry| entry.name.len()).max().unwrap_or_default();
        let mut out = String::new();
        for module in &self.modules {
            out += &format!("{}: {}\n", module.name, module.about);
            for entry in &module.entries {
                out += &format!("  {:wide$}  {}\n", entry.name, first_sentence(&entry.doc));
            }
        }
        out
    }

    fn whole(&self) -> String {
        let modules = self.modules.iter().map(|module| format!("\n{}", self.module(module)));
        HEAD.to_owned() + &modules.collect::<String>()
    }

    /// Returns the reference of a module, or of one thing in it.
    fn find(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix("std.").unwrap_or(name);
        let module = self.modules.iter().find(|module| module.name == name);
        let entry = self.entries().find(|entry| entry.name == name);
        module.map(|module| self.module(module)).or_else(|| entry.map(|entry| self.entry(entry)))
    }

    fn unknown(&self, name: &str, console: &mut Console<'_>) -> Exit {
        let modules = self.modules.iter().map(|module| module.name);
        let names: Vec<_> = modules.chain(self.entries().map(|entry| &*entry.name)).collect();
        let short = |full: &str| full.rsplit('.').next().unwrap_or_default().to_owned();
        let shorts: Vec<_> = names.iter().map(|full| short(full)).collect();
        let near = did_you_mean(name, names.iter().copied()).or_else(|| {
            let near = did_you_mean(name, shorts.iter().map(String::as_str))?;
            names.iter().find(|full| short(full) == near).copied()
        });
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`tlm doc` lists all names".to_owned(),
        };
        let message = format!("the standard library has no `{name}`");
        console.fail(USAGE, message, &help)
    }

    fn module(&self, module: &Module) -> String {
        let entries = module.entries.iter().map(|entry| format!("\n{}", self.entry(entry)));
        format!("## {}\n\n{}\n{}", module.name, module.about, entries.collect::<String>())
    }

    fn entry(&self, entry: &Entry) -> String {
        let body = match &entry.kind {
            ItemKind::Stage(stage) => self.stage(&entry.name, &entry.doc, stage),
            ItemKind::Artifact(artifact) => self.artifact(&entry.doc, artifact),
            ItemKind::Fn(function) => self.function(&entry.name, &entry.doc, function),
            ItemKind::Let(constant) => self.constant(&entry.name, &entry.doc, constant),
            _ => String::new(),
        };
        format!("### {}\n\n{body}", entry.name)
    }

    fn artifact(&self, doc: &str, artifact: &Artifact) -> String {
        let fields = artifact.fields.iter();
        let line = |(name, ty): &(_, _)| format!("- `{}: {}`\n", text(name), self.ty(ty));
        let fields: String = fields.map(line).collect();
        match fields.is_empty() {
            true => format!("{doc}\n"),
            false => format!("{doc}\n\nFields:\n\n{fields}"),
        }
    }

    fn stage(&self, name: &str, doc: &str, stage: &Stage) -> String {
        let result = Some(&stage.result);
        let signature = self.signature(name, &stage.inputs, &stage.params, result);
        let mut out = format!("    {signature}\n\n{doc}\n");
        out += &self.parameters("Parameters", &stage.params);
        if !stage.one_of.is_empty() {
            let names: Vec<_> =
                stage.one_of.iter().map(|name| format!("`{}`", name.node)).collect();
            out += &format!("\nA call gives exactly one of {}.\n", names.join(", "));
        }
        out += &format!("\nResult:\n\n{}\n", self.result(&stage.result));
        out += &format!("Version {}. ", stage.version.node);
        out += match stage.tensor {
            true => {
                "Run by `tlm-torch`; the class of its numerics is part of the key (`cache.md`).\n"
            }
            false => "Gives the same bytes on every machine.\n",
        };
        out
    }

    fn function(&self, name: &str, doc: &str, function: &Fn) -> String {
        let (inputs, params) = (&function.inputs, &function.params);
        let signature = self.signature(name, inputs, params, function.result.as_ref());
        let mut out = format!("    {signature}\n\n{doc}\n");
        if inputs.iter().any(|input| input.doc.is_some()) {
            out += &self.parameters("Inputs", inputs);
        }
        out += &self.parameters("Parameters", params);
        if let (None, ExprKind::Record(fields)) = (&function.result, &function.body.kind) {
            let fields: Vec<_> =
                fields.iter().map(|(field, _)| format!("`{}`", field.node)).collect();
            out += &format!("\nResult: a record of {}.\n", fields.join(", "));
        }
        out += "\nA function.\n";
        out
    }

    fn constant(&self, name: &str, doc: &str, constant: &Binding) -> String {
        let value = self.sources.snippet(constant.value.span);
        format!("    {name} = {value}\n\n{doc}\n\nA constant.\n")
    }

    /// Returns a call with all that must be given.
    fn signature(
        &self,
        name: &str,
        inputs: &[Parameter],
        params: &[Parameter],
        result: Option<&Type>,
    ) -> String {
        let typed =
            |param: &Parameter| format!("{}: {}", text(&param.name), self.short_ty(&param.ty));
        let inputs: Vec<_> = inputs.iter().map(typed).collect();
        let required = params.iter().filter(|param| param.default.is_none());
        let mut shown: Vec<_> = required.map(typed).collect();
        if shown.len() < params.len() {
            shown.push("...".to_owned());
        }
        let parts: Vec<_> = [inputs, shown].iter().map(|part| part.join(", ")).collect();
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let result = result.map_or_else(String::new, |ty| format!(" -> {}", self.one_line(ty)));
        format!("{name}({}){result}", parts.join("; "))
    }

    fn parameters(&self, head: &str, params: &[Parameter]) -> String {
        let params: String = params.iter().map(|param| self.parameter(param)).collect();
        if params.is_empty() { params } else { format!("\n{head}:\n\n{params}") }
    }

    /// Returns a parameter and, below it, the fields of its record.
    fn parameter(&self, param: &Parameter) -> String {
        let mut written = format!("{}: {}", text(&param.name), self.short_ty(&param.ty));
        if let Some(range) = &param.range {
            let ends = [range.low.as_ref(), range.high.as_ref()];
            let [low, high] = ends.map(|end| end.map_or("", |end| self.sources.snippet(end.span)));
            written += &format!(" in {}", format!("{low} .. {high}").trim());
        }
        written += &self.default(param.default.as_ref().map(|default| default.span));
        if param.place {
            written += " place";
        }
        let mut out = bullet("", &written, param.doc.as_deref());
        if let TypeKind::Record(fields) = &param.ty.kind {
            let told = fields.iter().filter(|field| field.doc.is_some());
            out += &told.map(|field| self.field(field)).collect::<String>();
        }
        out
    }

    fn field(&self, field: &RecordField) -> String {
        let default = self.default(field.default.as_ref().map(|default| default.span));
        let written = format!("{}: {}{default}", text(&field.name), self.ty(&field.ty));
        bullet("  ", &written, field.doc.as_deref())
    }

    fn default(&self, span: Option<Span>) -> String {
        span.map_or_else(String::new, |span| format!(" = {}", self.sources.snippet(span)))
    }

    /// Returns what a stage gives, with the fields of artifacts.
    fn result(&self, ty: &Type) -> String {
        let TypeKind::Record(fields) = &ty.kind else {
            return format!("- `{}`{}\n", self.ty(ty), self.artifact_fields(ty));
        };
        let line = |field: &RecordField| {
            let written = format!("{}: {}", text(&field.name), self.ty(&field.ty));
            let doc = field.doc.as_ref().map_or_else(String::new, |doc| format!(": {doc}"));
            format!("- `{written}`{}{doc}\n", self.artifact_fields(&field.ty))
        };
        fields.iter().map(line).collect()
    }

    fn artifact_fields(&self, ty: &Type) -> String {
        let is_it = |entry: &&Entry| entry.name == self.ty(ty);
        let fields = match self.entries().find(is_it).map(|entry| &entry.kind) {
            Some(ItemKind::Artifact(artifact)) => &artifact.fields[..],
            _ => &[],
        };
        let field = |(name, ty): &(_, _)| format!("`.{}: {}`", text(name), self.ty(ty));
        let fields: Vec<_> = fields.iter().map(field).collect();
        match fields.is_empty() {
            true => String::new(),
            false => format!(" with {}", fields.join(", ")),
        }
    }

    fn ty(&self, ty: &Type) -> &str {
        self.sources.snippet(ty.span)
    }

    /// Returns a type on one line, a record's without what is told of its fields.
    fn one_line(&self, ty: &Type) -> String {
        let TypeKind::Record(fields) = &ty.kind else { return self.ty(ty).to_owned() };
        let fields =
            fields.iter().map(|field| format!("{}: {}", text(&field.name), self.ty(&field.ty)));
        format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
    }

    /// Returns a type without the fields of a record.
    fn short_ty(&self, ty: &Type) -> &str {
        if matches!(ty.kind, TypeKind::Record(_)) { "{...}" } else { self.ty(ty) }
    }
}

fn text(name: &crate::syntax::ast::Name) -> &str {
    &name.node
}

fn bullet(indent: &str, written: &str, doc: Option<&str>) -> String {
    let doc = doc.map(|doc| format!(": {}", doc.replace('\n', &format!("\n{indent}  "))));
    format!("{indent}- `{written}`{}\n", doc.unwrap_or_default())
}

fn first_sentence(doc: &str) -> String {
    let line = doc.replace('\n', " ");
    let end = line.find(". ").map_or(line.len(), |at| at + 1);
    line[..end].to_owned()
}
