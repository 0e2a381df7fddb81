//! One rank's NCCL communicator: its calls in order, the buffers that they use, and how they end.

use super::Setup;
use super::agreement::{self, Agreement};
use super::device::{Event, Stream};
use super::library::{Native, Progress};
use super::plan::plan;
use crate::{Call, Collective, CommError, DeviceBuffer, Pending, Transport};
use std::collections::{BTreeMap, VecDeque};
use std::mem::{forget, replace, take};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{panicking, sleep, yield_now};
use std::time::{Duration, Instant};

// How often a rank that waits gives a sign of life and asks what has become of the others.
const LOOK: Duration = Duration::from_millis(10);
// Calls of a few microseconds are worth the core that this takes.
const SPIN: Duration = Duration::from_micros(100);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);
// What calls that nobody waited for, and aborted ones, may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The first failure that this rank met, in whichever of its communicators.
#[derive(Debug, Default)]
pub(super) struct Fate(OnceLock<CommError>);

pub(super) struct Communicator {
    setup: Setup,
    fate: Arc<Fate>,
    control: Arc<dyn Transport>,
    stream: Stream,
    state: Mutex<State>,
}

struct State {
    // None once it has been aborted.
    native: Option<Native>,
    calls: u64,
    flights: BTreeMap<u64, Flight>,
    // Calls that have not been given to NCCL, and the one that it has not enqueued yet.
    queued: VecDeque<u64>,
    launching: Option<u64>,
}

/// A call under way. Its buffers stay until the device has come past it.
struct Flight {
    call: Call,
    input: DeviceBuffer,
    // Where the stream that makes the input was when the call was started.
    fence: Option<Event>,
    agreement: Agreement,
    stage: Stage,
    abandoned: bool,
}

enum Stage {
    Queued,
    Launching(DeviceBuffer),
    Running(DeviceBuffer, Event),
    Done(DeviceBuffer),
    Refused(CommError),
}

impl Fate {
    pub(super) fn check(&self) -> Result<(), CommError> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Communicator {
    /// Joins as `control` says, and waits until all have.
    pub(super) fn join(
        setup: &Setup,
        fate: Arc<Fate>,
        control: Arc<dyn Transport>,
        id: &[u8],
    ) -> Result<Self, CommError> {
        setup.device.select()?;
        let stream = Stream::new(&setup.device)?;
        let communicator = Self {
            setup: setup.clone(),
            fate,
            control,
            stream,
            state: Mutex::new(State {
                native: None,
                calls: 0,
                flights: BTreeMap::new(),
                queued: VecDeque::new(),
                launching: None,
            }),
        };
        communicator
            .meet(id)
            .map_err(|error| communicator.fail(error))?;
        Ok(communicator)
    }

    fn meet(&self, id: &[u8]) -> Result<(), CommError> {
        let operation = format!("forming {}", self.control.name());
        let (rank, size) = (self.control.rank(), self.control.size());
        let wrong = |what| self.native_error(&operation, what);
        let native = Native::join(&self.setup.library, id, rank, size).map_err(wrong)?;
        self.lock().native = Some(native);
        let mut patience = Patience::new();
        loop {
            match self.lock().native.as_ref().map(Native::progress) {
                Some(Ok(Progress::Ready)) => return Ok(()),
                Some(Ok(Progress::Busy)) | None => {}
                Some(Err(what)) => return Err(wrong(what)),
            }
            self.look(&mut patience, &operation)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn native_error(&self, operation: &str, what: String) -> CommError {
        CommError::Native {
            operation: operation.to_string(),
            place: format!("rank {}", self.control.members()[self.control.rank()]),
            what,
        }
    }

    /// Starts a call, and gives its number.
    pub(super) fn begin(&self, call: Call, input: DeviceBuffer) -> Result<u64, CommError> {
        let mut state = self.lock();
        let number = state.calls;
        // Under the lock, so that the control transport sees the calls in the same order.
        let begun = self.flight(call, input).and_then(|flight| {
            state.calls += 1;
            if let Stage::Queued = flight.stage {
                state.queued.push_back(number);
            }
            state.flights.insert(number, flight);
            self.advance(&mut state)
        });
        drop(state);
        begun.map(|()| number).map_err(|error| self.fail(error))
    }

    fn flight(&self, call: Call, input: DeviceBuffer) -> Result<Flight, CommError> {
        let agreement = agreement::propose(&*self.control, &call, &input)?;
        let fence = match input.stream {
            0 => None,
            stream => Some(Event::record(&self.setup.device, stream as usize)?),
        };
        let reduces = matches!(
            call.collective,
            Collective::AllReduce { .. } | Collective::ReduceScatter { .. }
        );
        let stage = match call.accumulate {
            Some(sum) if reduces && sum != input.dtype => Stage::Refused(CommError::Unsupported {
                operation: call.to_string(),
                transport: "nccl",
                what: format!("a reduction of {:?} in {sum:?}", input.dtype),
            }),
            _ => Stage::Queued,
        };
        Ok(Flight {
            call,
            input,
            fence,
            agreement,
            stage,
            abandoned: false,
        })
    }

    /// Gives NCCL what it can take, and lets go of what nobody waits for.
    fn advance(&self, state: &mut State) -> Result<(), CommError> {
        self.setup.device.select()?;
        let members = self.control.members();
        loop {
            let Some(native) = &state.native else {
                return Err(self.ended());
            };
            if let Some(number) = state.launching {
                let flight = state.flights.get_mut(&number).expect("it is under way");
                let progress = native.progress();
                match progress.map_err(|what| self.native_error(&flight.call.to_string(), what))? {
                    Progress::Busy => break,
                    // Only now is the call on the stream, and an event recorded after it.
                    Progress::Ready => {
                        flight.launched(Event::record(&self.setup.device, self.stream.handle)?)
                    }
                }
                state.launching = None;
            }
            let Some(&number) = state.queued.front() else {
                break;
            };
            let flight = state.flights.get_mut(&number).expect("it is under way");
            let Some(root_len) = flight.root_len(members)? else {
                break;
            };
            state.queued.pop_front();
            if self.launch(native, flight, root_len)? {
                state.launching = Some(number);
            }
        }
        let mut error = None;
        state.flights.retain(|_, flight| {
            let over = flight.abandoned
                && flight.over().unwrap_or_else(|e| {
                    error = Some(e);
                    false
                });
            !over
        });
        error.map_or(Ok(()), Err)
    }

    /// Gives a call to NCCL; or finds that nothing travels, and then there is nothing to launch.
    fn launch(
        &self,
        native: &Native,
        flight: &mut Flight,
        root_len: usize,
    ) -> Result<bool, CommError> {
        let (rank, size) = (self.control.rank(), self.control.size());
        let input = &flight.input;
        let plan = plan(&flight.call.collective, rank, size, input.len, root_len);
        let output = if plan.in_place {
            input.clone()
        } else {
            self.setup.memory.allocate(plan.output, input.dtype)?
        };
        if plan.ops.is_empty() {
            flight.stage = Stage::Done(output);
            return Ok(false);
        }
        if let Some(fence) = &flight.fence {
            self.stream.wait_for(fence)?;
        }
        if output.stream != 0 && !plan.in_place {
            let free = Event::record(&self.setup.device, output.stream as usize)?;
            self.stream.wait_for(&free)?;
        }
        native
            .launch(
                &plan,
                input.dtype,
                input.ptr,
                output.ptr,
                self.stream.handle,
            )
            .map_err(|what| self.native_error(&flight.call.to_string(), what))?;
        flight.stage = Stage::Launching(output);
        Ok(true)
    }

    /// Waits for a call's result.
    pub(super) fn finish(&self, number: u64) -> Result<DeviceBuffer, CommError> {
        self.wait(number).map_err(|error| self.fail(error))
    }

    fn wait(&self, number: u64) -> Result<DeviceBuffer, CommError> {
        let mut patience = Patience::new();
        let mut operation = None;
        loop {
            self.fate.check()?;
            let mut state = self.lock();
            self.advance(&mut state)?;
            if let Some((earlier, call, pending)) = state.unsettled(number) {
                drop(state);
                let views = agreement::settle(pending, &call, self.control.members())?;
                if let Some(flight) = self.lock().flights.get_mut(&earlier) {
                    flight.agreement = Agreement::Known(views);
                }
                patience = Patience::new();
                continue;
            }
            let flight = state.flights.get_mut(&number).expect("it is under way");
            if let Some(mut result) = flight.result()? {
                state.flights.remove(&number);
                // Its work is done, and the stream need not live as long as the buffer.
                result.stream = 0;
                return Ok(result);
            }
            let operation = operation.get_or_insert_with(|| flight.call.to_string());
            drop(state);
            self.look(&mut patience, operation)?;
        }
    }

    /// What a rank does between two looks at something that it waits for.
    fn look(&self, patience: &mut Patience, operation: &str) -> Result<(), CommError> {
        if patience.looked.elapsed() > LOOK {
            patience.looked = Instant::now();
            self.control.heartbeat();
            self.control.health()?;
            if let Some(native) = &self.lock().native {
                let progress = native.progress();
                progress.map_err(|what| self.native_error(operation, what))?;
            }
            if patience.since.elapsed() > self.setup.deadline {
                let seconds = patience.since.elapsed().as_secs_f64();
                return Err(self.native_error(
                    operation,
                    format!(
                        "NCCL has not finished it {seconds:.1} s after all ranks had made the call\n  help: if it only takes long, raise run.deadline; else NCCL_DEBUG=INFO shows how far it came"
                    ),
                ));
            }
        }
        patience.pause();
        Ok(())
    }

    /// Whether [`Communicator::finish`] would return at once.
    pub(super) fn ready(&self, number: u64) -> bool {
        let mut state = self.lock();
        if self.fate.check().is_err() || self.control.health().is_err() {
            return true;
        }
        if let Err(error) = self.advance(&mut state) {
            drop(state);
            self.fail(error);
            return true;
        }
        let flight = state.flights.get_mut(&number).expect("it is under way");
        let agreed = match &flight.agreement {
            Agreement::Open(pending) => pending.ready(),
            Agreement::Taken => false,
            Agreement::Known(_) => true,
        };
        agreed && flight.over().unwrap_or(true)
    }

    /// Gives NCCL what it can take by now. A failure is met by the next call.
    pub(super) fn go_on(&self) {
        if self.fate.check().is_ok() {
            let outcome = self.advance(&mut self.lock());
            outcome.unwrap_or_else(|error| drop(self.fail(error)));
        }
    }

    /// Nobody will wait for a call.
    pub(super) fn abandon(&self, number: u64) {
        if let Some(flight) = self.lock().flights.get_mut(&number) {
            flight.abandoned = true;
        }
    }

    fn ended(&self) -> CommError {
        let nothing = || self.native_error("a call", "the communicator was aborted".to_string());
        self.fate.0.get().cloned().unwrap_or_else(nothing)
    }

    /// Ends the communicator after a failure, and gives the first one.
    fn fail(&self, error: CommError) -> CommError {
        let error = self.fate.0.get_or_init(|| error).clone();
        let native = self.lock().native.take();
        if let Some(native) = native {
            native.abort();
        }
        // The others know of what the control transport reports, and find bad calls themselves.
        if let CommError::Native { .. } | CommError::Missing { .. } = error {
            self.control.abort(&error.to_string());
        }
        error
    }

    /// Waits for calls that nobody waits for, and for NCCL to end in good order.
    fn end_well(&self) -> Result<bool, CommError> {
        let start = Instant::now();
        let limit = GRACE.min(self.setup.deadline);
        let mut finalized = false;
        loop {
            self.fate.check()?;
            self.control.health()?;
            let mut state = self.lock();
            self.advance(&mut state)?;
            if state.flights.is_empty()
                && let Some(native) = &state.native
            {
                let wrong = |what| self.native_error("the end", what);
                if !finalized {
                    native.finalize().map_err(wrong)?;
                    finalized = true;
                }
                if native.progress().map_err(wrong)? == Progress::Ready {
                    return Ok(true);
                }
            }
            drop(state);
            if start.elapsed() > limit {
                return Ok(false);
            }
            sleep(SPIN);
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let well = !panicking() && matches!(self.end_well(), Ok(true));
        let state = &mut *self.lock();
        match state.native.take() {
            Some(native) if well => native.destroy(),
            Some(native) => native.abort(),
            None => {}
        }
        let flights = take(&mut state.flights);
        if flights.is_empty() {
            return;
        }
        // Memory must not be freed while the device may still write to it.
        let start = Instant::now();
        let end = Event::record(&self.setup.device, self.stream.handle);
        while start.elapsed() < GRACE {
            if end.as_ref().is_ok_and(|end| end.passed() == Ok(true)) {
                return;
            }
            sleep(SPIN);
        }
        forget(flights);
    }
}

impl State {
    /// The first call up to `number` whose agreement must be waited for before that one can go on,
    /// so that no earlier call is kept from NCCL while a later one is talked about.
    fn unsettled(&mut self, number: u64) -> Option<(u64, Call, Box<dyn Pending>)> {
        let front = self.queued.front().copied();
        for (&earlier, flight) in self.flights.range_mut(..=number) {
            let due = match flight.stage {
                Stage::Queued => flight.is_broadcast() && front == Some(earlier),
                _ => true,
            };
            if due && let Some(pending) = flight.agreement.take() {
                return Some((earlier, flight.call.clone(), pending));
            }
        }
        None
    }
}

impl Agreement {
    fn take(&mut self) -> Option<Box<dyn Pending>> {
        match replace(self, Agreement::Taken) {
            Agreement::Open(pending) => Some(pending),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Flight {
    fn is_broadcast(&self) -> bool {
        matches!(self.call.collective, Collective::Broadcast { .. })
    }

    /// The length of a broadcast, which other ranks than its root must hear first.
    fn root_len(&mut self, members: &[usize]) -> Result<Option<usize>, CommError> {
        let Collective::Broadcast { root } = self.call.collective else {
            return Ok(Some(0));
        };
        if let Agreement::Open(pending) = &self.agreement
            && pending.ready()
            && let Some(pending) = self.agreement.take()
        {
            let views = agreement::settle(pending, &self.call, members)?;
            self.agreement = Agreement::Known(views);
        }
        Ok(match &self.agreement {
            Agreement::Known(views) => Some(agreement::root_len(views, root)),
            Agreement::Open(_) | Agreement::Taken => None,
        })
    }

    fn launched(&mut self, end: Event) {
        self.stage = match replace(&mut self.stage, Stage::Queued) {
            Stage::Launching(output) => Stage::Running(output, end),
            other => other,
        };
    }

    /// Whether the device has come past it.
    fn over(&self) -> Result<bool, CommError> {
        match &self.stage {
            Stage::Queued | Stage::Launching(_) => Ok(false),
            Stage::Running(_, end) => end.passed(),
            Stage::Done(_) | Stage::Refused(_) => Ok(true),
        }
    }

    fn result(&self) -> Result<Option<DeviceBuffer>, CommError> {
        if !matches!(self.agreement, Agreement::Known(_)) || !self.over()? {
            return Ok(None);
        }
        match &self.stage {
            Stage::Running(output, _) | Stage::Done(output) => Ok(Some(output.clone())),
            Stage::Refused(error) => Err(error.clone()),
            Stage::Queued | Stage::Launching(_) => Ok(None),
        }
    }
}

/// How a rank waits: at first without giving up the core, then with ever longer sleeps.
struct Patience {
    since: Instant,
    looked: Instant,
    sleep: Duration,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            looked: now,
            sleep: Duration::from_micros(20),
        }
    }

    fn pause(&mut self) {
        if self.since.elapsed() < SPIN {
            yield_now();
        } else {
            sleep(self.sleep);
            self.sleep = (self.sleep * 2).min(LONGEST_SLEEP);
        }
    }
}
