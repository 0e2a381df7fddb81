//! The rows of each step as they are stored, not decoded: in the order, through the reading ahead,
//! and within the memory of a [`Loader`](crate::Loader).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::ahead::read_ahead;
use crate::order::Order;
use crate::record::{Record, Wanted};
use crate::rows::Rows;
use crate::{Catalog, DataError, Part, SampleId};

/// One part's share of every step, not decoded.
pub struct Stream {
    catalog: Arc<Catalog>,
    part: Part,
    rows: Arc<Rows>,
    order: Order,
    closed: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// A row, or why it is broken.
pub type StreamRow = (SampleId, Result<Record, String>);

impl Stream {
    /// A stream of what is wanted of each row, from a step on. Reads ahead in a thread of its own if
    /// the configuration has workers.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn open(
        catalog: Arc<Catalog>,
        part: Part,
        first_step: u64,
        wanted: Wanted,
    ) -> Result<Self, DataError> {
        let rows = Arc::new(Rows::new(catalog.clone(), part, wanted));
        let mut stream = Self {
            part,
            rows: rows.clone(),
            order: Order::at(catalog.clone(), first_step),
            closed: Arc::default(),
            reader: None,
            catalog: catalog.clone(),
        };
        if catalog.config.workers > 0 {
            let closed = stream.closed.clone();
            let order = Order::at(catalog, first_step);
            let reader = thread::Builder::new()
                .name("kinora-data-read".into())
                .spawn(move || read_ahead(&rows, order, &|| closed.load(Ordering::Relaxed)))
                .map_err(|source| DataError::Io {
                    path: "the reading thread".into(),
                    source,
                })?;
            stream.reader = Some(reader);
        }
        Ok(stream)
    }

    /// The rows of the next step, by ascending position.
    ///
    /// # Errors
    /// If a store fails.
    pub fn next_step(&mut self) -> Result<Vec<StreamRow>, DataError> {
        let draw = self.order.next();
        self.rows.enter(&draw);
        let rows = self.rows.batch(&draw)?;
        let share = self.part.share(draw.picks.len());
        Ok(share
            .map(|position| self.catalog.id(draw.picks[position].place))
            .zip(rows)
            .collect())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // Each read ends by its deadline.
            _ = reader.join();
        }
    }
}
