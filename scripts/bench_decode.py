#!/usr/bin/env python3
"""Decoding speed of Kinora beside PyAV: the same clips, frames, crop and size, in one run.

Build first: cargo build --release -p kinora-media --features ffmpeg --example decode_speed
Needs: pip install av numpy pillow

usage: bench_decode.py [--program PATH] [--size 256] [--rounds 5] [--threads 1,2] CLIPS...

PyAV is taken at its best of three: FFmpeg's scaler to the short side and a cut in NumPy, the same with
the filter "area", and Pillow (crop, then bicubic). Each round runs all sides one after the other, so that
a loaded machine slows all of them; the ratios are of medians.
"""

import argparse
import json
import statistics
import subprocess
import time

import av
import numpy as np
from PIL import Image


def scaled(frame, size, how):
    short = min(frame.height, frame.width)
    height = round(frame.height * size / short)
    width = round(frame.width * size / short)
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation=how)
    top, left = (height - size) // 2, (width - size) // 2
    return small.to_ndarray()[top : top + size, left : left + size]


def pillow(frame, size, _):
    short = min(frame.height, frame.width)
    left, top = (frame.width - short) / 2, (frame.height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(frame.to_image().resize((size, size), Image.BICUBIC, box=box))


WAYS = {
    "swscale bicubic": (scaled, "BICUBIC"),
    "swscale area": (scaled, "AREA"),
    "pillow": (pillow, None),
}


def pyav(path, size, threads, way):
    take, how = WAYS[way]
    start = time.perf_counter()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        frames = [take(frame, size, how) for frame in container.decode(stream)]
    clip = np.stack(frames)
    return len(clip) / (time.perf_counter() - start)


def kinora(program, path, size, threads, built_in):
    command = [program, "--threads", str(threads), "--size", str(size), "--repeat", "1"]
    command += (["--built-in"] if built_in else []) + [path]
    return json.loads(subprocess.check_output(command))[0]["fps"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="target/release/examples/decode_speed")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("clips", nargs="+")
    args = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    for clip in args.clips:
        for threads in map(int, args.threads.split(",")):
            sides = {f"PyAV, {way}": (lambda way=way: pyav(clip, args.size, threads, way)) for way in WAYS}
            sides["Kinora, FFmpeg"] = lambda: kinora(args.program, clip, args.size, threads, False)
            if threads == 1:
                sides["Kinora, built in"] = lambda: kinora(args.program, clip, args.size, 1, True)
            rates = {name: [] for name in sides}
            for _ in range(args.rounds):
                for name, run in sides.items():
                    rates[name].append(run())
            median = {name: statistics.median(found) for name, found in rates.items()}
            best = max(rate for name, rate in median.items() if name.startswith("PyAV"))
            print(f"{clip}, {threads} thread(s):")
            for name, rate in median.items():
                print(f"  {name:24} {rate:8.0f} frames/s  {rate / best:5.2f} of PyAV's best")


if __name__ == "__main__":
    main()
