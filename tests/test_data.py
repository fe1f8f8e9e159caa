"""From files to batches: the same batches in the same order, wherever the pixels come from."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed, picture, put
from hydra.utils import instantiate
from PIL import Image

from artdiff import UserError, images
from artdiff.data import augment
from artdiff.data import pixels as pixel_sources
from artdiff.data.loader import NO_LABEL, ResumableLoader, ShuffledOrder, Turn, chance
from artdiff.ingest import sample_art, scan
from artdiff.ingest.source import Record


def module(root, **changes):
    config = composed("train", "run_dir=unused", "data.image_size=16", "data.batch_size=4")["data"]
    data = instantiate(config | {"root": root and str(root), "val_fraction": 0.2} | changes)
    data.setup()
    return data


# order


def _served(loader):
    return [turn.picture for batch in loader for turn in batch]


class _Turns(torch.utils.data.Dataset):
    """Ten pictures; each is the turn in which it is asked for."""

    def __len__(self):
        return 10

    def __getitems__(self, turns):
        return turns


def _loader(seed=0, workers=0):
    return ResumableLoader(_Turns(), 3, sampler=ShuffledOrder(10, seed, 3), collate_fn=list, num_workers=workers)


def test_every_epoch_has_its_own_order_of_everything():
    loader = _loader()
    first, second = _served(loader), _served(loader)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    again = _loader()
    assert (_served(again), _served(again)) == (first, second)
    assert _served(_loader(seed=1)) != first


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_the_order_resumes_where_it_was_saved(batches):
    loader = _loader()
    _served(loader)
    served = iter(loader)
    before = [next(served) for _ in range(batches)]
    resumed = _loader()
    resumed.go_to(loader.position())
    rest = list(served) if batches < len(loader) else list(loader)
    assert rest == list(resumed)
    assert len(before) == batches


def test_loading_in_processes_changes_nothing():
    alone, helped = _loader(), _loader(workers=2)
    assert [list(alone), list(alone)] == [list(helped), list(helped)]


def test_chance_is_a_function_of_seed_epoch_and_position():
    turns = [Turn(picture=100 - position, epoch=3, position=position) for position in range(50)]
    numbers = chance(7, turns)
    assert numbers.shape == (50, 4)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.1
    assert np.array_equal(np.concatenate([chance(7, turns[:13]), chance(7, turns[13:])]), numbers)
    assert len(np.unique(numbers)) == 200
    assert chance(0, [Turn(0, 3, 339170)]).max() < 1  # where rounding would give 1, and a crop would lie outside
    for other in (chance(8, turns), chance(7, [turn._replace(epoch=4) for turn in turns])):
        assert not np.isin(other, numbers).any()


# augmentation


def test_crops_lie_where_chance_says():
    image = torch.arange(6 * 8).reshape(1, 1, 6, 8).expand(3, 2, 6, 8)
    cut = augment.crop(image, 4, torch.tensor([[0.0, 0.0], [0.5, 0.99], [0.99, 0.4]]))
    for index, (down, right) in enumerate([(0, 0), (1, 4), (2, 2)]):
        assert torch.equal(cut[index], image[index, :, down : down + 4, right : right + 4])
    assert torch.equal(augment.crop(image, 4, None), image[:, :, 1:5, 2:6])


def test_the_share_of_flips_is_as_set():
    image = torch.arange(4.0).expand(1000, 1, 1, 4)
    numbers = torch.from_numpy(chance(0, [Turn(0, 0, position) for position in range(1000)]))[:, 0]
    flipped = augment.flip(image, 0.3, numbers)
    mirrored = flipped[:, 0, 0, 0] == 3
    assert torch.equal(mirrored, numbers < 0.3)
    assert 250 < mirrored.sum() < 350
    assert torch.equal(flipped[mirrored].flip(-1), image[mirrored])


# datamodule


def batches(data, epochs=2):
    """The batches of some epochs of training."""
    loader = data.train_dataloader()
    device = torch.device("cpu")
    found = [
        data.on_after_batch_transfer(data.transfer_batch_to_device(wire, device, 0), 0)
        for _ in range(epochs)
        for wire in loader
    ]
    del loader, data.train_loader  # and its processes with it
    return found


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(first.image, second.image)
        and torch.equal(first.label, second.label)
        and (first.index is None or second.index is None or torch.equal(first.index, second.index))
        for first, second in zip(one, other, strict=True)
    )


def test_batches_are_bytes_on_the_wire_and_signed_floats_after_it(art):
    data = module(art)
    wire = next(iter(data.train_dataloader()))
    assert (wire.image.shape, wire.image.dtype, wire.label.dtype) == ((4, 3, 16, 16), torch.uint8, torch.int64)
    assert wire.image.is_contiguous(memory_format=torch.channels_last)
    signed = data.on_after_batch_transfer(wire, 0).image
    assert torch.equal(signed, images.to_signed(wire.image))
    assert data.classes == sorted(sample_art.STYLES)


@pytest.mark.parametrize("changes", [{}, {"flip": 0.5, "random_crop": 6}], ids=["plain", "augmented"])
@pytest.mark.parametrize(
    "way", [{"cache": False}, {"num_workers": 2}, {"cache": False, "num_workers": 1}, {"resident": True}], ids=str
)
def test_every_source_of_pixels_gives_the_same_batches(art, changes, way):
    assert same(batches(module(art, **changes)), batches(module(art, **changes, **way)))


def test_only_training_is_augmented_and_each_epoch_differently(art):
    plain_data, data = module(art), module(art, flip=0.5, random_crop=6)
    first, second = batches(data, epochs=1), batches(data)[len(batches(data, epochs=1)) :]
    assert not same(first, second)
    assert first[0][0].shape == (4, 3, 16, 16)
    wire = next(iter(data.val_dataloader()))
    middle = data.on_after_batch_transfer(wire, 0)[0]
    assert torch.equal(middle, images.to_signed(wire.image[..., 3:19, 3:19]))
    assert plain_data.preview(2).shape == data.preview(2).shape == (2, 3, 16, 16)


def test_a_file_that_disappears_makes_its_batch_smaller(tmp_path, caplog):
    for index in range(12):
        put(tmp_path / f"art/{index}.jpg", index)
    data = module(tmp_path, cache=False, batch_size=32)
    (tmp_path / "art/0.jpg").unlink()
    (tmp_path / "art/1.jpg").write_bytes(b"")
    whole = len(data.train_set) + len(data.val_set)
    wires = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader())]
    assert sum(len(wire.image) for wire in wires) == sum(len(wire.label) for wire in wires) == whole - 2
    for wire in wires:
        data.on_after_batch_transfer(wire, 0)
    assert caplog.text.count("left out of a batch, it cannot be read any more") == 2
    shutil.rmtree(tmp_path / "art")
    with pytest.raises(UserError, match="no picture of a batch can be read any more: .*No such file"):
        data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


@pytest.mark.slow
def test_pixels_are_not_copied_to_processes_and_their_pages_are_given_back(art, monkeypatch):
    source = module(art).train_set.source
    assert len(pickle.dumps(source)) < 1000
    indices = np.arange(len(source))
    expected = source.pixels[source.rows]
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read(indices).pixels, expected)
    monkeypatch.setattr(pixel_sources, "HELD", 0)
    assert np.array_equal(source.read(indices).pixels, expected)
    assert np.array_equal(source.read(indices).pixels, expected)


def test_a_process_maps_the_rows_that_are_there(art, tmp_path):
    source = module(art, cache_dir=str(tmp_path)).train_set.source
    (path,) = tmp_path.glob("decoded/*.rows")
    with path.open("ab") as stream:  # room that another program has taken meanwhile and gives back
        stream.write(bytes(16 * 16 * 3))
    mapped = np.memmap(path, np.uint8, "r", shape=(len(source.pixels) + 1, *source.pixels.shape[1:]))
    state = pickle.dumps(pixel_sources.FromStore(mapped, source.rows))
    with path.open("r+b") as stream:
        stream.truncate(source.pixels.nbytes)
    indices = np.arange(len(source))
    assert np.array_equal(pickle.loads(state).read(indices).pixels, source.read(indices).pixels)


def test_an_index_says_which_picture_of_the_data_set_it_is(art):
    data = module(art)
    contents = data.unchanging
    assert len(contents.keys) == len(set(contents.keys)) == len(data.train_set) + len(data.val_set)
    assert all(len(key) == 32 for key in contents.keys)
    seen = []
    for batch in batches(data, epochs=1):
        for image, index in zip(batch.image, batch.index.tolist(), strict=True):
            pixels = data.index.pixels[data.index.used[index].row]
            assert torch.equal(images.to_uint8(image).permute(1, 2, 0), torch.from_numpy(pixels.copy()))
            seen.append(index)
    assert sorted(seen) == sorted(data.train_set.indices.tolist())
    assert set(seen).isdisjoint(data.val_set.indices.tolist())


def test_keys_are_those_of_the_pixels(art, tmp_path):
    keys = set(module(art).unchanging.keys)
    shutil.copytree(art, tmp_path / "more")
    put(tmp_path / "more/new.jpg")
    assert keys < set(module(tmp_path / "more").unchanging.keys)
    assert keys.isdisjoint(module(art, image_size=24).unchanging.keys)
    for changes in ({"random_crop": 4}, {"train_crop": 16}, {"cache": False}):
        data = module(art, **changes)
        assert data.unchanging is None
        assert batches(data, epochs=1)[0].index is None


def test_pictures_of_other_folders_are_not_uploaded(art, tmp_path):
    for index in range(20):
        put(tmp_path / f"others/{index}.jpg")
    module(tmp_path / "others")
    data = module(art, resident=True)
    batches(data, epochs=1)
    assert len(data.resident) == len(data.train_set) + len(data.val_set)


class Catalogue:
    """A user's own source: a list with the artist as label and the split that the museum made."""

    def __init__(self, listing):
        self.root = Path(listing).parent
        self.listing = Path(listing)

    def records(self):
        records = []
        for line in self.listing.read_text().splitlines():
            name, artist, split = line.split()
            status = (self.root / name).stat()
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            records.append(Record(name, *stamp, artist, split, {"license": "cc0-1.0"}))
        return records, [("notes.txt", "not in the list")]


def test_a_source_of_the_users_own_takes_the_place_of_a_folder(tmp_path):
    lines = []
    for index in range(12):
        put(tmp_path / f"store/{index}.bin", index)
        lines.append(f"store/{index}.bin {'monet' if index % 2 else 'manet'} {'validation' if index > 8 else 'train'}")
    shutil.copy(tmp_path / "store/3.bin", tmp_path / "store/copy.bin")
    (tmp_path / "store/page.bin").write_text("<html>")
    lines += ["store/copy.bin monet validation", "store/page.bin monet train"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "leave out.txt").write_text("store/5.bin")
    source = {"_target_": "test_data.Catalogue", "listing": str(tmp_path / "list.txt")}
    data = module(None, source=source, exclude=str(tmp_path / "leave out.txt"))
    assert data.hparams["source"] == source  # plain values in the checkpoint
    assert data.classes == ["manet", "monet"]
    splits = {one.path: one.split for one in data.index.used}
    assert [path for path, split in splits.items() if split == "validation"] == [
        *("store/10.bin", "store/11.bin", "store/9.bin", "store/copy.bin"),
    ]
    assert len(splits) == 11
    assert [(one.path, one.copy_of) for one in data.index.copies] == [("store/3.bin", "store/copy.bin")]
    assert dict(data.index.rejected) == {
        "notes.txt": "not in the list",
        "store/5.bin": "left out by data.exclude",
        "store/page.bin": "not a picture (HTML)",
    }
    found = batches(data, epochs=1)
    assert sum(len(batch.image) for batch in found) == 7
    assert "cc0-1.0" in data.index.manifest()


def test_pictures_keep_their_labels(tmp_path):
    for index in range(8):
        for label, low, high in (("dark", 0, 60), ("light", 200, 255)):
            (tmp_path / label).mkdir(exist_ok=True)
            spots = np.random.default_rng(index).integers(low, high, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(spots).resize((32, 32)).save(tmp_path / label / f"{index}.png")
    Image.new("RGB", (20, 30), (120, 120, 120)).save(tmp_path / "loose.png")
    data = module(tmp_path, batch_size=32)
    assert data.classes == ["dark", "light"]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        wire = next(iter(loader))
        mean = wire.image.float().mean(dim=(1, 2, 3))
        assert [0 if value < 60 else 1 if value > 180 else NO_LABEL for value in mean] == wire.label.tolist()


def test_a_flat_folder_has_no_classes(tmp_path):
    for index in range(6):
        put(tmp_path / f"{index}.jpg")
    data = module(tmp_path)
    assert data.classes == []
    assert next(iter(data.train_dataloader())).label.unique().tolist() == [NO_LABEL]


def test_rejected_files_and_duplicates_are_listed(tmp_path):
    root = tmp_path / "root"
    for index in range(6):
        put(root / f"art/{index}.jpg", index)
    shutil.copy(root / "art/2.jpg", root / "art/9.jpg")
    picture(3).save(root / "art/like 3.png")
    (root / "art/page.jpg").write_bytes(b"<html>404</html>")
    data = module(root)
    assert len(data.train_set) + len(data.val_set) == 7
    listings = {name: content.decode() for name, content in data.listings().items()}
    assert listings["set_aside.tsv"] == "file\treason\nart/page.jpg\tnot a picture (HTML)\n"
    heading, *rows = [line.split("\t") for line in listings["duplicates.tsv"].splitlines()]
    assert heading == ["file", "copy_of", "looks_like", "split"]
    assert sorted((row[0], row[1], row[2]) for row in rows) == [
        ("art/3.jpg", "", "art/like 3.png"),
        ("art/9.jpg", "art/2.jpg", ""),
    ]
    assert data.facts()["data"]["manifest"] == data.manifest


def test_a_folder_without_readable_pictures_says_why(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/one.jpg").write_bytes(b"")
    put(tmp_path / "right/two.jpg")
    message = "0 usable pictures in 1 files.*empty file.*what is there: a 1; did you mean data.root=.*/right"
    with pytest.raises(UserError, match=message) as caught:
        module(root)
    assert "\n" not in str(caught.value)
    shutil.copy(put(root / "two.jpg"), root / "three.jpg")
    with pytest.raises(UserError, match="1 usable pictures in 3 files, expected 2 that differ.*copies: 1"):
        module(root)


def test_a_setting_that_rejects_everything_is_named(tmp_path):
    for index in range(3):
        put(tmp_path / f"{index}.jpg", index)
    with pytest.raises(UserError, match=r"set aside: 3 smaller than data.min_side$"):
        module(tmp_path, min_side=300)


def test_a_split_by_folders_needs_both_sides(tmp_path):
    for side in ("train", "test"):
        put(tmp_path / f"root/{side}/one.jpg", 0)
        put(tmp_path / f"root/{side}/two.jpg", 1)
    with pytest.raises(UserError, match="holds pictures for validation alone, expected training and validation"):
        module(tmp_path / "root")


def test_a_preview_is_always_the_same(art):
    data = module(art)
    assert torch.equal(data.preview(3), data.preview(3))
    assert data.preview(3).shape == (3, 3, 16, 16)
    assert len(data.preview(1000)) == len(data.val_set)


# sample art


def test_sample_art_is_the_same_each_time(art, tmp_path):
    sample_art.paint(tmp_path, per_style=1, seed=0)
    for style in sample_art.STYLES:
        name = f"{style}/{style}_000.jpg"
        assert (tmp_path / name).read_bytes() == (art / name).read_bytes()
    sample_art.paint(tmp_path / "other", per_style=1, seed=1)
    assert (tmp_path / "other" / name).read_bytes() != (art / name).read_bytes()


def test_sample_art_is_painted_once_and_whole(tmp_path, monkeypatch):
    root = sample_art.folder(tmp_path, per_style=1)
    assert len(scan.scan(root).files) == len(sample_art.STYLES) >= 5
    monkeypatch.setattr(sample_art, "paint", None)
    assert sample_art.folder(tmp_path, per_style=1) == root


def test_two_containers_that_share_a_cache_do_not_paint_into_one_folder(tmp_path, monkeypatch):
    paint, folders = sample_art.paint, []

    def painted_twice(root, **how):
        folders.append(root)
        if len(folders) == 1:  # another container begins meanwhile, whose process has the same number
            sample_art.folder(tmp_path, per_style=1)
        paint(root, **how)

    monkeypatch.setattr(sample_art, "paint", painted_twice)
    root = sample_art.folder(tmp_path, per_style=1)
    assert len(set(folders)) == 2
    assert [*tmp_path.iterdir()] == [root]
