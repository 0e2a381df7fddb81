//! The tracker of a training run: rows to the file, progress to the console.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::TrackError;
use crate::console::{Bar, Console, Screen};
use crate::metrics::{Metrics, step_of};

const NOTES: &str = "notes.log";

/// Keeps the records of one run. Only rank 0 has one.
pub struct Tracker {
    metrics: Metrics,
    notes: File,
    notes_path: PathBuf,
    screen: Screen,
    bar: Bar,
    last: Option<u64>,
}

impl Tracker {
    /// Opens the records in a run's folder, which is created if need be.
    ///
    /// With `resume_step`, `metrics.jsonl` goes on behind that step, and rows of later steps are
    /// dropped; without, an older file is set aside as `metrics.1.jsonl` (2, 3 ...). `total_steps`
    /// is the step at which the run ends.
    ///
    /// # Errors
    /// [`TrackError::Io`].
    pub fn open(
        dir: &Path,
        resume_step: Option<u64>,
        total_steps: u64,
        console: Console,
    ) -> Result<Self, TrackError> {
        Self::open_on(Screen::open(console), dir, resume_step, total_steps)
    }

    fn open_on(
        screen: Screen,
        dir: &Path,
        resume_step: Option<u64>,
        total_steps: u64,
    ) -> Result<Self, TrackError> {
        let (metrics, kept) = Metrics::open(dir, resume_step)?;
        let notes_path = dir.join(NOTES);
        let notes = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&notes_path)
            .map_err(TrackError::io("open", &notes_path))?;
        let bar = screen.bar(resume_step.unwrap_or(0), total_steps, "step");
        let mut tracker = Self {
            metrics,
            notes,
            notes_path,
            screen,
            bar,
            last: resume_step,
        };
        if let Some(step) = resume_step {
            let (kept, dropped) = (kept.kept, kept.dropped);
            tracker.note(&format!(
                "resumed behind step {step}: {kept} rows kept, {dropped} dropped"
            ))?;
        }
        Ok(tracker)
    }

    /// Records a step. `row` is a struct with `step: u64`, later than the last; its fields become
    /// the line's, in their order. Numbers that JSON lacks (NaN, infinity) become null.
    ///
    /// The console shows `loss` and `samples_per_second` where the row has them.
    ///
    /// # Errors
    /// [`TrackError::Row`], [`TrackError::Order`], [`TrackError::Io`].
    pub fn step<R: Serialize>(&mut self, row: &R) -> Result<(), TrackError> {
        let no_row = |what: String| TrackError::Row { what };
        let line = serde_json::to_string(row).map_err(|error| no_row(error.to_string()))?;
        let row: Value = serde_json::from_str(&line).map_err(|error| no_row(error.to_string()))?;
        let step = step_of(&row).ok_or_else(|| no_row(line.clone()))?;
        if let Some(last) = self.last.filter(|&last| step <= last) {
            return Err(TrackError::Order { last, step });
        }
        self.metrics.append(&line)?;
        self.last = Some(step);
        self.bar.say(step, console_text(&row));
        Ok(())
    }

    /// Records an event in words: to the console, and with the step to `notes.log`.
    ///
    /// # Errors
    /// [`TrackError::Io`].
    pub fn note(&mut self, text: &str) -> Result<(), TrackError> {
        self.screen.print(text);
        let line = format!("step {}: {text}\n", self.last.unwrap_or(0));
        self.notes
            .write_all(line.as_bytes())
            .map_err(TrackError::io("write", &self.notes_path))
    }

    /// A second bar under the run's own, for a preview, an evaluation or a save.
    pub fn progress(&self, total: u64, what: &str) -> Bar {
        self.screen.bar(0, total, what)
    }

    /// Ends the records: returns when the disk has them.
    ///
    /// # Errors
    /// [`TrackError::Io`].
    pub fn finish(self) -> Result<(), TrackError> {
        self.metrics.sync()?;
        self.notes
            .sync_all()
            .map_err(TrackError::io("sync", &self.notes_path))?;
        self.bar.finish();
        Ok(())
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker")
            .field("metrics", &self.metrics)
            .field("last", &self.last)
            .finish()
    }
}

fn console_text(row: &Value) -> String {
    let mut parts = Vec::new();
    match row.get("loss") {
        Some(Value::Null) => parts.push("loss not finite".to_owned()),
        Some(loss) => parts.extend(loss.as_f64().map(|loss| format!("loss {loss:.4}"))),
        None => {}
    }
    let rate = row.get("samples_per_second").and_then(Value::as_f64);
    parts.extend(rate.map(|rate| format!("{rate:.2} samples/s")));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::console::tests::Paper;

    #[derive(Serialize)]
    struct Row {
        step: u64,
        loss: f32,
        samples_per_second: f64,
    }

    fn row(step: u64, loss: f32) -> Row {
        Row {
            step,
            loss,
            samples_per_second: 12.345,
        }
    }

    #[test]
    fn rows_are_lines_in_the_order_of_the_fields() {
        let dir = tempfile::tempdir().unwrap();
        let paper = Paper::default();
        let mut tracker = Tracker::open_on(paper.screen(), dir.path(), None, 3).unwrap();
        tracker.step(&row(1, 0.1)).unwrap();
        // Each line is in the file as soon as it is given.
        let path = dir.path().join("metrics.jsonl");
        let first = "{\"step\":1,\"loss\":0.1,\"samples_per_second\":12.345}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        tracker.step(&row(2, f32::NAN)).unwrap();
        tracker.note("saved step 2").unwrap();
        tracker.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("{\"step\":2,\"loss\":null,\"samples_per_second\":12.345}\n"),
            "{text}"
        );
        assert_eq!(
            paper.lines(),
            ["step 1/3  loss 0.1000  12.35 samples/s", "saved step 2"]
        );
        let notes = fs::read_to_string(dir.path().join("notes.log")).unwrap();
        assert_eq!(notes, "step 2: saved step 2\n");
    }

    #[test]
    fn a_run_killed_twice_has_each_step_once() {
        let dir = tempfile::tempdir().unwrap();
        for (resume, steps) in [(None, 1..=5), (Some(3), 4..=8), (Some(6), 7..=9)] {
            let mut tracker = Tracker::open(dir.path(), resume, 9, Console::Silent).unwrap();
            for step in steps {
                tracker.step(&row(step, 1.0)).unwrap();
            }
        }
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| step_of(&serde_json::from_str(line).unwrap()).unwrap())
            .collect();
        assert_eq!(steps, (1..=9).collect::<Vec<_>>());
        let notes = fs::read_to_string(dir.path().join("notes.log")).unwrap();
        assert!(
            notes.contains("step 6: resumed behind step 6: 6 rows kept, 2 dropped"),
            "{notes}"
        );
    }

    #[test]
    fn rows_without_a_step_or_out_of_order_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut tracker = Tracker::open(dir.path(), Some(5), 9, Console::Silent).unwrap();
        for bad in [json!({ "loss": 1.0 }), json!({ "step": -1 }), json!([1, 2])] {
            let error = tracker.step(&bad).unwrap_err();
            assert!(matches!(error, TrackError::Row { .. }), "{error}");
        }
        let error = tracker.step(&row(5, 1.0)).unwrap_err();
        assert!(
            matches!(error, TrackError::Order { last: 5, step: 5 }),
            "{error}"
        );
        tracker.step(&row(6, 1.0)).unwrap();
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1, "refused rows leave no line");
    }
}
