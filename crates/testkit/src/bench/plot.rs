//! A plot as SVG: lines over logarithmic axes.

use std::fmt::Write;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called, at its right end.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// One diagram.
#[derive(Clone, Debug)]
pub struct Diagram {
    /// What it shows.
    pub title: String,
    /// What is to the right.
    pub x: String,
    /// What is upwards.
    pub y: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
/// Height of a label.
const LABEL: f64 = 12.0;
const COLOURS: [&str; 8] = ["#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#b9770e", "#16808a", "#5d4037", "#444"];

/// A range of powers of ten that holds values, and where each lies in it, from 0 to 1.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return Self { low: 0, high: 1 };
        }
        let low = low.floor() as i32;
        Self { low, high: (high.ceil() as i32).max(low + 1) }
    }

    fn place(self, value: f64) -> f64 {
        let log = value.max(f64::MIN_POSITIVE).log10().max(f64::from(self.low));
        (log - f64::from(self.low)) / f64::from(self.high - self.low)
    }
}

/// Diagrams side by side.
pub fn svg(diagrams: &[Diagram]) -> String {
    let width = WIDTH * diagrams.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, diagram) in diagrams.iter().enumerate() {
        add(&mut out, &format!("<g transform=\"translate({},0)\">", WIDTH * number as f64));
        draw(&mut out, diagram);
        add(&mut out, "</g>");
    }
    out.push_str("</svg>\n");
    out
}

fn add(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn draw(out: &mut String, diagram: &Diagram) {
    let points = || diagram.lines.iter().flat_map(|line| &line.points);
    let (x, y) = (Axis::over(points().map(|point| point.0)), Axis::over(points().map(|point| point.1)));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let across = |value| LEFT + x.place(value) * (right - LEFT);
    let up = |value| bottom - y.place(value) * (bottom - TOP);
    text(out, (LEFT, 20.0), "start", &diagram.title);
    text(out, ((LEFT + right) / 2.0, HEIGHT - 12.0), "middle", &diagram.x);
    text(out, (LEFT - 46.0, TOP - 6.0), "start", &diagram.y);
    for power in x.low..=x.high {
        let at = across(10_f64.powi(power));
        rule(out, (at, TOP), (at, bottom));
        text(out, (at, bottom + 16.0), "middle", &number(power));
    }
    for power in y.low..=y.high {
        let at = up(10_f64.powi(power));
        rule(out, (LEFT, at), (right, at));
        text(out, (LEFT - 6.0, at + 4.0), "end", &number(power));
    }
    let ends = diagram.lines.iter().filter_map(|line| line.points.last()).map(|point| up(point.1));
    let mut labels = spaced(ends.collect()).into_iter();
    for (line, colour) in diagram.lines.iter().zip(COLOURS.iter().cycle()) {
        let places: Vec<(f64, f64)> = line.points.iter().map(|(a, b)| (across(*a), up(*b))).collect();
        let path: Vec<String> = places.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        let path = path.join(" ");
        add(out, &format!("<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"));
        for (a, b) in &places {
            add(out, &format!("<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"2.5\" fill=\"{colour}\"/>"));
        }
        if let Some((a, _)) = places.last()
            && let Some(b) = labels.next()
        {
            let (a, b) = (a + 6.0, b + 4.0);
            add(out, &format!("<text x=\"{a:.1}\" y=\"{b:.1}\" fill=\"{colour}\">{}</text>", escaped(&line.name)));
        }
    }
}

/// Heights of labels, moved down so far that none covers another.
fn spaced(mut heights: Vec<f64>) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|a, b| heights[*a].total_cmp(&heights[*b]));
    for pair in order.windows(2) {
        heights[pair[1]] = heights[pair[1]].max(heights[pair[0]] + LABEL);
    }
    heights
}

/// A power of ten as one reads it.
fn number(power: i32) -> String {
    match power {
        0..=3 => 10_u32.pow(power as u32).to_string(),
        4..=5 => format!("{}k", 10_u32.pow(power as u32 - 3)),
        6..=8 => format!("{}M", 10_u32.pow(power as u32 - 6)),
        _ => format!("1e{power}"),
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escaped(words);
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>").expect("a string grows");
}

fn rule(out: &mut String, (a, b): (f64, f64), (c, d): (f64, f64)) {
    writeln!(out, "<path d=\"M{a:.1} {b:.1}L{c:.1} {d:.1}\" stroke=\"#ddd\"/>").expect("a string grows");
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_all_values_between_powers_of_ten() {
        let axis = Axis::over([3.0, 250.0].into_iter());
        assert_eq!((axis.low, axis.high), (0, 3));
        assert_eq!((axis.place(1.0), axis.place(1000.0), axis.place(0.0)), (0.0, 1.0, 0.0));
        let (one, none) = (Axis::over([10.0].into_iter()), Axis::over(std::iter::empty()));
        assert_eq!((one.low, one.high, none.low, none.high), (1, 2, 0, 1));
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        assert_eq!(spaced(vec![50.0, 10.0, 12.0, 13.0]), [50.0, 10.0, 22.0, 34.0]);
    }

    #[test]
    fn a_plot_has_each_line_with_its_points() {
        let line = Line { name: "a<b".into(), points: vec![(1e4, 2.0), (1e6, 3.0)] };
        let diagram = Diagram { title: "t".into(), x: "files".into(), y: "us".into(), lines: vec![line] };
        let plot = svg(&[diagram.clone(), diagram]);
        assert_eq!(plot.matches("<polyline").count(), 2);
        assert_eq!(plot.matches("<circle").count(), 4);
        assert!(plot.contains("a&lt;b") && plot.contains("10k") && plot.trim_end().ends_with("</svg>"), "{plot}");
    }
}
