//! Small pictures of dials, and the table at the end. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figure::Figure;
use super::screen::{Tone, paint};
use crate::outage::Dial;

/// The time one mark of a [`timeline`] stands for: five dials at 100 per second.
pub(crate) const MARK: Duration = Duration::from_millis(50);
/// How wide a picture may get: with its margin, narrower than any terminal.
const WIDTH: usize = 72;

/// One mark for each [`MARK`] of time since the first dial: did those begun then get their answers? `█` all, `▄` some,
/// `×` none; `·` where none has ended yet. The latest ones if there are too many.
pub(crate) fn timeline(dials: &[Dial], colours: bool) -> String {
    let Some(first) = dials.iter().map(|dial| dial.start).min() else { return String::new() };
    let mut marks: Vec<(usize, usize)> = Vec::new();
    for dial in dials {
        let mark = usize::try_from(dial.start.saturating_sub(first).as_nanos() / MARK.as_nanos())
            .unwrap_or(usize::MAX);
        if mark >= marks.len() {
            marks.resize(mark + 1, (0, 0));
        }
        let (answered, failed) = &mut marks[mark];
        if dial.outcome.is_ok() { *answered += 1 } else { *failed += 1 }
    }
    let latest = marks.len().saturating_sub(WIDTH);
    let symbols: Vec<_> =
        marks[latest..].iter().map(|&(answered, failed)| symbol(answered, failed)).collect();
    let run = |run: &[(Tone, &str)]| paint(colours, run[0].0, &run[0].1.repeat(run.len()));
    symbols.chunk_by(|one, next| one == next).map(run).collect()
}

const fn symbol(answered: usize, failed: usize) -> (Tone, &'static str) {
    match (answered, failed) {
        (0, 0) => (Tone::Dim, "·"),
        (_, 0) => (Tone::Good, "█"),
        (0, _) => (Tone::Bad, "×"),
        (_, _) => (Tone::Fair, "▄"),
    }
}

/// A bar for each share, all on one line, the longest one `width` wide.
pub(crate) fn bars(spread: &BTreeMap<String, usize>, width: usize) -> String {
    let most = spread.values().copied().max().unwrap_or(0).max(1);
    let bar = |(name, share): (&String, &usize)| {
        format!("{name} {:<width$} {share}", "█".repeat((share * width).div_ceil(most)))
    };
    spread.iter().map(bar).collect::<Vec<_>>().join("   ")
}

/// The figures of a run: what was found, what was promised, what others reached.
pub(crate) fn table(figures: &[Figure], colours: bool) -> Vec<String> {
    let rows: Vec<[String; 4]> = figures.iter().map(row).collect();
    let header = ["", "found", "promised", "keepalived + HAProxy"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&header]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let print = |row: &[String; 4]| {
        let [title, found, promised, baseline] = row;
        let [first, second, third] = widths;
        format!("{title:<first$}  {found:>second$}  {promised:>third$}  {baseline}").trim_end().to_owned()
    };
    let mark = |figure: &Figure| match (figure.is_kept(), &figure.promise) {
        (false, _) => paint(colours, Tone::Bad, "✘"),
        (true, Some(_)) => paint(colours, Tone::Good, "✔"),
        (true, None) => " ".to_owned(),
    };
    let mut lines = vec![paint(colours, Tone::Dim, &format!("  {}", print(&header)))];
    lines.extend(figures.iter().zip(&rows).map(|(figure, row)| format!("{} {}", mark(figure), print(row))));
    lines
}

fn row(figure: &Figure) -> [String; 4] {
    let promised = figure.promise.as_ref().map(ToString::to_string).unwrap_or_default();
    let baseline = figure.baseline.unwrap_or_default().to_owned();
    [figure.title.to_owned(), figure.found.to_string(), promised, baseline]
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Found, Promise};
    use super::*;

    fn dial(start: u64, served: bool) -> Dial {
        let outcome = if served { Ok("m1".to_owned()) } else { Err("refused".to_owned()) };
        Dial { start: Duration::from_millis(start), end: Duration::from_millis(start + 1), outcome }
    }

    #[test]
    fn a_timeline_shows_when_dials_failed() {
        let dials = [
            dial(1000, true),
            dial(1049, true),
            dial(1050, true),
            dial(1060, false),
            dial(1120, false),
            dial(1210, true),
        ];
        assert_eq!(timeline(&dials, false), "█▄×·█");
        assert_eq!(timeline(&dials[..1], true), "\x1b[32m█\x1b[0m");
        assert_eq!(timeline(&[], false), "");
        let many: Vec<_> = (0..WIDTH as u64 + 7).map(|mark| dial(mark * 50, mark != 0)).collect();
        assert_eq!(timeline(&many, false), "█".repeat(WIDTH));
    }

    #[test]
    fn bars_are_as_long_as_shares_are_large() {
        let spread =
            |shares: &[(&str, usize)]| shares.iter().map(|&(name, share)| (name.to_owned(), share)).collect();
        assert_eq!(bars(&spread(&[("m1", 100), ("m2", 50)]), 4), "m1 ████ 100   m2 ██   50");
        assert_eq!(bars(&spread(&[("m1", 1), ("m2", 300)]), 4), "m1 █    1   m2 ████ 300");
        assert_eq!(bars(&spread(&[]), 4), "");
    }

    #[test]
    fn the_table_is_aligned_and_marks_what_was_broken() {
        let ms = Duration::from_millis;
        let figures = [
            Figure::new("a", "node killed", Found::Time(ms(318)))
                .promised(Promise::Within(ms(350)))
                .against("331-358 ms"),
            Figure::new("b", "stopped", Found::Time(ms(30))).promised(Promise::Within(ms(20))),
            Figure::new("c", "back as", Found::Word("backup".into())),
        ];
        assert_eq!(
            table(&figures, false),
            [
                "                found  promised  keepalived + HAProxy",
                "✔ node killed  318 ms  ≤ 350 ms  331-358 ms",
                "✘ stopped       30 ms   ≤ 20 ms",
                "  back as      backup",
            ]
        );
    }
}
