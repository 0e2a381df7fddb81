//! Reading ahead: a thread that goes through the steps before the workers do, and has their rows
//! read by the time they are wanted.
//!
//! It only ever fills the memory that `data.memory_mb` allows; workers that overtake it read for
//! themselves. So it changes when bytes are read, and nothing else.

use std::thread;
use std::time::Duration;

use crate::order::Order;
use crate::rows::Rows;

// Steps that it goes ahead of the workers at most; usually memory is used up before.
const STEPS: u64 = 256;
// How often it looks whether there is room again.
const PAUSE: Duration = Duration::from_millis(5);

/// Reads ahead, from the next step of an order on, until `closed` says that nobody wants it.
pub(crate) fn read_ahead(rows: &Rows, mut order: Order, closed: &dyn Fn() -> bool) {
    while !closed() {
        let draw = order.next();
        while !closed() && (draw.step >= rows.entered() + STEPS || !rows.ahead(&draw)) {
            thread::sleep(PAUSE);
        }
    }
}
