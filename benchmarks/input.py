"""Images a second from JPEG files to batches, by number of reader threads and of worker processes.

python benchmarks/input.py --workers 0 1 2 4 --processes 1 2

Makes its own JPEGs of 256..500 pixels in a temporary folder and reads them as `dataset = {"name": "folder"}`, cropped
to 256 pixels and flipped. A worker process is one of a pool that decodes records and sends them back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.data.folder import Dataset
from flexidit_jax.data.loader import batches

BATCH = 32


def write_images(folder: Path, images: int) -> None:
    """Smooth noise in two classes; a file is about as large as one of ImageNet's size and quality would be."""
    rng = np.random.default_rng(0)
    for i in range(images):
        width, height = (int(side) for side in rng.integers(256, 501, 2))
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        file = folder / f"class{i % 2}" / f"{i:05d}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)


def rate(draw: Callable[[], object], number: int) -> float:
    """Images a second over `number` batches, after one that warms up."""
    draw()
    began = time.perf_counter()
    for _ in range(number):
        draw()
    return number * BATCH / (time.perf_counter() - began)


def processes(folder: Path, workers: int, number: int) -> float:
    """The same through a pool of processes, each with a data set of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_open, initargs=(folder,)) as pool:
        list(pool.map(_read, range(4 * workers)))

        def draw() -> np.ndarray:
            return np.stack(list(pool.map(_read, range(BATCH), chunksize=4)))

        return rate(draw, number)


def _open(folder: Path) -> None:
    keep_freed_memory()
    globals()["_source"] = Dataset(path=str(folder)).source()


def _read(i: int) -> np.ndarray:
    return globals()["_source"][i]["x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batches", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3, help="the best is printed")
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, args.images)
        dataset = Dataset(path=str(folder))
        size = np.mean([file.stat().st_size for file in folder.rglob("*.jpg")])
        print(f"{args.images} JPEGs, {size / 1e3:.0f} kB each, to 256x256, batches of {BATCH}")
        contenders: dict[str, Callable[[], float]] = {}
        for workers in args.workers:
            stream = batches(dataset.source(), BATCH, 0, dataset.augment, workers)
            contenders[f"{workers} threads"] = partial(rate, partial(next, stream), args.batches)
        for workers in args.processes:
            contenders[f"{workers} processes"] = partial(processes, folder, workers, args.batches)
        for label, measured in contenders.items():
            print(f"{label}: {max(measured() for _ in range(args.repeats)):.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
