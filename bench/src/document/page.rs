//! The page of tables.

use super::{Bar, Comparison, Document, Section, Table};
use crate::machine::Machine;
use crate::statistics::{Summary, number};

/// Markdown, ratios first.
pub(super) fn page(document: &Document) -> String {
    let mut text = String::from(
        "# Results\n\nWritten by `make bench`; [NOTES.md](../NOTES.md) says how the figures come about. Plots show figures as parts of \
         their bars: to the right of the line is better.\n",
    );
    for section in &document.sections {
        show(&mut text, section);
    }
    text
}

/// A line of a table.
pub(super) fn line(text: &mut String, cells: &[String]) {
    text.extend(["| ", &cells.join(" | "), " |\n"]);
}

/// What was seen, what it is to reach, and whether it did.
pub(super) fn cells(comparison: &Comparison) -> [String; 4] {
    let Comparison { value, bar, unit, .. } = comparison;
    let unit = if unit.is_empty() || unit == "ratio" { String::new() } else { format!(" {unit}") };
    let (median, spread) = match value {
        None => ("not run".to_owned(), String::new()),
        Some(Summary { median, samples: 1, .. }) => (format!("{}{unit}", number(*median)), String::new()),
        Some(Summary { median, lowest, highest, .. }) => {
            (format!("{}{unit}", number(*median)), format!("{} – {}", number(*lowest), number(*highest)))
        }
    };
    [median, spread, bar.as_ref().map_or_else(String::new, Bar::to_string), comparison.verdict().to_owned()]
}

fn show(text: &mut String, section: &Section) {
    let Section { name, title, command, machine, notes, comparisons, tables, .. } = section;
    let Machine { date, commit, kernel, processor, processors, memory, congestion_control, rivals } = machine;
    text.push_str(
        &[
            format!("\n## {title}\n\n* `{command}`, {date}, commit {commit}\n"),
            format!("* Linux {kernel}, {processors} x {processor}, {memory} MiB\n"),
        ]
        .concat(),
    );
    if let Some(congestion_control) = congestion_control {
        text.extend(["* congestion control of every socket: ", congestion_control, "\n"]);
    }
    for note in rivals.iter().chain(notes) {
        text.extend(["* ", note, "\n"]);
    }
    if !comparisons.is_empty() {
        // Where nothing has a bar there is no plot.
        if comparisons.iter().any(|comparison| comparison.value.is_some() && comparison.bar.is_some()) {
            text.extend(["\n![", title, "](", name, ".svg)\n"]);
        }
        text.push('\n');
        text.push_str("| figure | beside | | lowest – highest | bar | |\n|---|---|---|---|---|---|\n");
        for comparison in comparisons {
            let [median, spread, bar, verdict] = cells(comparison);
            let Comparison { what, beside, .. } = comparison;
            line(text, &[what.clone(), beside.clone(), median, spread, bar, verdict]);
        }
    }
    for Table { title, header, rows } in tables {
        text.extend(["\n### ", title, "\n\n"]);
        line(text, header);
        line(text, &vec!["---".to_owned(); header.len()]);
        for row in rows {
            line(text, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn comparisons_come_first_and_what_did_not_run_is_said() {
        let text = page(&document());
        let ratio = text.find("| 1 stream up | HAProxy | 2.00 | 1.00 – 2.50 | ≥ 1.3 | reached |\n");
        assert!(ratio.is_some() && ratio < text.find("### Medians"), "{text}");
        for words in ["| not run |  | ≥ 1.1 |  |", "* 3 rounds\n", "`make bench`, 2026-01-02", "Linux 6.1"]
        {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
    }
}
