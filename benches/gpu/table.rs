//! The table of figures, beside their bounds and the limits of the hardware, and the list of wrong
//! results.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::world::Outcome;

/// The samples of one figure, all in one unit.
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self::new(self.0.iter().copied().map(change).collect())
    }

    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn text(&self) -> String {
        match (self.0.first(), self.0.last()) {
            (Some(least), Some(most)) => {
                let (least, most) = (number(*least), number(*most));
                format!("{} [{least} .. {most}]", number(self.median()))
            }
            _ => "not measured".into(),
        }
    }
}

/// Formats a number with about four digits.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

struct Row {
    figure: String,
    bound: String,
    measured: String,
    limit: String,
    met: &'static str,
}

/// The table, and the remarks outside of it.
pub struct Table {
    rows: Vec<Row>,
    wrong: Vec<String>,
    end: Instant,
}

impl Table {
    /// Creates a table with a time limit, after which no new figure begins.
    pub fn new(limit: Duration) -> Self {
        Self {
            rows: Vec::new(),
            wrong: Vec::new(),
            end: Instant::now() + limit,
        }
    }

    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Adds a figure without a bound.
    pub fn tell(&mut self, figure: &str, unit: &str, samples: &Samples, limit: &str) {
        self.row(
            figure,
            "-",
            &format!("{} {unit}", samples.text()),
            limit,
            "-",
        );
    }

    /// Adds a figure whose median must be at least `least`.
    pub fn judge(&mut self, figure: &str, unit: &str, samples: &Samples, least: f64, limit: &str) {
        let met = if samples.median() >= least {
            "yes"
        } else {
            "NO"
        };
        let bound = format!(">= {} {unit}", number(least));
        let measured = format!("{} {unit}", samples.text());
        self.row(figure, &bound, &measured, limit, met);
    }

    pub fn not_measured(&mut self, figure: &str, why: &str) {
        self.row(figure, "-", "not measured", why, "-");
    }

    /// Reports a wrong result, which no speed excuses.
    pub fn wrong(&mut self, what: String) {
        println!("WRONG: {what}");
        self.wrong.push(what);
    }

    /// Reports an error as a wrong result, because no figure is expected to fail. Later figures
    /// still run.
    pub fn noted<T>(&mut self, figure: &str, outcome: Outcome<T>) -> Option<T> {
        let mut error: &(dyn Error + 'static) = match &outcome {
            Ok(_) => return outcome.ok(),
            Err(error) => &**error,
        };
        let mut text = format!("{figure}: {error}");
        while let Some(cause) = error.source() {
            text.push_str(&format!(": {cause}"));
            error = cause;
        }
        self.wrong(text);
        None
    }

    fn row(&mut self, figure: &str, bound: &str, measured: &str, limit: &str, met: &'static str) {
        println!("{figure}: {measured} ({bound}; {limit})");
        self.rows.push(Row {
            figure: figure.to_owned(),
            bound: bound.to_owned(),
            measured: measured.to_owned(),
            limit: limit.to_owned(),
            met,
        });
    }

    /// Prints the table. Returns whether there was no wrong result.
    pub fn print(&self) -> bool {
        println!("\n| figure | bound | measured: median [least .. most] | compared with | met |");
        println!("|---|---|---|---|---|");
        for row in &self.rows {
            let Row {
                figure,
                bound,
                measured,
                limit,
                met,
            } = row;
            println!("| {figure} | {bound} | {measured} | {limit} | {met} |");
        }
        println!();
        for what in &self.wrong {
            println!("WRONG: {what}");
        }
        if self.wrong.is_empty() {
            println!(
                "no wrong result: every digest is the CPU's, and no incident that was not asked for"
            );
        }
        self.wrong.is_empty()
    }
}
