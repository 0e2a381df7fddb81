//! Lets the suite, which knows what must come out in host memory, run on device buffers.

use crate::{Buffer, Call, CommError, DeviceBuffer, HostBuffer, Pending, Transport};
use std::fmt;
use std::sync::Arc;

type Upload = dyn Fn(&HostBuffer) -> Result<DeviceBuffer, CommError> + Send + Sync;
type Download = dyn Fn(&DeviceBuffer) -> Result<HostBuffer, CommError> + Send + Sync;

/// Passes every host buffer on as a device buffer, and brings the result back.
#[derive(Clone)]
pub struct OnDevice {
    inner: Arc<dyn Transport>,
    upload: Arc<Upload>,
    download: Arc<Download>,
}

struct Returning {
    inner: Box<dyn Pending>,
    download: Arc<Download>,
    operation: String,
}

impl OnDevice {
    /// Wraps a transport that takes device buffers.
    pub fn new(
        inner: Arc<dyn Transport>,
        upload: impl Fn(&HostBuffer) -> Result<DeviceBuffer, CommError> + Send + Sync + 'static,
        download: impl Fn(&DeviceBuffer) -> Result<HostBuffer, CommError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            upload: Arc::new(upload),
            download: Arc::new(download),
        }
    }
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, on devices", self.inner)
    }
}

impl Transport for OnDevice {
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

    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        let operation = call.to_string();
        let input = match input {
            Buffer::Host(buffer) => (self.upload)(&buffer)?,
            Buffer::Device(buffer) => buffer,
        };
        let inner = self.inner.start(call, Buffer::Device(input))?;
        let download = self.download.clone();
        Ok(Box::new(Returning {
            inner,
            download,
            operation,
        }))
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

impl Pending for Returning {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        match self.inner.wait()? {
            Buffer::Device(buffer) => (self.download)(&buffer).map(Buffer::Host),
            Buffer::Host(_) => Err(CommError::BadCall {
                operation: self.operation,
                what: "a device buffer came back in host memory".to_string(),
            }),
        }
    }

    fn ready(&self) -> bool {
        self.inner.ready()
    }
}
