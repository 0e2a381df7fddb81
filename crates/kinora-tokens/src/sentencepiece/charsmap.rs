//! A model's table of characters and what becomes of them, compiled by its trainer: a double-array
//! trie (Darts-clone's units of 32 bits) whose values are places among the results.

/// The table.
#[derive(Debug)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    /// The results, each ended by a zero byte.
    results: String,
}

impl CharsMap {
    /// From the bytes in a model: the trie's length, the trie, the results. No bytes are no table.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let broken = || "its table of characters is broken".to_owned();
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
        let (trie, results) = rest
            .split_at_checked(u32::from_le_bytes(*len) as usize)
            .ok_or_else(broken)?;
        let (units, odd) = trie.as_chunks::<4>();
        if units.is_empty() || !odd.is_empty() {
            return Err(broken());
        }
        Ok(Some(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            results: String::from_utf8(results.to_vec()).map_err(|_| broken())?,
        }))
    }

    /// The longest start of `text` that is in the table, as its length in bytes and its result.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut found = None;
        let mut at = offset(self.units[0]);
        for (i, byte) in text.bytes().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else {
                break;
            };
            // The label is a byte, or marks a value, which no byte is.
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            let has_value = unit >> 8 & 1 == 1;
            if has_value && let Some(value) = self.units.get(at) {
                found = Some((i + 1, (value & 0x7fff_ffff) as usize));
            }
        }
        let (len, start) = found?;
        let result = self.results.get(start..)?;
        Some((len, result.split('\0').next().unwrap_or_default()))
    }
}

/// From a unit to its children; large ones are counted in 256.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}
