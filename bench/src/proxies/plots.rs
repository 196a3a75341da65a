//! The results as bars: one panel for each workload, the median as a bar, the spread as a line.
//!
//! Written by hand, because a library for plots would be larger than all that is measured here.

use std::fmt::Write as _;

use crate::proxies::contenders::{Contender, Side};
use crate::proxies::results::Spread;

/// All bars of one workload.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<(Contender, Spread)>,
}

/// Sizes in pixels.
const PANEL_WIDTH: usize = 460;
const BAR_HEIGHT: usize = 16;
const NAME_WIDTH: usize = 160;
const VALUE_WIDTH: usize = 60;
const HEAD: usize = 34;
const COLUMNS: usize = 2;

/// A whole picture; `title` says what the bars are.
pub(crate) fn picture(title: &str, panels: &[Panel]) -> String {
    let rows: Vec<usize> = panels
        .chunks(COLUMNS)
        .map(|row| row.iter().map(height).max().unwrap_or_default())
        .collect();
    let (width, height) = (PANEL_WIDTH * COLUMNS, HEAD + rows.iter().sum::<usize>());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    let mut top = HEAD;
    for (row, panels) in panels.chunks(COLUMNS).enumerate() {
        for (column, panel) in panels.iter().enumerate() {
            draw(&mut svg, panel, column * PANEL_WIDTH, top);
        }
        top += rows[row];
    }
    svg + "</svg>\n"
}

fn height(panel: &Panel) -> usize {
    HEAD + panel.bars.len() * BAR_HEIGHT
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn draw(svg: &mut String, panel: &Panel, left: usize, top: usize) {
    // Writing to a string does not fail.
    let (x, y) = (left + 10, top + 16);
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" font-weight=\"bold\">{}</text>", panel.title);
    let most = panel.bars.iter().map(|(_, spread)| spread.most).fold(0.0, f64::max);
    let room = (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH) as f64;
    let start = (left + NAME_WIDTH) as f64;
    let at = |value: f64| if most > 0.0 { start + value / most * room } else { start };
    for (number, (contender, spread)) in panel.bars.iter().enumerate() {
        let top = top + 24 + number * BAR_HEIGHT;
        let (text, middle) = (top + 11, top + BAR_HEIGHT / 2 - 1);
        let (end, bar) = (start - 6.0, at(spread.median) - start);
        let color = color(*contender);
        let _ = writeln!(
            svg,
            "<text x=\"{end:.0}\" y=\"{text}\" text-anchor=\"end\">{contender}</text>\
             <rect x=\"{start:.0}\" y=\"{top}\" width=\"{bar:.1}\" height=\"13\" fill=\"{color}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            at(spread.least),
            at(spread.most),
            at(spread.most) + 4.0,
            value(spread.median),
        );
    }
}

fn value(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn color(contender: Contender) -> &'static str {
    match contender.side() {
        None => "#b0b0b0",
        Some(Side::Floor) => "#d8d8d8",
        Some(Side::Peer) => "#e8a860",
        Some(Side::Ours) => "#4a90c0",
    }
}
