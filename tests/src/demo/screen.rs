//! What a person watches: headlines, one line that moves, results.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use crate::{Error, Result};

/// Where the demo is shown. Without a terminal it prints the same lines, without colour and without those that move.
pub(crate) struct Screen {
    output: Box<dyn Write>,
    /// Whether a line can be written over.
    moves: bool,
    colours: bool,
    /// Whether a line that will be written over is there now.
    unfinished: bool,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Headlines.
    Bold,
    /// Remarks.
    Dim,
    /// What went well.
    Good,
    /// What is between.
    Fair,
    /// What did not go well.
    Bad,
}

impl Screen {
    /// Standard output; in colour on a terminal unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn standard() -> Self {
        let moves = std::io::stdout().is_terminal();
        let colours = moves && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { output: Box::new(std::io::stdout()), moves, colours, unfinished: false }
    }

    /// Nowhere: the figures are all that is wanted.
    pub(crate) fn hidden() -> Self {
        Self { output: Box::new(std::io::sink()), moves: false, colours: false, unfinished: false }
    }

    /// `text` in a tone of voice, where there are colours.
    pub(crate) fn paint(&self, tone: Tone, text: impl Display) -> String {
        paint(self.colours, tone, &text.to_string())
    }

    /// Whether there are colours.
    pub(crate) const fn has_colours(&self) -> bool {
        self.colours
    }

    /// The headline of a stage, and what to look at.
    pub(crate) fn stage(&mut self, number: usize, headline: &str, remark: &str) -> Result<()> {
        let headline = self.paint(Tone::Bold, headline);
        let number = self.paint(Tone::Dim, number);
        self.line("")?;
        self.line(&format!(" {number}  {headline}"))?;
        let remark = self.paint(Tone::Dim, remark);
        self.line(&format!("    {remark}"))
    }

    /// One line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        let erase = if self.unfinished { "\r\x1b[2K" } else { "" };
        self.unfinished = false;
        self.write(&format!("{erase}{text}\n"))
    }

    /// One line of a stage.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        self.line(&format!("    {text}"))
    }

    /// A line that the next one writes over. It must be narrower than a terminal.
    pub(crate) fn live(&mut self, text: &str) -> Result<()> {
        if !self.moves {
            return Ok(());
        }
        self.unfinished = true;
        self.write(&format!("\r\x1b[2K    {text}"))
    }

    /// A result, with a tick or a cross.
    pub(crate) fn result(&mut self, kept: bool, text: &str) -> Result<()> {
        let mark = if kept { self.paint(Tone::Good, "✔") } else { self.paint(Tone::Bad, "✘") };
        self.say(&format!("{mark} {text}"))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
        written.map_err(Error::system("write to", "standard output"))
    }
}

/// `text` in a tone of voice, by ANSI sequences every terminal knows.
pub(crate) fn paint(colours: bool, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Bold => "1",
        Tone::Dim => "2",
        Tone::Good => "32",
        Tone::Fair => "33",
        Tone::Bad => "31",
    };
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(terminal: bool) -> String {
        let paper = Paper::default();
        let output = Box::new(paper.clone());
        let mut screen = Screen { output, moves: terminal, colours: terminal, unfinished: false };
        screen.live("moving").unwrap();
        screen.result(false, "done").unwrap();
        let bytes = paper.0.borrow().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_moving_line_is_written_over_on_a_terminal_and_left_out_elsewhere() {
        assert_eq!(shown(true), "\r\x1b[2K    moving\r\x1b[2K    \x1b[31m✘\x1b[0m done\n");
        assert_eq!(shown(false), "    ✘ done\n");
    }
}
