"""Shards hold what a folder holds; a training reads them from a folder or an object store and carries on exactly."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
import torch
from conftest import command_line, composed, in_process, put, small, train

import artdiff
from artdiff import UserError, cache
from artdiff.data import storage
from artdiff.data.datamodule import ArtDataModule
from artdiff.data.loader import ShuffledOrder
from artdiff.data.shards import LANES, FromShards, ShardIndex, ShardOrder
from artdiff.data.storage import Entry, InFolder, InStore
from artdiff.data.streaming import StreamDataModule
from artdiff.pack import pack
from artdiff.ranks import Ranks
from artdiff.settings.base import defaults
from artdiff.settings.data import PackSettings

SIZE = ("data.image_size=16", "data.val_fraction=0.2")
TINY = "shard_megabytes=0.005"  # six pictures of 16 px
WORDS = (
    *("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null"),
    *("data=stream", "data.image_size=16", "loss=mse", "callbacks.grids=null", "data.batch_size=8", "data.flip=0.5"),
    *("trainer.precision=32-true", "task.label_dropout=0.5"),
)


def packed(art, out, *more):
    return pack(PackSettings.of(composed("pack", f"data.root={art}", *SIZE, TINY, f"out={out}", *more)))


@pytest.fixture(scope="module")
def shards(art, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "shards"
    packed(art, folder)
    return folder


@pytest.fixture(scope="module")
def store():
    """The address of an object store that speaks S3, with an empty bucket."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{int(server.stdout.readline())}"
    with urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")):
        pass
    variables = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                 "AWS_REGION": "us-east-1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield "s3://bucket"
    server.kill()
    server.wait()


SERVER = """
import logging, sys, time
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""


def data(root, **settings):
    known = defaults("data/stream") | {"image_size": 16, "seed": 0}
    del known["root"]
    return StreamDataModule(**known, **settings, root=str(root))


def test_shards_hold_the_pictures_of_the_folder(art, shards):
    usual = composed("audit", f"data.root={art}", *SIZE, "data.captions=none", "out=unused")
    folder = ArtDataModule(**usual["data"])
    folder.setup()
    streamed = data(shards)
    streamed.setup()
    assert streamed.classes == folder.classes
    assert streamed.manifest == folder.manifest
    for side in ("train_set", "val_set"):
        theirs, ours = getattr(folder, side), getattr(streamed, side)
        expected = {picture.tobytes(): int(label) for picture, label in zip(*_all(theirs), strict=True)}
        assert {picture.tobytes(): int(label) for picture, label in zip(*_all(ours), strict=True)} == expected
        assert len(ours) == len(theirs)
        assert ours.labels.dtype == torch.int64
    keys = dict(zip((one.digest for one in folder.index.used), folder._contents(mirrored=False).keys, strict=True))
    digests = [bytes(one).hex() for one in streamed._digests]
    assert streamed._contents(mirrored=False).keys == [keys[one] for one in digests]  # so latents are shared
    assert len(set(streamed.near_duplicate_groups())) == len(set(folder.near_duplicate_groups()))


def _all(pictures):
    return pictures.source.read(pictures.indices).pixels, pictures.labels


def test_packing_lists_what_is_left_out(art, tmp_path):
    root = tmp_path / "art"
    for number in range(12):
        put(root / f"{number}.jpg")
    put(root / "copy.jpg").write_bytes((root / "3.jpg").read_bytes())
    (root / "broken.jpg").write_bytes(b"no picture")
    printed = in_process("artdiff.pack", f"data.root={root}", *SIZE, "out=shards", cwd=tmp_path)
    assert "broken.jpg" in (tmp_path / "shards/set_aside.tsv").read_text()
    assert "copy.jpg" in (tmp_path / "shards/duplicates.tsv").read_text()
    assert len((tmp_path / "shards/manifest.tsv").read_text().splitlines()) == 1 + 13
    assert "artdiff.train data=stream data.root=shards data.image_size=16" in printed
    run = train(small(root, tmp_path / "run", *WORDS, f"data.root={tmp_path}/shards"))
    assert "broken.jpg" in (run.folder / "set_aside.tsv").read_text()
    assert run.metadata["data"]["set_aside"] == 1


def test_packing_goes_on_where_it_was_stopped(art, tmp_path):
    found = packed(art, tmp_path / "out")
    kept, lost = (tmp_path / "out" / found.train[number].entry.name for number in (0, 1))
    (tmp_path / "out/index.json").unlink()
    lost.write_bytes(lost.read_bytes()[:100])
    before = kept.stat().st_mtime_ns
    assert packed(art, tmp_path / "out") == found
    assert kept.stat().st_mtime_ns == before
    assert lost.stat().st_size == found.train[1].entry.bytes


def test_packing_replaces_nothing_else(art, shards, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/manifest.tsv").write_text("mine")
    with pytest.raises(UserError, match=r"out holds manifest.tsv already; choose another folder"):
        packed(art, tmp_path / "mine")
    assert (tmp_path / "mine/manifest.tsv").read_text() == "mine"
    with pytest.raises(UserError, match="out holds the shards of other pictures already; choose another folder"):
        packed(art, shards, "data.image_size=24")


def test_shards_of_other_sizes_are_in_another_order(art, shards, tmp_path):
    packed(art, tmp_path / "larger", "shard_megabytes=0.01")
    modules = [data(shards), data(tmp_path / "larger")]
    for one in modules:
        one.setup()
    assert modules[0].index.digests == modules[1].index.digests
    assert modules[0]._order_of() != modules[1]._order_of()


@pytest.mark.parametrize("sizes", [[5], [7, 7, 7], [6] * 23 + [2], [6] * (2 * LANES)])
def test_each_picture_comes_once_an_epoch(sizes):
    asked = []
    order = ShardOrder(sizes, 3, 1, asked.append)
    found = order(range(sum(sizes)))
    assert sorted(found) == list(range(sum(sizes)))
    assert len(asked) == max(0, len(sizes) - LANES)  # each is announced but those that begin a lane
    assert found != ShardOrder(sizes, 3, 2, abs)(range(sum(sizes)))
    backwards = ShardOrder(sizes, 3, 1, abs)(range(sum(sizes) - 1, -1, -1))
    assert backwards[::-1] == found  # any place can be asked for at any time


def test_few_shards_are_read_at_a_time():
    sizes = [100] * 40
    found = np.array(ShardOrder(sizes, 0, 0, abs)(range(4000))) // 100
    assert max(len(set(found[first : first + 100])) for first in range(0, 4000, 100)) <= 2 * LANES
    neighbours = Counter(found[:100])
    assert len(neighbours) == LANES  # a batch is of many shards


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_read_different_shards(world):
    sizes, served = [100] * 32, []
    for number in range(world):
        order = ShuffledOrder(3200, 0, 16, Ranks(number, world), lambda *chance: ShardOrder(sizes, *chance, abs))
        served.append({turn.picture // 100 for turn in order})
    assert sum(len(one) for one in served) == len(set.union(*served)) == 32


@pytest.mark.slow
def test_a_streamed_run_resumes_exactly_and_paints(shards, tmp_path):
    whole = train(small(shards, tmp_path / "whole", *WORDS, "trainer.max_steps=7"))
    part = train(small(shards, tmp_path / "part", *WORDS, "trainer.max_steps=3"))  # an epoch has five
    again = train(small(shards, tmp_path / "again", *WORDS, "trainer.max_steps=7", f"ckpt={part.last}"))
    found, expected = (torch.load(run.last, weights_only=True) for run in (again, whole))
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    assert found["StreamDataModule"] == expected["StreamDataModule"]
    assert artdiff.load(again.folder, device="cpu").paint(n=1, label="truchet", steps=2)


@pytest.mark.slow
def test_latents_of_streamed_pictures_are_kept(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ARTDIFF_CACHE", str(tmp_path / "cache"))
    tiny = ("codec=f4", "codec.encoder=[16]", "codec.decoder=[16]", "codec.num_res_blocks=1")
    streamed = ("data=stream", "data.image_size=16", "loss=mse")
    codec = train(small(shards, tmp_path / "codec", "task=autoencoder", *tiny, *streamed))
    train(small(shards, tmp_path / "run", *WORDS, "task.data_std=1.0", *tiny, f"codec_from={codec.folder}"))
    assert {one.what for one in cache.kept(tmp_path / "cache")} == {"latents of pictures"}


@pytest.mark.slow
def test_an_object_store_gives_what_a_folder_gives(art, shards, store, tmp_path, monkeypatch):
    monkeypatch.setenv("ARTDIFF_CACHE", str(tmp_path / "cache"))
    url = f"{store}/one"
    assert packed(art, url) == ShardIndex.read(InFolder(shards), "shards")
    local = train(small(shards, tmp_path / "local", *WORDS, "trainer.max_steps=7"))
    words = ("debug=two_steps", f"data.root={url}", *WORDS, "trainer.max_steps=7", "trainer=ddp")
    two = (*words, "trainer.accelerator=cpu", "trainer.devices=2", f"hydra.run.dir={tmp_path}/two")
    printed = command_line("artdiff.train", *two, cwd=tmp_path)
    assert f"data: {url}: " in printed
    found, expected = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (tmp_path / "two",
                       local.folder))  # fmt: skip
    for name, value in expected["state_dict"].items():
        assert torch.allclose(found["state_dict"][name], value, rtol=1e-3, atol=1e-5), name
    fetched = [one for one in cache.kept(tmp_path / "cache") if one.what == "pictures from an object store"]
    assert sum(len(one.paths) for one in fetched) == len(ShardIndex.read(InFolder(shards), "shards").shards)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("data", "chunks")]


def test_what_is_fetched_stays_below_the_limit(art, store, tmp_path):
    index = packed(art, f"{store}/limited")
    size = index.train[0].entry.bytes
    place = storage.storage(f"{store}/limited", tmp_path / "cache", gigabytes=2.5 * size / 1e9)
    source = FromShards(place, index.shards, index.side)
    for number in range(len(index.shards)):
        whole = source.read(np.array([source.starts[number]])).pixels
        assert whole.shape == (1, 16, 16, 3)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.shard")) <= 2.5 * size


@pytest.fixture
def nobody(monkeypatch):
    """An object store that answers nobody."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return "s3://nobody"


def shard(folder, digit):
    """A shard that was fetched, and its lock."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{digit * 32}.shard"
    path.write_bytes(bytes(100))
    path.with_suffix(".lock").touch()
    return path


def test_a_shard_that_somebody_else_has_fetched_is_read(nobody, tmp_path, monkeypatch):
    path = shard(tmp_path, "a")

    def denied(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", denied)
    assert InStore(nobody, tmp_path, gigabytes=1).local(Entry("a.npy", 100, "a" * 64)) == path


def test_the_lock_of_a_shard_goes_with_it(nobody, tmp_path):
    shard(tmp_path / "shards", "a")
    InStore(nobody, tmp_path / "shards", gigabytes=50e-9)._make_room(50)
    assert [*(tmp_path / "shards").iterdir()] == []
    shard(tmp_path / "shards", "b")
    assert [cache.remove(one) for one in cache.kept(tmp_path)] == [True]
    assert [*(tmp_path / "shards").iterdir()] == []


def test_a_damaged_object_is_refused(store, tmp_path, caplog):
    place = InStore(f"{store}/damaged", tmp_path, gigabytes=1)
    place.put("a.npy", b"something else")
    with pytest.raises(UserError, match=r"s3://bucket/damaged/a.npy is damaged: its SHA-256 is not aaaa"):
        place.local(Entry("a.npy", 14, "a" * 64))
    assert caplog.text.count("arrived damaged: fetching it again") == 1 + storage.RETRIES
    assert not [*tmp_path.glob("*.shard*"), *tmp_path.glob("*.unfinished")]


def test_what_cannot_be_streamed_is_one_line(art, shards, store, tmp_path):
    def refused(root, message, *more):
        with pytest.raises(UserError, match=message) as caught:
            train(small(root, tmp_path / "run", *WORDS, *more))
        assert "\n" not in str(caught.value)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no index.json: write it with artdiff.pack")
    refused(f"{store}/nothing", "has no index.json: write it with artdiff.pack")
    refused(shards, "hold pictures of 16 px, expected data.image_size=32 plus data.random_crop=0; set "
            "data.image_size=16", "data.image_size=32")  # fmt: skip
    refused(shards, "packed with data.fit=squash, got data.fit=crop; pack again with data.fit=crop", "data.fit=crop")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        os.link(path, copy / path.name)
    index = json.loads((shards / "index.json").read_text())
    (copy / index["train"][0]["entry"][0]).unlink()
    refused(copy, r"train-00000-\w+.npy cannot be read: No such file or directory")
    (copy / "index.json").unlink()
    (copy / "index.json").write_text(json.dumps(index | {"format": 2}))
    refused(copy, r"written by a newer artdiff \(format 2\): update it")
    (copy / "index.json").write_text("{")
    refused(copy, "index.json is damaged")
    with pytest.raises(UserError, match="data.root=s3://x is no folder; shards .* are read with data=stream"):
        train(small("s3://x", tmp_path / "run"))
    with pytest.raises(UserError, match="out=.* lies in data.root"):
        packed(art, art / "out")


def test_a_store_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "RETRY", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    begun = time.monotonic()
    with pytest.raises(UserError, match="s3://nobody/index.json cannot be read: ") as caught:
        InStore("s3://nobody", tmp_path, gigabytes=1).read("index.json")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 60


def test_captions_files_and_metadata_are_packed_and_learned(art, tmp_path):
    folder = tmp_path / "captioned"
    shutil.copytree(art, folder)
    lines = [f"{path.relative_to(folder)},a {path.parent.name},ada" for path in sorted(folder.rglob("*.jpg"))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text,artist", *lines]))
    packed(folder, tmp_path / "shards", "data.captions=auto")
    words = ("trainer=cpu", "trainer.max_steps=2", "data.captions=auto", f"data.root={tmp_path / 'shards'}")
    run = train(composed("train", *WORDS, *words, f"run_dir={tmp_path / 'run'}"))
    assert "truchet" in artdiff.load(run, device="cpu").vocabulary
    data = StreamDataModule(**composed("train", *WORDS, *words, "run_dir=unused")["data"])
    data.setup()
    assert len(data.files()) == len(data.train_set) == len(data.columns()["artist"])
    for place, file in enumerate(data.files()):
        assert data.train_set.captions[place] == f"a {file.partition('/')[0]}"
        assert data.classes[data.train_set.labels[place]] == file.partition("/")[0]


def test_captions_that_are_not_there_are_not_packed(art, tmp_path):
    with pytest.raises(UserError, match=r"data\.captions=auto finds none in .*: expected a column text"):
        packed(art, tmp_path / "shards", "data.captions=auto")
    assert not (tmp_path / "shards").exists()


def test_packing_says_how_to_train_on_captions(art, tmp_path):
    words = (f"data.root={art}", *SIZE, "data.captions=filename", "out=shards")
    printed = in_process("artdiff.pack", *words, cwd=tmp_path)
    assert printed.rstrip().endswith("data.root=shards data.image_size=16 data.captions=auto")


def test_captions_that_were_not_packed_are_one_line(shards):
    data = StreamDataModule(
        **composed("train", *WORDS, "data.captions=auto", f"data.root={shards}", "run_dir=unused")["data"]
    )
    with pytest.raises(UserError, match=r"were packed without captions: pack again with data\.captions=auto"):
        data.setup()
