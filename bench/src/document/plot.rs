//! A plot of a section: each figure as a part of its bar.

use super::{Bar, Comparison, Section};
use crate::statistics::Summary;

const WIDTH: f64 = 960.0;
/// Where the scale begins and ends, from the left.
const LEFT: f64 = 430.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 56.0;
const LINE: f64 = 20.0;
/// The scale: a quarter of the bar to four times the bar. What lies beyond is drawn at the edge.
const REACH: f64 = 4.0;
const BAR: &str = "bar";
const MARKS: [(f64, &str); 5] = [(0.25, "¼"), (0.5, "½"), (1.0, BAR), (2.0, "2"), (4.0, "4")];

/// SVG: a line from the lowest to the highest of every figure that has a bar, with a dot at the median; further to the
/// right is better. `None` where nothing has a bar.
pub(super) fn plot(section: &Section) -> Option<String> {
    let shown: Vec<(&Comparison, Summary, Bar)> = section
        .comparisons
        .iter()
        .filter_map(|comparison| Some((comparison, comparison.value?, comparison.bar?)))
        .collect();
    if shown.is_empty() {
        return None;
    }
    let bottom = TOP + LINE * rows(shown.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n",
        bottom + 16.0,
        escaped(&section.title)
    );
    svg.extend(MARKS.map(|(part, name)| mark(part, name, bottom)));
    for (position, (comparison, value, bar)) in shown.into_iter().enumerate() {
        svg.push_str(&row(comparison, value, bar, TOP + LINE * (rows(position) + 0.5)));
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A vertical line of the scale.
fn mark(part: f64, name: &str, bottom: f64) -> String {
    let (x, stroke) = (at(part), if name == BAR { "#333" } else { "#ddd" });
    format!(
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{bottom:.0}\" stroke=\"{stroke}\"/>\
         <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{name}</text>\n",
        TOP - 8.0,
        TOP - 12.0
    )
}

fn row(comparison: &Comparison, value: Summary, bar: Bar, y: f64) -> String {
    let colour = if bar.is_reached(value.median) { "#0a7d38" } else { "#c0392b" };
    let beside =
        if comparison.beside.is_empty() { String::new() } else { format!(" : {}", comparison.beside) };
    let [lowest, median, highest] =
        [value.lowest, value.median, value.highest].map(|figure| at(part(figure, bar)));
    format!(
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
         <line x1=\"{lowest:.1}\" x2=\"{highest:.1}\" y1=\"{y:.0}\" y2=\"{y:.0}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
         <circle cx=\"{median:.1}\" cy=\"{y:.0}\" r=\"5\" fill=\"{colour}\"/>\n",
        LEFT - 14.0,
        y + 4.0,
        escaped(&format!("{}{beside}", comparison.what))
    )
}

/// A figure as a part of its bar, more being better.
fn part(figure: f64, bar: Bar) -> f64 {
    match bar {
        Bar::AtLeast(bar) => figure / bar,
        Bar::AtMost(bar) => bar / figure,
    }
}

/// Where it is on the scale, which is logarithmic.
fn at(part: f64) -> f64 {
    let part = if part.is_nan() { 1.0 } else { part.clamp(1.0 / REACH, REACH) };
    LEFT + (RIGHT - LEFT) * (part.ln() / REACH.ln() + 1.0) / 2.0
}

fn rows(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{comparison, document};
    use super::*;

    #[test]
    fn better_is_to_the_right_whichever_way_the_bar_is() {
        assert!(part(2.0, Bar::AtLeast(1.0)) > part(1.0, Bar::AtLeast(1.0)));
        assert!(part(2.0, Bar::AtMost(1.0)) < part(1.0, Bar::AtMost(1.0)));
        for (part, x) in [(1.0, f64::midpoint(LEFT, RIGHT)), (4.0, RIGHT), (9.0, RIGHT), (0.0, LEFT)] {
            assert!((at(part) - x).abs() < 1e-6, "{part}: {}", at(part));
        }
        assert!((at(part(0.0, Bar::AtMost(2.0))) - RIGHT).abs() < 1e-6, "nothing is the best of costs");
    }

    #[test]
    fn what_has_a_bar_and_ran_is_plotted() {
        let mut section = document().sections[0].clone();
        section.title = "A < B & C".to_owned();
        let svg = plot(&section).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        assert!(svg.contains("A &lt; B &amp; C"), "{svg}");
        section.comparisons = vec![comparison(&[1.0], None)];
        assert_eq!(plot(&section), None);
    }
}
