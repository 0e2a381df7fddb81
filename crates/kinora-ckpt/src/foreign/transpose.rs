//! Matrices laid the other way, for linear layers that other people keep as `[to, from]`.

/// Writes `rows` rows of `from` as as many columns of `to`, whose rows have `width` elements, from
/// column `at` on. Elements have `size` bytes.
pub(super) fn transpose(
    from: &[u8],
    rows: usize,
    to: &mut [u8],
    (width, at): (usize, usize),
    size: usize,
) {
    match size {
        1 => typed::<1>(from, rows, to, width, at),
        2 => typed::<2>(from, rows, to, width, at),
        4 => typed::<4>(from, rows, to, width, at),
        8 => typed::<8>(from, rows, to, width, at),
        _ => unreachable!("no dtype has {size} bytes"),
    }
}

/// The sides of a tile, which stays within the processor's first cache. Known sizes let the compiler
/// unroll the turning of it.
const SIDE: usize = 16;

/// A row of the tile as its column; inlined for rows whose length is known.
#[inline(always)]
fn turn<const N: usize>(tile: &mut [[[u8; N]; SIDE]; SIDE], row: usize, line: &[[u8; N]]) {
    for (column, element) in tile.iter_mut().zip(line) {
        column[row] = *element;
    }
}

fn typed<const N: usize>(from: &[u8], rows: usize, to: &mut [u8], width: usize, at: usize) {
    let (from, to) = (from.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
    if rows == 0 || from.is_empty() {
        return;
    }
    let columns = from.len() / rows;
    let mut tile = [[[0; N]; SIDE]; SIDE];
    for left in (0..columns).step_by(SIDE) {
        let across = SIDE.min(columns - left);
        for top in (0..rows).step_by(SIDE) {
            let down = SIDE.min(rows - top);
            for line in top..top + down {
                let (row, begin) = (line - top, line * columns + left);
                let line = &from[begin..begin + across];
                match line.as_chunks::<SIDE>().0.first() {
                    Some(line) => turn(&mut tile, row, line),
                    None => turn(&mut tile, row, line),
                }
            }
            for (column, line) in tile[..across].iter().enumerate() {
                let begin = (left + column) * width + at + top;
                to[begin..begin + down].copy_from_slice(&line[..down]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_changes_nothing() {
        for size in [1, 2, 4, 8] {
            let bytes: Vec<u8> = (0..70 * 41 * size).map(|i| (i % 253) as u8).collect();
            let mut once = vec![0; bytes.len()];
            transpose(&bytes, 70, &mut once, (70, 0), size);
            assert_eq!(once[size..2 * size], bytes[41 * size..42 * size]);
            let mut twice = vec![0; bytes.len()];
            transpose(&once, 41, &mut twice, (41, 0), size);
            assert_eq!(twice, bytes);
        }
    }

    #[test]
    fn rows_become_some_columns_of_a_wider_matrix() {
        let mut to = [0; 8];
        transpose(&[1, 2, 3, 4], 2, &mut to, (4, 1), 1);
        assert_eq!(to, [0, 1, 3, 0, 0, 2, 4, 0]);
        transpose(&[], 0, &mut to, (4, 0), 1);
        assert_eq!(to[0], 0);
    }
}
