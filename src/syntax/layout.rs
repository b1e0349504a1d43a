//! Texts with places where a line may break, and how they are laid out within a width.

/// How long a line may be.
const WIDTH: usize = 120;

/// How much deeper what is broken off stands.
const INDENT: usize = 2;

/// What parts code from a comment behind it.
pub(super) const COMMENT_GAP: &str = "   ";

/// A piece of a document.
#[derive(Debug)]
pub(super) enum Doc<'t> {
    /// A text as it is; it may hold line ends of its own.
    Text(&'t str),
    /// `flat`, or where the group around it is broken, a line end.
    Line { flat: &'static str, blank: bool },
    /// Always a line end.
    Break { blank: bool },
    /// A comma where the group around it is broken.
    Comma,
    /// A comment at the end of the line that goes on here.
    Comment(&'t str),
    /// As many blanks as the column with this number wants.
    Pad(usize),
    /// Stays on one line if it fits.
    Group(Vec<Doc<'t>>),
    /// Its lines stand deeper.
    Indent(Vec<Doc<'t>>),
    /// What follows a `=`: begins on the same line if its beginning fits there.
    Hug(Vec<Doc<'t>>),
}

impl Doc<'_> {
    /// Returns whether it never stands on one line.
    fn is_broken(&self) -> bool {
        match self {
            Self::Break { .. } | Self::Comment(_) => true,
            Self::Group(docs) | Self::Indent(docs) | Self::Hug(docs) => is_broken(docs),
            Self::Text(_) | Self::Line { .. } | Self::Comma | Self::Pad(_) => false,
        }
    }
}

fn is_broken(docs: &[Doc<'_>]) -> bool {
    docs.iter().any(Doc::is_broken)
}

/// Returns the document as text; none where a comment would swallow what follows it.
pub(super) fn layout(docs: &[Doc<'_>], pads: [usize; 2]) -> Option<String> {
    let mut layout = Layout {
        out: String::new(),
        column: 0,
        pads,
        comment: None,
        swallowed: false,
        todo: Vec::new(),
    };
    layout.push(0, true, docs);
    while let Some((indent, broken, doc)) = layout.todo.pop() {
        layout.put(indent, broken, doc);
    }
    layout.end_line();
    (!layout.swallowed).then_some(layout.out)
}

struct Layout<'d, 't> {
    out: String,
    column: usize,
    pads: [usize; 2],
    /// The comment that the current line ends with.
    comment: Option<&'t str>,
    swallowed: bool,
    /// What is still to come, last first: its indent, and whether its lines are broken.
    todo: Vec<(usize, bool, &'d Doc<'t>)>,
}

impl<'d, 't> Layout<'d, 't> {
    fn push(&mut self, indent: usize, broken: bool, docs: &'d [Doc<'t>]) {
        self.todo.extend(docs.iter().rev().map(|doc| (indent, broken, doc)));
    }

    fn put(&mut self, indent: usize, broken: bool, doc: &'d Doc<'t>) {
        match doc {
            Doc::Text(text) => self.text(text),
            Doc::Line { blank, .. } if broken => self.new_line(indent, *blank),
            Doc::Line { flat, .. } => self.text(flat),
            Doc::Break { blank } => self.new_line(indent, *blank),
            Doc::Comma if broken => self.text(","),
            Doc::Comma => {}
            Doc::Comment(text) => {
                self.swallowed |= self.comment.is_some();
                self.comment = Some(text);
            }
            Doc::Pad(column) => self.text(&" ".repeat(self.pads[*column])),
            Doc::Group(docs) => {
                let broken = is_broken(docs) || !self.fits(false, docs);
                self.push(indent, broken, docs);
            }
            Doc::Indent(docs) => self.push(indent + INDENT, broken, docs),
            Doc::Hug(docs) => self.hug(indent, docs),
        }
    }

    fn hug(&mut self, indent: usize, docs: &'d [Doc<'t>]) {
        self.text(" ");
        let flat = !is_broken(docs) && self.fits(false, docs);
        if flat || self.fits(true, docs) {
            return self.push(indent, !flat, docs);
        }
        self.out.pop();
        self.new_line(indent + INDENT, false);
        self.push(indent + INDENT, true, docs);
    }

    fn text(&mut self, text: &str) {
        // Commas go before the comment, anything else would have to go behind it.
        self.swallowed |= self.comment.is_some() && !text.is_empty() && text != ",";
        self.out.push_str(text);
        match text.rsplit_once('\n') {
            Some((_, last)) => self.column = last.chars().count(),
            None => self.column += text.chars().count(),
        }
    }

    fn end_line(&mut self) {
        if let Some(comment) = self.comment.take() {
            self.out.push_str(COMMENT_GAP);
            self.out.push_str(comment);
        }
    }

    fn new_line(&mut self, indent: usize, blank: bool) {
        self.end_line();
        self.out.push_str(if blank { "\n\n" } else { "\n" });
        self.out.push_str(&" ".repeat(indent));
        self.column = indent;
    }

    /// Returns whether `docs` fit into the current line, with what follows up to the next place
    /// where the line may end.
    fn fits(&self, broken: bool, docs: &'d [Doc<'t>]) -> bool {
        let Some(mut room) = WIDTH.checked_sub(self.column) else { return false };
        let mut todo: Vec<(bool, &Doc<'t>)> = docs.iter().rev().map(|doc| (broken, doc)).collect();
        let mut rest = self.todo.iter().rev();
        loop {
            let next = todo.pop().or_else(|| rest.next().map(|(_, broken, doc)| (*broken, *doc)));
            let Some((broken, doc)) = next else { return true };
            let width = match doc {
                Doc::Text(text) => match text.split_once('\n') {
                    Some((line, _)) => return line.chars().count() <= room,
                    None => text.chars().count(),
                },
                Doc::Line { .. } | Doc::Hug(_) if broken => return true,
                Doc::Break { .. } => return true,
                Doc::Line { flat, .. } => flat.len(),
                Doc::Comma => usize::from(broken),
                Doc::Pad(column) => self.pads[*column],
                Doc::Comment(_) => 0,
                Doc::Group(docs) | Doc::Indent(docs) | Doc::Hug(docs) => {
                    todo.extend(docs.iter().rev().map(|doc| (broken, doc)));
                    0
                }
            };
            match room.checked_sub(width) {
                Some(left) => room = left,
                None => return false,
            }
        }
    }
}
