import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from artdiff import UserError, images
from artdiff.data import cache, folder, sample_art
from artdiff.data.datamodule import NO_LABEL, ArtDataModule
from artdiff.data.sampler import ResumableLoader, ShuffledOrder


def module(root, **changes):
    settings = {"image_size": 16, "batch_size": 4, "val_fraction": 0.2, "seed": 0, "cache_dir": None}
    data = ArtDataModule(root=None if root is None else str(root), **settings | changes)
    data.setup()
    return data


def put(path, colour=None):
    """A small JPEG of one colour, by default one that depends on the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    Image.new("RGB", (20, 30), colour or tuple(rng.integers(0, 256, 3).tolist())).save(path)
    return path


# folder


def test_scan_finds_every_file_and_its_label(tmp_path):
    names = ("loose.jpg", "b/two.jpg", "a/deep/er/one.jpg", "a/odd näme\n.jpg")
    for name in names:
        put(tmp_path / name)
    put(tmp_path / ".ipynb_checkpoints/hidden.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    files = folder.scan(tmp_path)
    assert [file.path for file in files] == sorted(names)
    assert {file.path: file.label for file in files} == {
        "loose.jpg": None,
        "b/two.jpg": "b",
        "a/deep/er/one.jpg": "a",
        "a/odd näme\n.jpg": "a",
    }


def test_a_linked_class_folder_is_followed(tmp_path):
    put(tmp_path / "elsewhere/one.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    assert [file.path for file in folder.scan(tmp_path / "root")] == ["linked/one.jpg"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist; .* holds nearby; expected pictures"),
        (lambda root: root.mkdir(), "holds nothing; expected pictures"),
        (lambda root: (root / "class").mkdir(parents=True), "holds only class without files; expected"),
        (lambda root: root.write_text("x"), "is a file, not a folder; expected"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path, make, message):
    (tmp_path / "nearby").mkdir()
    make(tmp_path / "root")
    with pytest.raises(UserError, match=message) as caught:
        folder.scan(tmp_path / "root")
    assert "\n" not in str(caught.value)


def _truncated(path):
    Image.effect_noise((64, 64), 50).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>"), r"not a picture \(HTML\)"),
        (lambda path: path.write_bytes(b"dear diary"), r"not a picture \(text\)"),
        (lambda path: path.write_bytes(bytes(range(256))), "not a picture"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
        (os.mkfifo, "not a file but a pipe"),
        (_truncated, "truncated JPEG"),
    ],
)
def test_what_is_no_picture_says_why(tmp_path, make, reason):
    make(tmp_path / "bad.jpg")
    with pytest.raises(folder.Unreadable, match=reason):
        folder.read(tmp_path / "bad.jpg")


def test_a_wrong_extension_is_fine(tmp_path):
    put(tmp_path / "one.png", "red").rename(tmp_path / "one.jpg")
    picture, _ = folder.read(tmp_path / "one.jpg")
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_draft_decoding_stays_near_the_full_picture(art):
    path = next((art / "landscape").iterdir())
    full, draft = folder.read(path)[0], folder.read(path, draft=64)[0]
    assert draft.size < full.size
    difference = np.asarray(full.resize((32, 32)), int) - np.asarray(draft.resize((32, 32)), int)
    assert np.abs(difference).mean() < 2


# cache


def test_a_second_start_decodes_nothing(art, tmp_path, monkeypatch):
    files = folder.scan(art)
    first = cache.decode(art, files, 16, tmp_path)
    monkeypatch.setattr(cache, "read", None)
    second = cache.decode(art, files, 16, tmp_path)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.outcomes == second.outcomes


def test_rows_are_the_squashed_pictures(art, tmp_path):
    files = folder.scan(art)
    pixels, outcomes = cache.decode(art, files, 32, tmp_path)
    for row in (0, len(files) - 1):
        with Image.open(art / files[row].path) as picture:
            expected = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS), int)
        assert np.abs(pixels[row] - expected).mean() < 2
        assert outcomes[row].reason is None


def test_a_changed_file_or_size_is_decoded_anew(tmp_path):
    root = tmp_path / "root"
    put(root / "one.jpg", "red")
    assert cache.decode(root, folder.scan(root), 16, tmp_path).pixels[0, 0, 0, 0] > 250
    put(root / "one.jpg", "black")
    assert cache.decode(root, folder.scan(root), 16, tmp_path).pixels[0, 0, 0, 0] == 0
    assert cache.decode(root, folder.scan(root), 24, tmp_path).pixels.shape == (1, 24, 24, 3)


def test_a_full_disk_is_said_before_decoding(art, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match="set data.cache_dir to a folder on a larger disk"):
        cache.decode(art, folder.scan(art), 16, tmp_path)


# order


def _served(loader):
    return [index for batch in loader for index in batch.tolist()]


def _loader(seed=0):
    return ResumableLoader(torch.arange(10), 3, sampler=ShuffledOrder(10, seed))


def test_every_epoch_has_its_own_order_of_everything():
    loader = _loader()
    first, second = _served(loader), _served(loader)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    again = _loader()
    assert (_served(again), _served(again)) == (first, second)
    assert _served(_loader(seed=1)) != first


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_order_carries_on_where_it_was_saved(batches):
    loader = _loader()
    _served(loader)
    served = iter(loader)
    before = [next(served) for _ in range(batches)]
    carried_on = _loader()
    carried_on.go_to(loader.position())
    rest = list(served) if batches < len(loader) else list(loader)
    assert torch.equal(torch.cat(rest), torch.tensor(_served(carried_on)))
    assert len(before) == batches


# datamodule


def test_batches_are_bytes_on_the_wire_and_signed_floats_after_it(art):
    data = module(art)
    image, label = next(iter(data.train_dataloader()))
    assert (image.shape, image.dtype, label.dtype) == ((4, 3, 16, 16), torch.uint8, torch.int64)
    assert image.is_contiguous(memory_format=torch.channels_last)
    signed, _ = data.on_after_batch_transfer((image, label), 0)
    assert torch.equal(signed, images.to_signed(image))
    assert data.classes == sorted(sample_art.STYLES)


def test_pictures_keep_their_labels(tmp_path):
    for index in range(8):
        put(tmp_path / f"dark/{index}.jpg", (index, 0, 0))
        put(tmp_path / f"light/{index}.jpg", (255, 255, 240 + index))
    put(tmp_path / "loose.jpg", (0, 0, 255))
    data = module(tmp_path, batch_size=32)
    assert data.classes == ["dark", "light"]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        image, label = next(iter(loader))
        mean = image.float().mean(dim=(1, 2, 3))
        assert [0 if value < 20 else 1 if value > 200 else NO_LABEL for value in mean] == label.tolist()


def test_a_flat_folder_has_no_classes(tmp_path):
    for index in range(6):
        put(tmp_path / f"{index}.jpg")
    data = module(tmp_path)
    assert data.classes == []
    assert next(iter(data.train_dataloader()))[1].unique().tolist() == [NO_LABEL]


def _contents(data, dataset):
    return {dataset.pixels[row].tobytes() for row in dataset.rows}


def test_the_split_depends_on_content_alone(tmp_path):
    for index in range(40):
        put(tmp_path / f"art/{index}.jpg", (6 * index, 255 - 6 * index, 90))
    before = module(tmp_path)
    held_out = _contents(before, before.val_set)
    assert 1 <= len(before.val_set) < 20
    assert len(before.train_set) + len(before.val_set) == 40
    shutil.copy(tmp_path / "art/3.jpg", tmp_path / "art/copy of 3.jpg")
    for index in range(20):
        put(tmp_path / f"more/{index}.jpg", (0, 0, 12 * index))
    after = module(tmp_path)
    assert held_out <= _contents(after, after.val_set)
    assert not _contents(after, after.val_set) & _contents(after, after.train_set)


def test_two_pictures_are_one_on_either_side(tmp_path):
    put(tmp_path / "one.jpg", "red")
    put(tmp_path / "two.jpg", "blue")
    data = module(tmp_path)
    assert (len(data.train_set), len(data.val_set)) == (1, 1)


def test_unreadable_files_are_listed_and_the_rest_is_used(tmp_path):
    root = tmp_path / "root"
    for index in range(6):
        put(root / f"art/{index}.jpg")
    (root / "art/page.jpg").write_bytes(b"<html>404</html>")
    (root / "art/odd\tname\n.jpg").write_bytes(b"")
    data = module(root)
    assert len(data.train_set) + len(data.val_set) == 6
    assert sorted(data.set_aside) == [
        ("art/odd\tname\n.jpg", "empty file"),
        ("art/page.jpg", "not a picture (HTML)"),
    ]
    data.write_set_aside(tmp_path / "set_aside.tsv")
    text = (tmp_path / "set_aside.tsv").read_text()
    assert text.startswith("file\treason\n")
    assert "art/page.jpg\tnot a picture (HTML)\n" in text


def test_a_folder_without_readable_pictures_says_why(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="0 readable pictures in 1 files.*empty file"):
        module(tmp_path)
    put(tmp_path / "two.jpg")
    shutil.copy(tmp_path / "two.jpg", tmp_path / "three.jpg")
    with pytest.raises(UserError, match="have the same content"):
        module(tmp_path)


def test_preview_is_fixed_and_spread(art):
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
    assert len(folder.scan(root)) == len(sample_art.STYLES) >= 5
    monkeypatch.setattr(sample_art, "paint", None)
    assert sample_art.folder(tmp_path, per_style=1) == root
