//! A transport that misbehaves on purpose, for tests of what happens then.

use crate::{Buffer, Call, CommError, Pending, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The rank sleeps before the call, without a sign of life.
    Delay(Duration),
    /// The rank panics with this text.
    Panic(String),
    /// The call fails with this error, on this rank only.
    Error(CommError),
    /// The call is made with another label, as by a rank that has lost its way.
    Astray,
}

/// Passes calls on, but for one of them, counted from 0 over all communicators split off this one.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<dyn Transport>,
    at: u64,
    fault: Fault,
    calls: Arc<AtomicU64>,
}

impl Faulty {
    /// Goes wrong at call `at`.
    pub fn new(inner: Arc<dyn Transport>, at: u64, fault: Fault) -> Self {
        Self {
            inner,
            at,
            fault,
            calls: Arc::default(),
        }
    }
}

impl Transport for Faulty {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn members(&self) -> &[usize] {
        self.inner.members()
    }

    fn device(&self) -> Option<usize> {
        self.inner.device()
    }

    fn start(&self, mut call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.at {
            match &self.fault {
                Fault::Delay(time) => std::thread::sleep(*time),
                Fault::Panic(text) => panic!("{text}"),
                Fault::Error(error) => return Err(error.clone()),
                Fault::Astray => call.label = "astray".into(),
            }
        }
        self.inner.start(call, input)
    }

    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError> {
        let part = self.inner.split(color, name)?;
        Ok(part.map(|inner| {
            Arc::new(Self {
                inner,
                ..self.clone()
            }) as Arc<dyn Transport>
        }))
    }

    fn heartbeat(&self) {
        self.inner.heartbeat();
    }

    fn at(&self, place: &str) {
        self.inner.at(place);
    }

    fn health(&self) -> Result<(), CommError> {
        self.inner.health()
    }

    fn abort(&self, reason: &str) {
        self.inner.abort(reason);
    }
}
