//! Numbers over time in a terminal: a row per series, its last value, and a small plot.

use std::fmt::Write;

use super::style::{Style, duration, tame};
use super::table;
use crate::spire::metrics::Unit;
use crate::steps::metrics::{Metrics, PanelValues, Series};

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const LETTERS: [char; 8] = ['_', '.', '-', ':', '=', '+', '*', '#'];
/// The widest plot.
const WIDEST: usize = 30;
/// Columns beside the plot; a terminal that has no more gets none.
const BESIDE: usize = 68;

/// Targets, then a table, then what is amiss.
pub(super) fn render(metrics: &Metrics, style: Style, width: Option<u16>) -> String {
    let up = metrics.targets.iter().filter(|target| target.up).count();
    let mut text = format!("targets: {up} of {} up\n", metrics.targets.len());
    // Writing to a String cannot fail.
    for target in metrics.targets.iter().filter(|target| !target.up) {
        let _ = writeln!(
            text,
            "  {} {} ({}): {}",
            style.failed_mark(),
            tame(&target.pod),
            tame(&target.url),
            tame(&target.error)
        );
    }
    for namespace in &metrics.blind {
        let _ = writeln!(
            text,
            "  {} no target in {namespace}: its PodMonitor selects nothing, or Prometheus has not read it yet",
            style.failed_mark()
        );
    }
    let plot_width = width.map_or(WIDEST, |width| usize::from(width).saturating_sub(BESIDE).min(WIDEST));
    let mut rows = Vec::new();
    let mut silent = Vec::new();
    for panel in &metrics.panels {
        if panel.series.iter().all(|series| series.values.is_empty()) {
            silent.push(panel.title);
            continue;
        }
        rows.extend(panel.series.iter().map(|series| row(panel, series, plot_width, style)));
    }
    let last = format!("last {}", duration(u64::try_from(metrics.window_s).unwrap_or(0) * 1000));
    let head = ["metric", "of", "now", "least", "most", &last];
    let columns = if plot_width < 5 { 5 } else { 6 };
    let cut: Vec<Vec<String>> =
        rows.into_iter().map(|row: Vec<String>| row.into_iter().take(columns).collect()).collect();
    text.push('\n');
    text.push_str(&table::render(&head[..columns], &cut, width));
    if !silent.is_empty() {
        let _ = writeln!(text, "\nno data: {}", silent.join("; "));
    }
    text
}

fn row(panel: &PanelValues, series: &Series, width: usize, style: Style) -> Vec<String> {
    let values = &series.values;
    let now = values.last().copied().unwrap_or(0.0);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let say = |value| if values.is_empty() { String::new() } else { spelt(value, panel.unit) };
    let mark = if panel.is_trouble && now > 0.0 && !series.ended { " (!)" } else { "" };
    vec![
        format!("{}{mark}", panel.title),
        tame(&series.of),
        if series.ended { "gone".to_owned() } else { say(now) },
        say(least),
        say(most),
        plot(values, width, if style.unicode { &BLOCKS } else { &LETTERS }),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a value for people; it is cut off at 0")]
fn spelt(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => signed(value, duration((value.abs() * 1000.0) as u64)),
        Unit::Milliseconds => duration(value.max(0.0) as u64),
        Unit::Count => format!("{value:.0}"),
        Unit::PerMinute => format!("{value:.1}/min"),
    }
}

fn signed(value: f64, text: String) -> String {
    if value < 0.0 { format!("-{text}") } else { text }
}

/// `values` squeezed into `width` columns, each the mean of its share, from the least to the most. A flat line is in
/// the middle: it is neither low nor high.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "picks one of eight heights"
)]
fn plot(values: &[f64], width: usize, heights: &[char; 8]) -> String {
    let columns = values.len().min(width);
    let means: Vec<f64> = (0..columns)
        .map(|column| {
            let share = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
            share.iter().sum::<f64>() / share.len() as f64
        })
        .collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let most = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let height = |mean: &f64| {
        let part = (mean - least) / (most - least);
        if part.is_finite() { heights[((part * 7.0).round() as usize).min(7)] } else { heights[3] }
    };
    means.iter().map(height).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::metrics::Target;

    fn metrics() -> Metrics {
        let panel = |title, unit, is_trouble, series| PanelValues {
            id: "x",
            title,
            unit,
            is_trouble,
            query: "x".into(),
            series,
        };
        let series = |of: &str, values: &[f64]| Series { of: of.into(), values: values.to_vec(), ended: false };
        Metrics {
            schema: 1,
            window_s: 3600,
            targets: vec![
                Target {
                    monitor: "a/b".into(),
                    pod: "spire-server-0".into(),
                    url: "http://10.0.0.1:9988".into(),
                    up: true,
                    error: String::new(),
                },
                Target {
                    monitor: "a/b".into(),
                    pod: "spire-server-1".into(),
                    url: "http://10.0.0.2:9988".into(),
                    up: false,
                    error: "connection refused".into(),
                },
            ],
            blind: vec!["spire-system".into()],
            panels: vec![
                panel(
                    "X.509 CA: time left",
                    Unit::Seconds,
                    false,
                    vec![series("spire-server-0", &[7200.0, 3600.0, -5.0])],
                ),
                panel("agents refused", Unit::Count, true, vec![series("Unauthenticated", &[0.0, 0.0, 2.0])]),
                panel("agent up for", Unit::Milliseconds, false, vec![]),
            ],
            remarks: Vec::new(),
        }
    }

    #[test]
    fn with_and_without_unicode_and_in_twenty_columns() {
        let plain = Style { colour: false, unicode: true };
        insta::assert_snapshot!(render(&metrics(), plain, None), @r"
        targets: 1 of 2 up
          ✗ spire-server-1 (http://10.0.0.2:9988): connection refused
          ✗ no target in spire-system: its PodMonitor selects nothing, or Prometheus has not read it yet

        METRIC               OF               NOW    LEAST  MOST    LAST 1H 00M
        X.509 CA: time left  spire-server-0   -5.0s  -5.0s  2h 00m  █▅▁
        agents refused (!)   Unauthenticated  2      0      2       ▁▁█

        no data: agent up for
        ");
        let ascii = render(&metrics(), Style { colour: false, unicode: false }, Some(120));
        assert!(ascii.is_ascii(), "{ascii}");
        let narrow = render(&metrics(), plain, Some(20));
        assert!(!narrow.contains('▁') && narrow.contains("no data: agent up for"), "{narrow}");
    }

    #[test]
    fn a_plot_shows_shape_in_the_room_there_is() {
        let rows: [(&[f64], usize, &str); 6] = [
            (&[], 10, ""),
            (&[5.0, 5.0], 10, "▄▄"),
            (&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, "▁▂▃▄▅▆▇█"),
            (&[0.0, 0.0, 7.0, 7.0], 2, "▁█"),
            (&[-1.0, 1.0], 10, "▁█"),
            (&[1.0, 2.0], 0, ""),
        ];
        for (values, width, expected) in rows {
            assert_eq!(plot(values, width, &BLOCKS), expected, "{values:?}");
        }
    }
}
