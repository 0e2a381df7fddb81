//! Tensors of Burn's CUDA backend over NCCL, on a stand-in for both NCCL and the driver: its devices
//! are host memory and its kernels do nothing, but what is uploaded, sent, summed and read back is
//! real. So only operations without kernels are tested here, on flat tensors, and all numbers are exact.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::local::{self, World};
use kinora_comm::{Buffer, CommError, HostBuffer, Reduce, Transport, nccl};
use kinora_shard::{Group, on_device};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RANKS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);
const LENS: [usize; RANKS] = [5, 0, 300];

/// The folder of the stand-in, compiled; or nothing, said aloud, if there is no C compiler.
fn standin() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/cuda.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libcuda.so.1");
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-pthread", "-O1", "-Wall", "-Wextra"])
        .args(["-Wl,-soname,libcuda.so.1", "-o"])
        .args([&library, &source])
        .output();
    let output = match compiler {
        Ok(output) => output,
        Err(error) => {
            eprintln!("NOT TESTED: tensors over NCCL, as `cc` does not start: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the stand-in does not compile:\n{text}"
    );
    // One file, so that both libraries are the same one to the loader and share their memory.
    let nccl = folder.join("libnccl.so.2");
    let _ = std::fs::remove_file(&nccl);
    std::os::unix::fs::symlink("libcuda.so.1", nccl).unwrap();
    Some(folder)
}

/// The system's loader reads its path when a program starts, so the tests are run by another one.
#[test]
fn tensors_go_over_nccl_as_they_are() {
    let Some(folder) = standin() else { return };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", folder)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > 3 * DEADLINE {
            child.kill().unwrap();
            panic!(
                "the tests on the stand-in have not ended in {:?}",
                3 * DEADLINE
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the tests on the stand-in: {status}");
}

/// What every rank gets from each collective, all of it flat.
fn results(
    device: impl Fn(usize) -> Device + Send + Sync + 'static,
    join: impl Fn(Arc<dyn Transport>, &Device) -> Result<Arc<dyn Transport>, CommError>
    + Send
    + Sync
    + 'static,
) -> Vec<Vec<TensorData>> {
    let world = World {
        deadline: DEADLINE,
        ..World::new(RANKS, 1)
    };
    local::run(&world, move |control| {
        let device = device(control.rank());
        let transport = join(control, &device)?;
        let (rank, group) = (transport.rank(), Group::new(transport));
        let tensor = |len: usize| {
            let values = (0..len).map(|i| (i * RANKS + rank) as f32).collect();
            let data = TensorData::new::<f32, _>(values, [len]);
            Tensor::<1>::from_data(data, (&device, DType::F32))
        };
        let whole = LENS.iter().sum();
        // Two under way at once, waited for in the other order.
        let first = group.start_gather(tensor(LENS[rank]), 0, &LENS, "first");
        let second = group.start_shift(tensor(7), [7], "second");
        let second = second.wait();
        let tensors = [
            group.sum_of(tensor(1000), "sum"),
            group.sum_of(tensor(0), "nothing"),
            group.scatter_sum(tensor(whole), 0, &LENS, "scatter"),
            first.wait(),
            second,
        ];
        Ok::<_, CommError>(tensors.map(Tensor::into_data).to_vec())
    })
    .unwrap()
}

fn same_as_on_the_host(
    join: impl Fn(Arc<dyn Transport>, &Device) -> Result<Arc<dyn Transport>, CommError>
    + Send
    + Sync
    + 'static,
) {
    let on_host = results(|_| Device::flex(), |control, _| Ok(control));
    assert_eq!(on_host[0][0].num_elements(), 1000);
    assert_eq!(results(Device::cuda, join), on_host);
}

#[test]
#[ignore = "needs the stand-in in the loader's path, which another test sees to"]
fn through_memory_of_tensors() {
    same_as_on_the_host(|control, device| {
        let transport = on_device(control, device, DEADLINE)?;
        assert!(transport.device().is_some());
        Ok(transport)
    });
}

#[test]
#[ignore = "needs the stand-in in the loader's path, which another test sees to"]
fn through_memory_of_the_driver() {
    same_as_on_the_host(|control, _| {
        let rank = control.rank();
        nccl::join(control, rank, None, DEADLINE)
    });
}

#[test]
#[ignore = "needs the stand-in in the loader's path, which another test sees to"]
fn through_host_memory() {
    same_as_on_the_host(|control, _| Ok(control));
}

/// On a machine with a GPU, with the names of the tests that are wanted, this one runs on that GPU and
/// on the real NCCL: `cargo test ... --test gpu -- --ignored one_rank through_host`.
#[test]
#[ignore = "needs the stand-in in the loader's path, which another test sees to"]
fn one_rank_sums_gathers_and_scatters() {
    let world = World {
        deadline: DEADLINE,
        ..World::new(1, 1)
    };
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let sent = values.clone();
    let got = local::run(&world, move |control| {
        let transport = nccl::join(control, 0, None, DEADLINE)?;
        let device = nccl::Device::open(None, 0)?;
        let buffer = || Ok::<_, CommError>(Buffer::Device(device.upload(&sent.clone().into())?));
        let results = [
            transport.all_reduce(buffer()?, Reduce::Sum, "sum")?,
            transport.all_gather(buffer()?, vec![1000], "gather")?,
            transport.reduce_scatter(buffer()?, Reduce::Sum, vec![1000], "scatter")?,
        ];
        let mut back = vec![];
        for result in results {
            let Buffer::Device(result) = result else {
                panic!("a device buffer came back as a host buffer");
            };
            back.push(device.download(&result)?);
        }
        Ok::<_, CommError>(back)
    })
    .unwrap();
    assert_eq!(got[0].len(), 3);
    for result in &got[0] {
        assert_eq!(*result, HostBuffer::F32(values.clone()));
    }
}
