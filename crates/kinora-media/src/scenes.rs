//! Where one scene ends and the next begins, as frames come in one by one.

use std::collections::VecDeque;

use crate::analyse::{Analysis, Scene};
use crate::look::Look;

/// Finds cuts. Frames are judged a fifth of a second after they came, when what follows is known.
pub(crate) struct Scenes {
    analysis: Analysis,
    /// How many frames before and after a cut are looked at.
    reach: usize,
    /// Frames around the one that is judged next.
    near: VecDeque<Frame>,
    /// Where in `near` that one is.
    next: usize,
    current: Building,
    /// A stretch of black that is not over.
    dark: Option<Dark>,
    done: Vec<Scene>,
}

struct Frame {
    look: Look,
    shown: [f64; 2],
    /// What is new in it after the frame before it, 0 to 1.
    news: f64,
}

struct Dark {
    building: Building,
    /// The last frame that was not black; `None` at the clip's beginning.
    before: Option<Look>,
    frames: usize,
}

/// Darker and flatter than this, in parts of 1, a picture is black.
const BLACK: [f64; 2] = [0.03, 0.02];
/// Seconds before and after a cut that are looked at.
const AROUND: f64 = 0.2;

impl Scenes {
    /// For a clip of `fps` frames per second.
    pub(crate) fn new(analysis: Analysis, fps: f64) -> Self {
        Self {
            analysis,
            reach: (AROUND * fps).round().clamp(2.0, 12.0) as usize,
            near: VecDeque::new(),
            next: 0,
            current: Building::default(),
            dark: None,
            done: Vec::new(),
        }
    }

    /// Takes the next frame, which is shown from one second to another.
    pub(crate) fn push(&mut self, look: Look, shown: [f64; 2]) {
        let news = self.near.back().map_or(0.0, |before| {
            // What is new is never much more than what changed, and takes longer to tell.
            let change = look.change(&before.look);
            if change < self.analysis.threshold / 4.0 {
                change
            } else {
                look.news(&before.look)
            }
        });
        self.near.push_back(Frame { look, shown, news });
        if self.near.len() > self.next + self.reach {
            self.judge();
        }
        if self.near.len() > 2 * self.reach + 1 && self.next > self.reach {
            self.near.pop_front();
            self.next -= 1;
        }
    }

    /// The scenes of a clip that ends at a second.
    pub(crate) fn finish(mut self, end: f64) -> Vec<Scene> {
        while self.next < self.near.len() {
            self.judge();
        }
        if let Some(dark) = self.dark.take() {
            self.leave(dark, end);
        }
        if self.current.frames > 0 {
            self.done.push(self.current.scene(end));
        }
        self.done
    }

    /// Decides whether a scene begins with the next frame, and counts it in.
    fn judge(&mut self) {
        let cut = self.cut(self.next);
        let frame = &self.near[self.next];
        let start = frame.shown[0];
        let before = self.next.checked_sub(1).map(|at| &self.near[at].look);
        if black(&frame.look) {
            let dark = self.dark.get_or_insert_with(|| Dark {
                building: Building::default(),
                before: before.cloned(),
                frames: 0,
            });
            dark.frames += 1;
            dark.building.add(frame, self.analysis.fps);
            self.next += 1;
            return;
        }
        if let Some(dark) = self.dark.take() {
            let dropout = dark.frames <= self.reach
                && dark.before.as_ref().is_some_and(|before| {
                    frame.look.news(before) < self.analysis.threshold
                        && before.brightness > 2.0 * BLACK[0]
                });
            let at_once = dark.before.is_none();
            let long = self.leave(dark, start);
            if !dropout && (long || !at_once) {
                self.split(start);
            }
        } else if cut {
            self.split(start);
        }
        self.current.add(&self.near[self.next], self.analysis.fps);
        self.next += 1;
    }

    /// Ends a stretch of black at a second: a scene of its own if it is long, or else a part of the
    /// one before it. Returns whether it is long.
    fn leave(&mut self, dark: Dark, end: f64) -> bool {
        let long = end - dark.building.start >= self.analysis.shortest;
        if long {
            self.split(dark.building.start);
        }
        self.current.join(dark.building);
        long
    }

    /// Ends the current scene, unless it would be too short.
    fn split(&mut self, at: f64) {
        // A hair, since times are sums of rounded numbers.
        if self.current.frames > 0 && at - self.current.start >= self.analysis.shortest - 1e-6 {
            let scene = std::mem::take(&mut self.current);
            self.done.push(scene.scene(at));
        }
    }

    fn cut(&self, at: usize) -> bool {
        let frame = &self.near[at];
        // Nor is a last frame by itself a scene.
        if at == 0 || at + 1 == self.near.len() || frame.news < self.analysis.threshold {
            return false;
        }
        let first = at.saturating_sub(self.reach);
        let last = (at + self.reach).min(self.near.len() - 1);
        // The first of all frames has none before it to be compared with.
        let around: Vec<f64> = (first.max(1)..=last)
            .filter(|&other| other != at)
            .map(|other| self.near[other].news)
            .collect();
        let mean = around.iter().sum::<f64>() / around.len().max(1) as f64;
        if frame.news < self.analysis.ratio * mean {
            return false;
        }
        // After a flash, also one that dies away over some frames, comes what was there before it.
        let returns = (first..at).rev().any(|before| {
            let before = &self.near[before].look;
            (at..=last).any(|after| self.near[after].look.news(before) < frame.news / 2.0)
        });
        !returns
    }
}

fn black(look: &Look) -> bool {
    look.brightness < BLACK[0] && look.contrast < BLACK[1]
}

/// Sums over the frames of a scene.
#[derive(Default)]
struct Building {
    start: f64,
    frames: usize,
    brightness: f64,
    contrast: f64,
    motion: f64,
    steps: usize,
    /// The picture at the last instant at which motion was measured.
    seen: Option<Look>,
    /// Of each frame, since the middle one is known only at the end.
    hashes: Vec<u64>,
}

impl Building {
    fn add(&mut self, frame: &Frame, fps: f64) {
        let [start, end] = frame.shown;
        if self.frames == 0 {
            self.start = start;
        }
        self.frames += 1;
        self.brightness += frame.look.brightness;
        self.contrast += frame.look.contrast;
        self.hashes.push(frame.look.hash);
        // Instants are counted from the clip's beginning; a hair makes up for rounded times.
        let instants = |time: f64| ((time * fps) - 1e-6).ceil().max(0.0);
        let instants = instants(end) - instants(start);
        if instants >= 1.0 {
            if let Some(seen) = &self.seen {
                self.motion += frame.look.change(seen);
                self.steps += 1;
            }
            // While a frame stays, nothing moves.
            self.steps += (instants.min(1e9) as usize) - 1;
            self.seen = Some(frame.look.clone());
        }
    }

    fn join(&mut self, later: Self) {
        if self.frames == 0 {
            *self = later;
            return;
        }
        self.frames += later.frames;
        self.brightness += later.brightness;
        self.contrast += later.contrast;
        self.motion += later.motion;
        self.steps += later.steps;
        self.seen = later.seen.or(self.seen.take());
        self.hashes.extend(later.hashes);
    }

    fn scene(self, end: f64) -> Scene {
        let frames = self.frames.max(1) as f64;
        Scene {
            start: self.start,
            end,
            frames: self.frames,
            motion: self.motion / self.steps.max(1) as f64,
            hash: self.hashes.get(self.frames / 2).copied().unwrap_or(0),
            brightness: self.brightness / frames,
            contrast: self.contrast / frames,
        }
    }
}
