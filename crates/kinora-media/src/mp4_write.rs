//! Writing MP4: one H.264 track, all tables in front of the frames, so that a player can start
//! before it has the whole file.

/// What the tables say of the track.
pub(crate) struct Header<'a> {
    /// Coded `[height, width]`.
    pub(crate) coded: [usize; 2],
    /// The size `[height, width]` it is shown at.
    pub(crate) shown: [usize; 2],
    /// Units of time per second, and the length of a frame in them.
    pub(crate) rate: [u32; 2],
    /// The sequence and the picture parameter set, without start codes.
    pub(crate) parameters: [&'a [u8]; 2],
    /// Bytes of each frame, and whether decoding can start at it.
    pub(crate) frames: &'a [(u32, bool)],
    /// The encoder's name for itself, at most 31 bytes.
    pub(crate) encoder: &'a [u8],
}

impl Header<'_> {
    /// Everything in front of the frames' bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body: u64 = self.frames.iter().map(|&(size, _)| u64::from(size)).sum();
        let name = fixed(b"ftyp", |out| out.extend(b"isom\0\0\x02\0isomiso2avc1mp41"));
        // The tables hold the place of the frames, which depends on the tables' length, but not on
        // the place itself: so they are written twice.
        let long = body > u64::from(u32::MAX) - (1 << 30);
        let head = if long { 16 } else { 8 };
        let start = name.len() + self.movie(0, long).len() + head;
        let mut out = [name, self.movie(start as u64, long)].concat();
        if long {
            out.extend(1u32.to_be_bytes());
            out.extend(b"mdat");
            out.extend((body + 16).to_be_bytes());
        } else {
            out.extend((body as u32 + 8).to_be_bytes());
            out.extend(b"mdat");
        }
        out
    }

    fn movie(&self, start: u64, long: bool) -> Vec<u8> {
        let [timescale, length] = self.rate;
        let duration = self.frames.len() as u64 * u64::from(length);
        fixed(b"moov", |out| {
            out.extend(versioned(b"mvhd", 1 << 24, |out| {
                times(out, &[], timescale, duration);
                out.extend([0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                matrix(out);
                out.extend([0; 24]);
                words(out, &[2]);
            }));
            out.extend(fixed(b"trak", |out| {
                // The track is enabled, and part of the movie.
                out.extend(versioned(b"tkhd", 1 << 24 | 3, |out| {
                    out.extend([0; 16]);
                    words(out, &[1, 0]);
                    out.extend(duration.to_be_bytes());
                    out.extend([0; 16]);
                    matrix(out);
                    words(
                        out,
                        &[(self.shown[1] as u32) << 16, (self.shown[0] as u32) << 16],
                    );
                }));
                out.extend(fixed(b"mdia", |out| {
                    out.extend(versioned(b"mdhd", 1 << 24, |out| {
                        // The language "und", packed in 15 bits.
                        times(out, &[0x55, 0xC4, 0, 0], timescale, duration);
                    }));
                    out.extend(versioned(b"hdlr", 0, |out| {
                        out.extend(b"\0\0\0\0vide\0\0\0\0\0\0\0\0\0\0\0\0Video\0");
                    }));
                    out.extend(fixed(b"minf", |out| {
                        out.extend(versioned(b"vmhd", 1, |out| out.extend([0; 8])));
                        out.extend(fixed(b"dinf", |out| {
                            out.extend(versioned(b"dref", 0, |out| {
                                words(out, &[1]);
                                out.extend(versioned(b"url ", 1, |_| {}));
                            }));
                        }));
                        out.extend(fixed(b"stbl", |out| self.table(out, start, long)));
                    }));
                }));
            }));
        })
    }

    fn table(&self, out: &mut Vec<u8>, start: u64, long: bool) {
        let count = self.frames.len() as u32;
        out.extend(versioned(b"stsd", 0, |out| {
            words(out, &[1]);
            out.extend(fixed(b"avc1", |out| self.description(out)));
        }));
        out.extend(versioned(b"stts", 0, |out| {
            words(out, &[1, count, self.rate[1]])
        }));
        out.extend(versioned(b"stss", 0, |out| {
            let sync: Vec<u32> = (1..)
                .zip(self.frames)
                .filter(|(_, frame)| frame.1)
                .map(|(i, _)| i)
                .collect();
            words(out, &[sync.len() as u32]);
            words(out, &sync);
        }));
        out.extend(versioned(b"stsc", 0, |out| words(out, &[1, 1, count, 1])));
        out.extend(versioned(b"stsz", 0, |out| {
            words(out, &[0, count]);
            self.frames
                .iter()
                .for_each(|&(size, _)| words(out, &[size]));
        }));
        if long {
            out.extend(versioned(b"co64", 0, |out| {
                words(out, &[1]);
                out.extend(start.to_be_bytes());
            }));
        } else {
            out.extend(versioned(b"stco", 0, |out| words(out, &[1, start as u32])));
        }
    }

    fn description(&self, out: &mut Vec<u8>) {
        let [sequence, picture] = self.parameters;
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        out.extend([0; 16]);
        for side in [self.coded[1], self.coded[0]] {
            out.extend((side as u16).to_be_bytes());
        }
        // 72 dots an inch, and one frame a sample.
        words(out, &[72 << 16, 72 << 16, 0]);
        out.extend([0, 1]);
        let mut name = [0; 32];
        name[0] = self.encoder.len() as u8;
        name[1..][..self.encoder.len()].copy_from_slice(self.encoder);
        out.extend(name);
        out.extend([0, 24, 0xFF, 0xFF]);
        out.extend(fixed(b"avcC", |out| {
            out.extend([1, sequence[1], sequence[2], sequence[3], 0xFF, 0xE1]);
            out.extend((sequence.len() as u16).to_be_bytes());
            out.extend(sequence);
            out.push(1);
            out.extend((picture.len() as u16).to_be_bytes());
            out.extend(picture);
            // The profiles from High on repeat chroma 4:2:0 and 8 bits.
            if !matches!(sequence[1], 66 | 77 | 88) {
                out.extend([0xFD, 0xF8, 0xF8, 0]);
            }
        }));
        // BT.709, limited range.
        out.extend(fixed(b"colr", |out| {
            out.extend(b"nclx\0\x01\0\x01\0\x01\0")
        }));
    }
}

/// A box.
pub(crate) fn fixed(name: &[u8; 4], fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(name);
    fill(&mut out);
    let size = out.len() as u32;
    out[..4].copy_from_slice(&size.to_be_bytes());
    out
}

/// A box with a version in the first byte and flags in the other three.
pub(crate) fn versioned(name: &[u8; 4], version: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    fixed(name, |out| {
        words(out, &[version]);
        fill(out);
    })
}

pub(crate) fn words(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend(word.to_be_bytes()));
}

/// Times of creation (left out, so that equal clips give equal bytes), the units and the length.
fn times(out: &mut Vec<u8>, tail: &[u8], timescale: u32, duration: u64) {
    out.extend([0; 16]);
    words(out, &[timescale]);
    out.extend(duration.to_be_bytes());
    out.extend(tail);
}

/// The unit matrix.
fn matrix(out: &mut Vec<u8>) {
    words(out, &[1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]);
}
