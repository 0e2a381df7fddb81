//! The tensors of a plain safetensors file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::manifest::{Stored, TensorEntry};
use crate::read::Index;
use crate::region::Region;
use crate::{CkptError, Dtype};

/// The longest header that is believed; real ones are a few megabytes.
const LONGEST_HEADER: u64 = 100 << 20;

/// Reads the header of a file and checks it against the file's length.
///
/// # Errors
/// [`CkptError::Format`] when it is not a safetensors file or holds a dtype that [`Dtype`] does not
/// name, [`CkptError::Truncated`] when it is shorter or longer than its header says, [`CkptError::Io`].
pub(super) fn index(path: &Path) -> Result<Index, CkptError> {
    let bad = |what: String, help: &str| CkptError::format(path, what, help);
    let again = "download or convert the file again";
    let mut file = File::open(path).map_err(CkptError::io("open", path))?;
    let found = file.metadata().map_err(CkptError::io("read", path))?.len();
    let mut length = [0; 8];
    if found < 8 {
        return Err(bad(
            format!("it has {found} bytes, and the header's length alone is 8"),
            again,
        ));
    }
    file.read_exact(&mut length)
        .map_err(CkptError::io("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || length > found - 8 {
        return Err(bad(
            format!("its header would be {length} bytes of {found}"),
            again,
        ));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)
        .map_err(CkptError::io("read", path))?;
    let header: safetensors::tensor::Metadata = serde_json::from_slice(&header)
        .map_err(|error| bad(format!("its header cannot be read ({error})"), again))?;
    let data = 8 + length;
    let expected = data.saturating_add(header.data_len() as u64);
    if found != expected {
        return Err(CkptError::Truncated {
            path: path.to_path_buf(),
            expected,
            found,
        });
    }
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        let dtype = Dtype::of_safetensors(info.dtype).ok_or_else(|| {
            let spelled = format!("{:?}", info.dtype);
            bad(
                format!("tensor {name} is {spelled}"),
                &other_dtype(&spelled),
            )
        })?;
        let begin = data + info.data_offsets.0 as u64;
        let boxes = vec![Stored {
            file: 0,
            begin,
            region: Region::whole(&info.shape),
        }];
        tensors.insert(
            name,
            TensorEntry {
                shape: info.shape.clone(),
                dtype,
                boxes,
            },
        );
    }
    let path = path.to_path_buf();
    Ok(Index {
        files: vec![path.clone()],
        path,
        tensors,
    })
}

/// What to do about a dtype that Kinora does not read, by its name in safetensors or PyTorch.
pub(super) fn other_dtype(name: &str) -> String {
    let lower = name.to_lowercase();
    let quantized = ["f8", "f6", "f4", "float8", "float4", "quint", "qint"];
    if quantized.iter().any(|start| lower.starts_with(start)) {
        "its numbers are rounded for inference on some GPUs, and may have scales beside them: download the BF16 or F16 weights of the same model".to_owned()
    } else {
        "convert it to F64, F32, BF16, F16, I64, I32 or U8 first".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::tensor::{TensorView, serialize};

    use super::*;
    use crate::{TensorSource, Weights};

    fn sample() -> (Vec<u8>, Vec<u8>) {
        let data: Vec<u8> = (0..48).collect();
        let view = TensorView::new(safetensors::Dtype::F16, vec![4, 6], &data).unwrap();
        (serialize([("w", view)], None).unwrap(), data)
    }

    #[test]
    fn a_box_of_a_plain_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let (bytes, data) = sample();
        fs::write(&path, bytes).unwrap();
        let file = Weights::open(&path).unwrap();
        assert_eq!(file.names(), ["w"]);
        assert_eq!(file.dtype("w").unwrap(), Dtype::F16);
        assert_eq!(file.read_whole("w").unwrap(), data);
        let column = file.read("w", &[1, 5], &[2, 1]).unwrap();
        assert_eq!(column, [data[22], data[23], data[34], data[35]]);
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let (bytes, _) = sample();

        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = Weights::open(&path).unwrap_err();
        assert!(matches!(error, CkptError::Truncated { .. }), "{error}");

        for start in [0, 5, 30] {
            fs::write(&path, &bytes[..start]).unwrap();
            let error = Weights::open(&path).unwrap_err();
            assert!(
                matches!(error, CkptError::Format { .. }),
                "{start}: {error}"
            );
        }

        let view = TensorView::new(safetensors::Dtype::BOOL, vec![1], &[1]).unwrap();
        fs::write(&path, serialize([("mask", view)], None).unwrap()).unwrap();
        let error = Weights::open(&path).unwrap_err().to_string();
        assert!(error.contains("tensor mask is BOOL"), "{error}");
    }
}
