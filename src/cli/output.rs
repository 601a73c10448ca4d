//! Where words go: results to standard output, everything else to standard error. Colour only
//! on a terminal, and not where `NO_COLOR` is set.
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use zeroize::Zeroizing;

use super::report::{CliError, shown};
use crate::core::problem::{Code, Problem};

/// How wide a terminal is taken to be, in columns.
pub const WIDTH: usize = 80;

/// The two streams of one command.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Results and problems as JSON.
    pub json: bool,
    /// Whether standard output may be coloured.
    pub colour: bool,
    /// Whether standard error may be coloured.
    pub colour_err: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// Whether standard error is a terminal.
    pub terminal_err: bool,
}

impl Output {
    /// For this process.
    pub fn new(json: bool) -> Self {
        let may = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let (terminal, terminal_err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let (colour, colour_err) = (may && terminal, may && terminal_err);
        Self { json, colour, colour_err, terminal, terminal_err }
    }

    /// Writes bytes to standard output as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return CliError::Closed;
            }
            CliError::Problem(Problem::new(
                Code::Internal,
                "standard output could not be written",
                error.to_string(),
                "send it somewhere with room, or to a terminal",
            ))
        })
    }

    /// Writes one line to standard output. The caller has made outside text harmless.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes a result object to standard output: on one line, or for a terminal on several. It
    /// is wiped afterwards, since some results hold a secret.
    pub fn object(&self, value: &impl Serialize) -> Result<(), CliError> {
        // Room enough from the start: a buffer that grows would leave copies behind.
        let mut size = Counted(0);
        write_json(&mut size, value, self.terminal)?;
        let mut text = Zeroizing::new(Vec::with_capacity(size.0 + 1));
        write_json(&mut *text, value, self.terminal)?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// Writes a line to standard output, on a terminal broken where it is too wide.
    pub fn sentence(&self, text: &str) -> Result<(), CliError> {
        if self.terminal { self.line(&fit(text)) } else { self.line(text) }
    }

    /// Writes a line to standard error, on a terminal broken where it is too wide.
    pub fn say(&self, text: &str) {
        let fitted = if self.terminal_err { fit(text) } else { text.to_owned() };
        // Nobody is left to be told that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{fitted}");
    }

    /// Writes a warning to standard error.
    pub fn warn(&self, text: &str) {
        let (yellow, plain) = if self.colour_err { ("\x1b[1;33m", "\x1b[0m") } else { ("", "") };
        self.say(&format!("{yellow}warning:{plain} {}", shown(text)));
    }

    /// Writes a table to standard output. On a terminal, cells are cut so that a row fits.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        self.table_keeping(&[], head, rows)
    }

    /// The same, where the cells below the heads of `whole` are never cut.
    pub fn table_keeping(
        &self,
        whole: &[&str],
        head: &[&str],
        rows: &[Vec<String>],
    ) -> Result<(), CliError> {
        let text = table(whole, head, rows, self.terminal.then_some(WIDTH));
        if !self.colour {
            return self.raw(text.as_bytes());
        }
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        self.raw(format!("\x1b[2m{first}\x1b[0m\n{rest}").as_bytes())
    }
}

/// How many columns a text takes, colours apart.
fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            // Ours alone come here: they end with a letter.
            let _ = rest.find(char::is_ascii_alphabetic);
        } else {
            count += 1;
        }
    }
    count
}

/// The text with no line wider than a terminal, as far as its words allow; the rest of a line is
/// put below where its sentence begins. A command stays whole, so that it can be copied.
fn fit(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(fit_line).collect();
    lines.join("\n")
}

fn fit_line(line: &str) -> String {
    // The sentence begins behind the last gap that is a column's, if there is one near the start.
    let begin = line
        .match_indices("  ")
        .map(|(at, gap)| at + gap.len())
        .fold(0, |begin, end| if columns(&line[..end]) <= WIDTH / 2 { end } else { begin });
    let begin = begin + (line[begin..].len() - line[begin..].trim_start().len());
    let (label, sentence) = line.split_at(begin);
    let command = sentence.trim_start_matches("fix: ").starts_with("agentkeys ");
    // One that a sentence goes on from is no line to copy.
    if columns(line) <= WIDTH || command && !sentence.contains("; ") {
        return line.to_owned();
    }
    let indent = " ".repeat(columns(label));
    let mut out = label.to_owned();
    let mut used = columns(label);
    for (at, word) in sentence.split(' ').enumerate() {
        let wide = columns(word);
        if at > 0 && used + 1 + wide > WIDTH {
            out.push('\n');
            out.push_str(&indent);
            used = indent.len();
        } else if at > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += wide;
    }
    out
}

/// Counts what would be written.
struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_json(to: impl Write, value: &impl Serialize, pretty: bool) -> Result<(), CliError> {
    let written = if pretty {
        serde_json::to_writer_pretty(to, value)
    } else {
        serde_json::to_writer(to, value)
    };
    written.map_err(|_| CliError::Problem(Problem::internal()))
}

/// The text, with an ellipsis at its end where it is wider than that.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// A table with one space of air on each side of a column. With `width`, the widest columns
/// give way until a row fits, those of `whole` apart. Cells are made harmless here.
pub fn table(whole: &[&str], head: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            widths[at] = widths[at].max(cell.chars().count());
        }
    }
    if let Some(width) = width {
        let air = 2 * (widths.len().max(1) - 1);
        while widths.iter().sum::<usize>() + air > width {
            let mut may = (0..widths.len()).filter(|at| !whole.contains(&head[*at]));
            let Some(widest) = may.by_ref().max_by_key(|at| widths[*at]) else { break };
            if widths[widest] <= 8 {
                break;
            }
            widths[widest] -= 1;
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let cell = cut(cell, widths[at]);
            line.push_str(&format!("{cell:<width$}  ", width = widths[at]));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_fits_the_terminal() {
        let rows = vec![
            vec!["my-agent".to_owned(), "x".repeat(100), "yes".to_owned()],
            vec!["b".to_owned(), "short".to_owned(), String::new()],
        ];
        let text = table(&[], &["AGENT", "WHAT", "OK"], &rows, Some(40));
        assert_eq!(
            text,
            format!(
                "AGENT     WHAT                       OK\nmy-agent  {}…  yes\nb         short\n",
                "x".repeat(24)
            )
        );
        assert!(table(&[], &["AGENT", "WHAT", "OK"], &rows, None).contains(&"x".repeat(100)));
        let kept = table(&["WHAT"], &["AGENT", "WHAT", "OK"], &rows, Some(40));
        assert!(kept.contains(&"x".repeat(100)), "{kept}");
    }

    #[test]
    fn a_line_that_is_too_wide_goes_on_below_its_sentence() {
        let words = |count: usize| vec!["word"; count].join(" ");
        assert_eq!(fit(&words(16)), words(16));
        assert_eq!(fit(&words(17)), format!("{}\n{}", words(16), "word"));
        let labelled = format!("  \x1b[2mcause\x1b[0m  {}\n  fix    short", words(20));
        let wrapped =
            format!("  \x1b[2mcause\x1b[0m  {}\n         {}\n  fix    short", words(14), words(6));
        assert_eq!(fit(&labelled), wrapped);
        // What is copied stays whole, and so does a word that is wider than the terminal.
        for whole in [format!("  fix    agentkeys approve {}", "x".repeat(90)), "x".repeat(200)] {
            assert_eq!(fit(&whole), whole);
        }
        let both = "  fix    agentkeys list shows the agents; a wallet address (0x and 40 hex digits) works too";
        assert!(fit(both).lines().all(|line| line.len() <= WIDTH), "{}", fit(both));
        assert!(fit(&format!("{}  {}", words(30), words(3))).lines().all(|l| l.len() <= WIDTH));
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        let text = table(&[], &["A"], &[vec!["\x1b[31mred".to_owned()]], None);
        assert_eq!(text, "A\n\\u{1b}[31mred\n");
    }

    #[test]
    fn a_result_is_counted_before_it_is_written() {
        let mut size = Counted(0);
        write_json(&mut size, &"a\"b\n", true).unwrap();
        assert_eq!(size.0, "\"a\\\"b\\n\"".len());
    }
}
