//! The README's part: what has a bar, between two markers.

use ::tests::{Error, Result};

use super::page::{cells, line};
use super::{Comparison, Document, Section};
use crate::machine::Machine;

const BEGIN: &str = "<!-- figures: written by make bench -->\n";
const END: &str = "<!-- end of figures -->\n";

/// The text with the figures of `document` between the markers.
pub(super) fn with_figures(text: &str, document: &Document) -> Result<String> {
    let missing = || std::io::Error::other(format!("there is no {BEGIN:?} before a {END:?}"));
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(missing).map_err(Error::system("understand", "the README"))?;
    Ok([before, BEGIN, &figures(document), END, after].concat())
}

fn figures(document: &Document) -> String {
    let mut text = String::new();
    for section in &document.sections {
        let promised: Vec<&Comparison> =
            section.comparisons.iter().filter(|comparison| comparison.bar.is_some()).collect();
        if promised.is_empty() {
            continue;
        }
        let Section { title, command, machine, notes, .. } = section;
        let Machine { date, kernel, processor, processors, .. } = machine;
        let busy = if notes.iter().any(|note| note.contains("a busy machine")) {
            ", busy with other things too"
        } else {
            ""
        };
        let heading = format!(
            "\n**{title}** (`{command}`, {date}, Linux {kernel}, {processors} x {processor}{busy})\n\n"
        );
        text.extend([
            &*heading,
            "| | beside | median | lowest – highest | bar | |\n|---|---|---|---|---|---|\n",
        ]);
        for comparison in promised {
            let [median, spread, bar, verdict] = cells(comparison);
            line(
                &mut text,
                &[comparison.what.clone(), comparison.beside.clone(), median, spread, bar, verdict],
            );
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn figures_stand_between_the_markers_and_only_there() -> Result<()> {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let written = with_figures(&text, &document())?;
        assert!(written.starts_with(&format!("before\n{BEGIN}")), "{written}");
        assert!(written.ends_with(&format!("{END}after\n")), "{written}");
        assert!(!written.contains("old"), "{written}");
        for words in
            ["`make bench`, 2026-01-02, Linux 6.1", "| 2.00 | 1.00 – 2.50 | ≥ 1.3 | reached |", "not run"]
        {
            assert!(written.contains(words), "{words:?} is not in {written}");
        }
        assert_eq!(with_figures(&written, &document())?, written);
        Ok(())
    }

    #[test]
    fn a_readme_without_markers_is_left_alone() {
        for text in ["", END, &format!("{END}{BEGIN}")] {
            assert!(with_figures(text, &document()).is_err(), "{text:?}");
        }
    }
}
