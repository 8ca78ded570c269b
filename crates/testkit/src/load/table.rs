//! A table of medians, with ratios.

use std::collections::HashMap;

/// The values of each figure (a line of the table) and way (a column), one for each round.
#[derive(Debug, Default)]
pub struct Results(HashMap<(&'static str, &'static str), Vec<f64>>);

impl Results {
    /// Adds a value of one round.
    pub fn add(&mut self, figure: &'static str, way: &'static str, value: f64) {
        self.0.entry((figure, way)).or_default().push(value);
    }

    /// Returns whether a way has a value of this figure.
    pub fn has(&self, figure: &str) -> bool {
        self.0.keys().any(|(of, _)| *of == figure)
    }

    /// Returns a line of the table: the median of each way. Behind it, if `ratios` returns other
    /// ways for it, how many times each of theirs it is, as the median over the rounds.
    pub fn line<'a>(
        &self,
        figure: &'static str,
        ways: &[&'static str],
        ratios: impl Fn(&str) -> Vec<(&'a str, &'a str)>,
    ) -> String {
        let mut line = format!("| {figure} |");
        for way in ways {
            let values = self.0.get(&(figure, *way));
            line += " ";
            line += &values.map_or_else(|| "–".to_owned(), |values| short(median(values.clone())));
            let shown: Vec<String> = ratios(way)
                .iter()
                .filter_map(|(ours, other)| self.ratio(figure, ours, other))
                .map(|ratio| format!("×{ratio:.2}"))
                .collect();
            if !shown.is_empty() {
                line += &format!(" ({})", shown.join(", "));
            }
            line += " |";
        }
        line
    }

    fn ratio(&self, figure: &str, ours: &str, other: &str) -> Option<f64> {
        let values = |way| {
            let of = self
                .0
                .iter()
                .find(|((of, by), _)| *of == figure && *by == way);
            of.map(|(_, values)| values)
        };
        let pairs = values(ours)?.iter().zip(values(other)?);
        let ratio = median(pairs.map(|(ours, other)| ours / other).collect());
        (!ratio.is_nan()).then_some(ratio)
    }
}

/// Returns the head of a table with these columns.
pub fn head(ways: &[&str]) -> String {
    let lines = "---|".repeat(ways.len() + 1);
    format!("| measurement | {} |\n|{lines}", ways.join(" | "))
}

/// Returns the median; NaN of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn short(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        0.0..1.0 => 4,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}
