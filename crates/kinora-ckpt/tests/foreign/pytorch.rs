//! Files of `torch.save`, and archives that are made here to look like them.

use std::fs;
use std::path::Path;

use kinora_ckpt::{Dtype, TensorSource, Weights};

use super::{assert_says, f32s, fixture, numbers, refusal, whole};

#[test]
fn a_nested_state_dict_is_read_box_by_box() {
    let weights = Weights::open(&fixture("nested.pth")).unwrap();
    let names = [
        "half",
        "head",
        "linear.bias",
        "linear.weight",
        "scalar",
        "steps",
        "tail",
    ];
    assert_eq!(weights.names(), names);
    assert_eq!(weights.shape("linear.weight").unwrap(), [2, 3]);
    assert_eq!(weights.dtype("linear.weight").unwrap(), Dtype::BF16);
    // 1, 2, 4 and 5 in BF16.
    let box_of = weights.read("linear.weight", &[0, 1], &[2, 2]).unwrap();
    assert_eq!(box_of, [0x80, 0x3f, 0x00, 0x40, 0x80, 0x40, 0xa0, 0x40]);
    assert_eq!(whole(&weights, "linear.bias"), [0.5, -1.5]);
    // Views of one storage.
    assert_eq!(whole(&weights, "head"), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    assert_eq!(whole(&weights, "tail"), [20.0, 21.0, 22.0, 23.0]);
    assert_eq!(
        f32s(&weights.read("head", &[1, 1], &[2, 1]).unwrap()),
        [7.0, 9.0]
    );
    assert_eq!(
        weights.read_whole("half").unwrap(),
        [0x00, 0x3c, 0x00, 0x40]
    );
    assert_eq!(weights.shape("scalar").unwrap(), [0_usize; 0]);
    assert_eq!(
        weights.read_whole("scalar").unwrap(),
        3.25_f64.to_le_bytes()
    );
    assert_eq!(weights.dtype("steps").unwrap(), Dtype::I64);
}

#[test]
fn several_dicts_keep_their_keys() {
    let weights = Weights::open(&fixture("two.pth")).unwrap();
    assert_eq!(weights.names(), ["ema.w", "list.0", "model.w"]);
    let weights = weights.under("ema.");
    assert_eq!(weights.names(), ["w"]);
    assert_eq!(whole(&weights, "w"), [0.0, 0.0]);
}

#[test]
fn what_is_no_state_dict_is_refused_and_not_run() {
    let text = refusal(&fixture("evil.pth"));
    assert_says(
        &text,
        &[
            "evil.pth",
            "posix.system",
            "nothing of it was run",
            "state_dict()",
        ],
    );
    assert!(!Path::new("/tmp/kinora-was-run").exists());
    assert_says(
        &refusal(&fixture("legacy.pth")),
        &["old format", "torch.save(torch.load("],
    );
    assert_says(
        &refusal(&fixture("strided.pth")),
        &["tensor w [3, 2] lies with strides [1, 3]", "contiguous()"],
    );
    assert_says(
        &refusal(&fixture("fp8.pth")),
        &["tensor w is float8_e4m3fn", "BF16 or F16 weights"],
    );
    assert_says(
        &refusal(&fixture("script.pt")),
        &["TorchScript", "state_dict()"],
    );
}

/// A stored archive, with numbers that overflow 32 bits as Zip64 has them if `wide`.
pub(super) fn archive(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut out, mut table) = (vec![], vec![]);
    for (name, bytes) in entries {
        let header = out.len();
        out.extend(b"PK\x03\x04");
        out.extend([0; 22]);
        out.extend((name.len() as u16).to_le_bytes());
        // Padding before the bytes, as PyTorch has it, which the table does not have.
        out.extend(8_u16.to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(*b"FB\x04\x00ZZZZ");
        out.extend(*bytes);
        let size = bytes.len() as u64;
        let narrow = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
        let mut extra = vec![];
        if wide {
            extra.extend(*b"ab\x01\x00?");
            extra.extend([1, 0, 24, 0]);
            for n in [size, size, header as u64] {
                extra.extend(n.to_le_bytes());
            }
        }
        table.extend(b"PK\x01\x02");
        table.extend([0; 16]);
        table.extend(narrow(size));
        table.extend(narrow(size));
        table.extend((name.len() as u16).to_le_bytes());
        table.extend((extra.len() as u16).to_le_bytes());
        table.extend([0; 10]);
        table.extend(narrow(header as u64));
        table.extend(name.as_bytes());
        table.extend(extra);
    }
    let (at, size, count) = (out.len() as u64, table.len() as u64, entries.len() as u64);
    out.extend(table);
    if wide {
        let end = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44_u64.to_le_bytes());
        out.extend([0; 12]);
        for n in [count, count, size, at] {
            out.extend(n.to_le_bytes());
        }
        out.extend(b"PK\x06\x07");
        out.extend([0; 4]);
        out.extend(end.to_le_bytes());
        out.extend([1, 0, 0, 0]);
    }
    out.extend(b"PK\x05\x06");
    out.extend([0; 4]);
    let short = if wide { 0xffff } else { count as u16 }.to_le_bytes();
    out.extend([short, short].concat());
    out.extend(if wide { u32::MAX } else { size as u32 }.to_le_bytes());
    out.extend(if wide { u32::MAX } else { at as u32 }.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// The pickle of `{"w": tensor of [2, 3]}`, whose storage is said to have `length` elements.
pub(super) fn pickle(length: u8, offset: u8) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
    );
    out.extend([b'K', length, b't', b'Q', b'K', offset]);
    out.extend(b"K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

#[test]
fn zip64_and_narrow_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    for wide in [false, true] {
        let entries: &[(&str, &[u8])] = &[
            ("w/data.pkl", &pickle(8, 2)),
            ("w/byteorder", b"little"),
            ("w/data/0", &numbers(8, 10)),
        ];
        fs::write(&path, archive(entries, wide)).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.shape("w").unwrap(), [2, 3]);
        assert_eq!(whole(&weights, "w"), [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
    }
}

#[test]
fn archives_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let open = |entries: &[(&str, &[u8])]| {
        fs::write(&path, archive(entries, false)).unwrap();
        refusal(&path)
    };
    let data = numbers(8, 0);
    // The tensor leaves its storage; the storage leaves its entry; the entry is not there.
    let text = open(&[("w/data.pkl", &pickle(8, 3)), ("w/data/0", &data)]);
    assert_says(&text, &["tensor w [2, 3] leaves its storage of 32 bytes"]);
    let text = open(&[("w/data.pkl", &pickle(9, 0)), ("w/data/0", &data)]);
    assert_says(&text, &["leaves its storage"]);
    let text = open(&[("w/data.pkl", &pickle(8, 0)), ("w/data/1", &data)]);
    assert_says(&text, &["tensor w lies in w/data/0, which is not there"]);
    let text = open(&[
        ("w/data.pkl", &pickle(8, 0)),
        ("w/data/0", &data),
        ("w/data/0", &data),
    ]);
    assert_says(&text, &["two entries w/data/0"]);
    let order = ("w/byteorder", &b"big"[..]);
    let text = open(&[("w/data.pkl", &pickle(8, 0)), ("w/data/0", &data), order]);
    assert_says(&text, &["big endian"]);
    assert_says(&open(&[("w/readme", b"")]), &["0 files data.pkl"]);
    assert_says(
        &open(&[("w/data.pkl", b"\x80\x02}.")]),
        &["it holds no tensor"],
    );
    // A dict that holds itself.
    let text = open(&[("w/data.pkl", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")]);
    assert_says(&text, &["more than 16 deep"]);
}
