//! ByT5's bytes (Xue et al. 2022, "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte
//! Models").

/// Padding, the end of a text and the unknown come before the bytes.
const FIRST_BYTE: u32 = 3;

/// The number of a padding token.
pub(crate) const PAD: u32 = 0;
/// The mark that ends every text.
pub(crate) const END: u32 = 1;

/// The bytes of a text as numbers.
pub(crate) fn ids(text: &str) -> Vec<u32> {
    text.bytes()
        .map(|byte| u32::from(byte) + FIRST_BYTE)
        .collect()
}
