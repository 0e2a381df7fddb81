//! Histograms with fixed bounds, and bars of them for people.

use serde::{Deserialize, Serialize};

/// Counts of numbers between bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The bounds; a number at a bound counts above it.
    bounds: Vec<f64>,
    /// Below the first bound, between two each, and from the last on.
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty one. `bounds` ascend.
    pub fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.to_vec(),
            counts: vec![0; bounds.len() + 1],
        }
    }

    /// Counts a number.
    pub fn add(&mut self, value: f64) {
        let at = self.bounds.partition_point(|&bound| bound <= value);
        self.counts[at] += 1;
    }

    /// All that was counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A line for each range from the first to the last that holds something: the range, a bar and
    /// the count.
    pub fn lines(&self) -> Vec<String> {
        let filled = |count: &u64| *count > 0;
        let Some(first) = self.counts.iter().position(filled) else {
            return Vec::new();
        };
        let last = self.counts.iter().rposition(filled).unwrap_or(first);
        let most = self.counts.iter().max().copied().unwrap_or(1).max(1);
        (first..=last)
            .map(|at| {
                let count = self.counts[at];
                let length = (count * BAR).div_ceil(most) as usize;
                let bar = "#".repeat(length);
                format!(
                    "{:>14}  {bar:<width$} {count}",
                    self.label(at),
                    width = BAR as usize
                )
            })
            .collect()
    }

    fn label(&self, at: usize) -> String {
        match (
            at.checked_sub(1).map(|below| self.bounds[below]),
            self.bounds.get(at),
        ) {
            (None, Some(to)) => format!("below {to}"),
            (Some(from), Some(to))
                if to - from == 1.0 && from.fract() == 0.0 && from > 0.0 && *to <= 3.0 =>
            {
                format!("{from}")
            }
            (Some(from), Some(to)) => format!("{from} to {to}"),
            (Some(from), None) => format!("from {from}"),
            (None, None) => "all".into(),
        }
    }
}

/// Letters of the longest bar.
const BAR: u64 = 40;

/// What is counted of all rows of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// Pixels of the shorter side.
    pub side: Histogram,
    /// Width over height.
    pub aspect: Histogram,
    /// Seconds of videos.
    pub seconds: Histogram,
    /// Frames per second of videos.
    pub fps: Histogram,
    /// Characters of captions.
    pub caption: Histogram,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            side: Histogram::new(&[
                32.0, 64.0, 128.0, 192.0, 256.0, 384.0, 512.0, 720.0, 1080.0, 2160.0,
            ]),
            aspect: Histogram::new(&[0.5, 0.7, 0.9, 1.1, 1.4, 1.7, 2.0]),
            seconds: Histogram::new(&[0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0]),
            fps: Histogram::new(&[8.0, 12.0, 16.0, 21.0, 24.5, 30.5, 60.5]),
            caption: Histogram::new(&[1.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]),
        }
    }
}

impl Histograms {
    /// Counts a row's picture. `fps` and `seconds` count for videos.
    pub(crate) fn picture(&mut self, [height, width]: [usize; 2], video: Option<[f64; 2]>) {
        self.side.add(height.min(width) as f64);
        self.aspect.add(width as f64 / height.max(1) as f64);
        if let Some([fps, seconds]) = video {
            self.fps.add(fps);
            self.seconds.add(seconds);
        }
    }

    /// The histograms that hold something, with titles, as lines.
    pub fn lines(&self) -> Vec<String> {
        let titled = [
            ("shorter side, pixels", &self.side),
            ("width / height", &self.aspect),
            ("seconds of videos", &self.seconds),
            ("frames per second", &self.fps),
            ("characters of captions", &self.caption),
        ];
        let mut lines = Vec::new();
        for (title, histogram) in titled.into_iter().filter(|(_, of)| of.total() > 0) {
            lines.push(format!("{title}:"));
            lines.extend(histogram.lines());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_between_their_bounds() {
        let mut histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        assert!(histogram.lines().is_empty());
        for value in [0.0, 1.0, 1.5, 3.9, 4.0, 1e9] {
            histogram.add(value);
        }
        assert_eq!(histogram.counts, [1, 2, 1, 2]);
        assert_eq!(histogram.total(), 6);
        let lines = histogram.lines();
        assert!(
            lines[0].contains("below 1") && lines[0].ends_with(" 1"),
            "{lines:?}"
        );
        assert!(
            lines[3].contains("from 4") && lines[3].contains(&"#".repeat(40)),
            "{lines:?}"
        );
    }
}
