//! Choosing the bucket of a sample.

use crate::Bucket;

/// What a sample's columns or headers say of its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Size {
    pub(crate) frames: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Frames a second; 0 if nobody needs it.
    pub(crate) fps: f64,
    /// Its duration; 0 if nobody needs it.
    pub(crate) seconds: f64,
}

/// Why no bucket takes a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refused {
    NoBucket,
    TooShort,
    TooSlow,
}

/// Clips are rarely a whole number of hundredths long, and rates are 29.97 where 30 is meant.
const SLACK: f64 = 0.01;

/// The bucket that takes a sample.
///
/// Images go to buckets of images and videos to the others: a video's caption speaks of motion.
/// Among these, the most frames that the clip can fill; then the nearest aspect ratio; then the
/// largest size that needs no upscaling, or, if there is none, the smallest.
pub(crate) fn choose(buckets: &[Bucket], size: Size) -> Result<usize, Refused> {
    let Size { height, width, .. } = size;
    let mut refused = Refused::NoBucket;
    let mut fitting = Vec::new();
    for (index, bucket) in buckets.iter().enumerate() {
        match fits(bucket, size) {
            Ok(()) => fitting.push(index),
            // What would help least is said: a clip can be too slow only where it is long enough.
            Err(reason) => refused = refused.max(reason),
        }
    }
    let frames = |&index: &usize| buckets[index].frames;
    let most = fitting.iter().map(frames).max().ok_or(refused)?;
    let aspect = |height: usize, width: usize| (width as f64 / height as f64).ln();
    let key = |index: &usize| {
        let bucket = &buckets[*index];
        let distance = (aspect(bucket.height, bucket.width) - aspect(height, width)).abs();
        let upscaled = bucket.height > height || bucket.width > width;
        let area = (bucket.height * bucket.width) as i64;
        // Ratios that differ by less than a thousandth are the same ratio, rounded to pixels.
        (
            (distance * 1000.0).round() as i64,
            upscaled,
            if upscaled { area } else { -area },
        )
    };
    fitting.retain(|index| frames(index) == most);
    fitting.into_iter().min_by_key(key).ok_or(refused)
}

fn fits(bucket: &Bucket, size: Size) -> Result<(), Refused> {
    if bucket.is_image() != (size.frames == 1) {
        return Err(Refused::NoBucket);
    }
    let when = |fits, reason| if fits { Ok(()) } else { Err(reason) };
    if !bucket.timed() {
        return when(bucket.frames <= size.frames, Refused::TooShort);
    }
    let [from, to] = bucket.seconds.unwrap_or([0.0, f64::INFINITY]);
    when(size.seconds >= from * (1.0 - SLACK), Refused::TooShort)?;
    when(size.seconds < to, Refused::NoBucket)?;
    let rate = match bucket.fps {
        Some(fps) => {
            let needed = bucket.frames as f64 / fps * (1.0 - SLACK);
            when(size.seconds >= needed, Refused::TooShort)?;
            fps
        }
        None => bucket.frames as f64 / size.seconds,
    };
    // Frames shown twice would teach that things stand still.
    when(size.fps >= rate * (1.0 - SLACK), Refused::TooSlow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size([frames, height, width]: [usize; 3]) -> Size {
        Size {
            frames,
            height,
            width,
            fps: 0.0,
            seconds: 0.0,
        }
    }

    #[test]
    fn a_sample_goes_to_the_bucket_that_fits_best() {
        let buckets = [
            [1, 64, 64],
            [16, 64, 64],
            [16, 32, 32],
            [16, 36, 64],
            [48, 64, 64],
            [1, 32, 32],
        ]
        .map(|[frames, height, width]| Bucket::new(frames, height, width, 4));
        for (of, wanted) in [
            // The most frames come first, even at the price of the aspect ratio.
            ([48, 72, 128], Ok(4)),
            ([47, 72, 128], Ok(3)),
            // Then the aspect ratio, then the size.
            ([16, 100, 100], Ok(1)),
            ([16, 64, 64], Ok(1)),
            ([16, 63, 63], Ok(2)),
            ([16, 20, 20], Ok(2)),
            ([16, 90, 160], Ok(3)),
            ([15, 64, 64], Err(Refused::TooShort)),
            ([1, 500, 400], Ok(0)),
            ([1, 40, 40], Ok(5)),
            ([1, 8, 8], Ok(5)),
        ] {
            assert_eq!(choose(&buckets, size(of)), wanted, "{of:?}");
        }
        let images = [Bucket::new(1, 8, 8, 4)];
        assert_eq!(choose(&images, size([16, 8, 8])), Err(Refused::NoBucket));
    }

    #[test]
    fn movie_gens_durations() {
        let bucket = |frames, fps, from, to| Bucket {
            fps,
            seconds: Some([from, to]),
            ..Bucket::new(frames, 64, 64, 1)
        };
        let buckets = [
            bucket(128, None, 4.0, 8.0),
            bucket(192, None, 8.0, 12.0),
            bucket(256, None, 12.0, 16.0),
            bucket(256, Some(24.0), 10.667, 12.0),
            bucket(256, Some(16.0), 16.0, f64::INFINITY),
        ];
        for (seconds, fps, wanted) in [
            (3.0, 30.0, Err(Refused::TooShort)),
            (5.0, 30.0, Ok(0)),
            // 128 frames of 4.3 seconds are 29.8 a second.
            (4.3, 30.0, Ok(0)),
            (4.3, 24.0, Err(Refused::TooSlow)),
            (9.0, 30.0, Ok(1)),
            (11.0, 30.0, Ok(3)),
            // Slower than 24 frames a second, it is spread over fewer frames.
            (11.0, 20.0, Ok(1)),
            (15.0, 30.0, Ok(2)),
            (16.0, 29.97, Ok(4)),
            (700.0, 16.0, Ok(4)),
            (700.0, 12.0, Err(Refused::TooSlow)),
        ] {
            let size = Size {
                fps,
                seconds,
                ..size([(seconds * fps) as usize, 64, 64])
            };
            assert_eq!(choose(&buckets, size), wanted, "{seconds} s at {fps}");
        }
    }
}
