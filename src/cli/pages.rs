//! The pages of `docs/codes`, embedded: a new code has a file there and a line here.

/// Returns the page of a code, as `tlm::sema::circle`.
pub(super) fn page(code: &str) -> Option<&'static str> {
    let name = code.strip_prefix("tlm::")?.replace("::", ".");
    PAGES.iter().find(|(known, _)| *known == name).map(|(_, page)| *page)
}

/// Embeds the pages of these names.
macro_rules! pages {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../docs/codes/", $name, ".md")))),*]
    };
}

const PAGES: &[(&str, &str)] = pages! {
    "eval.division_by_zero"
    "eval.idle_digest"
    "eval.late"
    "eval.no_digest"
    "eval.no_such_value"
    "eval.out_of_range"
    "eval.tokenizer_mismatch"
    "eval.too_large"
    "eval.too_many_points"
    "eval.too_much"
    "eval.unknown_scheme"
    "exec.never_fits"
    "exec.no_worker"
    "graph.bad_pattern"
    "graph.missing_file"
    "graph.unreadable"
    "lint.shadowing"
    "lint.unreached_axis"
    "lint.unused"
    "parse.bad_escape"
    "parse.bad_hole"
    "parse.bad_number"
    "parse.list_type"
    "parse.parentheses"
    "parse.positional_after_named"
    "parse.reserved"
    "parse.too_deep"
    "parse.unclosed"
    "parse.unexpected"
    "parse.unexpected_character"
    "parse.unknown_item"
    "parse.unknown_unit"
    "parse.unterminated_string"
    "sema.axis_of_axis"
    "sema.axis_values"
    "sema.bad_command"
    "sema.bad_report"
    "sema.circle"
    "sema.default"
    "sema.duplicate"
    "sema.idle_axis"
    "sema.idle_report"
    "sema.idle_run"
    "sema.import"
    "sema.import_circle"
    "sema.inputs"
    "sema.large_type"
    "sema.local_in_recipe"
    "sema.missing_argument"
    "sema.missing_field"
    "sema.mixed_types"
    "sema.no_value"
    "sema.not_a_cell"
    "sema.not_a_stage"
    "sema.not_a_text"
    "sema.not_yet"
    "sema.operands"
    "sema.unknown_argument"
    "sema.unknown_axis"
    "sema.unknown_field"
    "sema.unknown_member"
    "sema.unknown_module"
    "sema.unknown_name"
    "sema.unknown_param"
    "sema.unknown_plan"
    "sema.unknown_profile"
    "sema.unknown_stage"
    "sema.unknown_type"
    "sema.unknown_variant"
    "sema.wrong_type"
};
