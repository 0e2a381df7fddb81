"""Rows out of Parquet shards: Kinora's reader beside pyarrow's, on the same files, in turns.

    python scripts/bench_stream.py FOLDER [--program PATH] [--rounds N]

Kinora reads in its shuffled order and checks each row's hash (`stream_speed`, an example of
kinora-data, which also writes a folder to read: `stream_speed FOLDER --make 1200`). pyarrow reads in
the order of the files, by `iter_batches`, with threads and with one thread, and checks nothing. Both
read the columns media and caption, 64 rows at a time. The first round warms the page cache and does
not count. Needs pyarrow.
"""

import argparse
import glob
import os
import re
import statistics
import subprocess
import time

import pyarrow.parquet as pq


def pyarrow_speed(files, threads):
    start = time.perf_counter()
    total = 0
    for name in files:
        reader = pq.ParquetFile(name)
        for batch in reader.iter_batches(
            batch_size=64, columns=["media", "caption"], use_threads=threads
        ):
            # The offsets' difference: without the media being touched.
            total += batch.column("media").nbytes
    return total / 1e6 / (time.perf_counter() - start)


def kinora_speed(program, folder, workers):
    command = [program, folder, "--passes", "3", "--workers", str(workers)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # A process's first pass also takes its memory from the system; pyarrow keeps its own as well.
    return statistics.median(float(speed) for speed in re.findall(r"pass [12]: (\d+) MB/s", text))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--program", default="target/release/examples/stream_speed")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    files = sorted(glob.glob(os.path.join(arguments.folder, "*.parquet")))
    sides = {
        "kinora, reading ahead": lambda: kinora_speed(arguments.program, arguments.folder, 1),
        "kinora, one thread": lambda: kinora_speed(arguments.program, arguments.folder, 0),
        "pyarrow, threads": lambda: pyarrow_speed(files, True),
        "pyarrow, one thread": lambda: pyarrow_speed(files, False),
    }
    speeds = {name: [] for name in sides}
    for turn in range(arguments.rounds + 1):
        for name, measure in sides.items():
            speed = measure()
            if turn > 0:
                speeds[name].append(speed)
    print(f"MB/s of {len(files)} files, {arguments.rounds} rounds")
    for name, values in speeds.items():
        print(f"{name:24} median {statistics.median(values):6.0f}  best {max(values):6.0f}")
    ours = max(statistics.median(speeds[name]) for name in speeds if name.startswith("kinora"))
    threads = statistics.median(speeds["pyarrow, threads"])
    single = max(speeds["pyarrow, one thread"])
    print(f"kinora's median is {ours / threads:.2f} of pyarrow's with threads")
    print(f"kinora's median is {ours / single:.2f} of pyarrow's best with one thread")


if __name__ == "__main__":
    main()
