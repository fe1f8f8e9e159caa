"""Images per second and memory of shards that are streamed from a local object store, compared with a folder.

    python benchmarks/streaming.py --pictures 40000 --image-size 128 --cache-gigabytes 0.5

Writes random pictures as shards to a folder and to moto, an S3 server in a separate process. Reads whole epochs of
shuffled batches as a training does. The cache is smaller than the set, so each epoch downloads everything again. Prints
images/s and resident memory (without mapped files) after each epoch, and the same for the shards in the folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from artdiff.data.packing import put_array
from artdiff.data.shards import INDEX, Shard, ShardIndex
from artdiff.data.storage import Storage, storage
from artdiff.data.streaming import StreamDataModule
from artdiff.progress import progress

SERVER = """
import logging, time
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(86400)
"""


def write(place: Storage, pictures: int, side: int, megabytes: float) -> None:
    """Write shards of random pictures; one in a hundred is held out."""
    each, generator = max(1, int(megabytes * 1e6 / (side * side * 3))), np.random.default_rng(0)

    def random(*shape: int):
        return generator.integers(0, 256, shape, dtype=np.uint8)

    def shards(name: str, count: int):
        sizes = [min(each, count - first) for first in range(0, count, each)]
        return [
            Shard(size, put_array(place, f"{name}-{number:05d}", random(size, side, side, 3)))
            for number, size in enumerate(progress(sizes, len(sizes), f"writing {name}", unit="shards"))
        ]

    held_out = max(1, pictures // 100)
    train, validation = shards("train", pictures), shards("validation", held_out)
    numbers = np.arange(pictures + held_out, dtype=np.int32)
    index = ShardIndex(
        side=side, fit="squash", background="white", kind="random", classes=["a", "b"], counts={"train": pictures},
        manifest="", train=train, validation=validation, labels=put_array(place, "labels", numbers % 2),
        digests=put_array(place, "digests", random(len(numbers), 32)), groups=put_array(place, "groups", numbers),
    )  # fmt: skip
    place.put(INDEX, index.content())


def module(root: str, cache: Path, args: argparse.Namespace) -> StreamDataModule:
    data = StreamDataModule(
        root=root, image_size=args.image_size, batch_size=args.batch_size, flip=0.0, random_crop=0, train_crop=None,
        seed=0, cache_dir=str(cache), fit=None, cache_gigabytes=args.cache_gigabytes,
    )  # fmt: skip
    data.setup()
    return data


def epoch(data: StreamDataModule) -> float:
    """Images per second of a whole epoch."""
    images, begun = 0, time.perf_counter()
    for wire in data.train_dataloader() if not hasattr(data, "train_loader") else data.train_loader:
        images += len(wire.image)
    return images / (time.perf_counter() - begun)


def own_memory() -> float:
    """Anonymous resident memory of this process in MiB."""
    pages = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(pages["RssAnon"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--shard-megabytes", type=float, default=64)
    parser.add_argument("--cache-gigabytes", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")):
            pass
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                       "AWS_REGION": "us-east-1"}  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, "cache")
            for root in (f"{folder}/shards", "s3://bucket/art"):
                write(storage(root), args.pictures, args.image_size, args.shard_megabytes)
            local = module(f"{folder}/shards", cache, args)
            print(f"from a folder: {epoch(local):,.0f} images/s, {own_memory():,.0f} MiB")
            streamed = module("s3://bucket/art", cache, args)
            for number in range(args.epochs):
                speed = epoch(streamed)
                held = sum(path.stat().st_size for path in (cache / "shards").iterdir()) / 1e9
                print(f"from the store, epoch {number}: {speed:,.0f} images/s, {own_memory():,.0f} MiB, "
                      f"{held:.2f} GB kept on disk")  # fmt: skip
    finally:
        server.kill()


if __name__ == "__main__":
    main()
