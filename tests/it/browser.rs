//! The HTML report in a browser: Debian's `chromium`, without a window.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tlm::report::html::{self, Page};

use crate::report::{page, table};

const SKIPPED: &str = "skipped: there is no `chromium` to look at the page with";

/// How `timeout` ends if there is no such program.
const NOT_FOUND: i32 = 127;

/// Returns what a script finds on a page; none if there is no browser. The script ends with what it finds.
fn found(name: &str, page: &Page, width: u32, script: &str) -> Option<Value> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.html"));
    let told = format!(
        "<pre id=\"told\"></pre><script>document.getElementById('told').textContent = JSON.stringify((() => {{{script}}})())</script></body>"
    );
    let html = html::render(page).expect("drawn").replace("</body>", &told);
    std::fs::write(&path, html).expect("written");
    let profile = tempfile::tempdir().expect("a folder");
    // A browser that hangs ends after a minute.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "60", "chromium"])
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
        .args(["--disable-background-networking", "--disable-component-update"])
        .arg(format!("--window-size={width},900"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", path.display()))
        .output()
        .expect("it runs");
    match output.status.code() {
        Some(NOT_FOUND) => return None,
        code => assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let dom = String::from_utf8(output.stdout).expect("text");
    let (_, told) = dom.split_once("<pre id=\"told\">").expect("a page");
    let told = told.split("</pre>").next().expect("its text");
    Some(serde_json::from_str(&told.replace("&amp;", "&")).expect("JSON"))
}

#[test]
fn tables_sort_and_filter_and_cells_lead_to_their_steps() {
    let mut long = table();
    long.rows = vec![long.rows; 3].concat();
    let page = Page { tables: vec![long], ..page() };
    let Some(found) = found(
        "sorted",
        &page,
        1100,
        r#"
        const table = document.querySelector("figure table"), head = [...table.tHead.rows[0].cells];
        const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[2].textContent);
        const press = at => { head[at].querySelector("button").click(); return shown().slice(0, 7); };
        const sorted = [press(2), head[2].ariaSort, press(2), head[2].ariaSort, press(2), head[2].ariaSort];
        const filter = document.querySelector("input.filter");
        filter.value = "HARD |";
        filter.dispatchEvent(new Event("input"));
        const left = shown();
        table.querySelector("tr:not([hidden]) td a").click();
        const step = document.querySelector(":target");
        return { sorted, left, step: [step.className, step.textContent.includes("key"), step.textContent.includes(".tlm/objects/")] };
        "#,
    ) else {
        return eprintln!("{SKIPPED}");
    };
    let (low, high) = (["45.32"; 3], ["1,102.50"; 3]);
    let ascending = [&low[..], &high, &["…"]].concat();
    let descending = [&high[..], &low, &["failed"]].concat();
    let before = ["45.32", "failed", "1,102.50", "…", "45.32", "failed", "1,102.50"];
    let sorted = json!([ascending, "ascending", descending, "descending", before, null]);
    assert_eq!(found["sorted"], sorted);
    assert_eq!(found["left"], json!(["failed", "failed", "failed"]));
    assert_eq!(found["step"], json!(["step", true, true]));
}

#[test]
fn a_page_fits_a_narrow_screen() {
    let script = r#"
        const root = document.documentElement, charts = [...document.querySelectorAll("svg.chart")];
        const small = charts.flatMap(svg => [...svg.querySelectorAll("text")]).filter(text => text.textContent.trim()).map(text => text.getBoundingClientRect().height);
        return { wide: root.scrollWidth - root.clientWidth, charts: charts.length, small: Math.min(...small) };
    "#;
    let Some(found) = found("narrow", &page(), 500, script) else { return eprintln!("{SKIPPED}") };
    assert_eq!((&found["wide"], &found["charts"]), (&json!(0), &json!(8)));
    assert!(found["small"].as_f64().expect("a size") >= 9.0, "{found}");
}
