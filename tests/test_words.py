"""Captions: where they come from, how words become numbers, and whether a painter follows them."""

import gzip
import json

import numpy as np
import pytest
import torch
from conftest import composed, generate, in_process, put, small, train
from hydra.errors import InstantiationException
from PIL import Image, ImageOps

import artdiff
from artdiff import UserError, words
from artdiff.data.datamodule import ArtDataModule
from artdiff.data.loader import Batch
from artdiff.diffusion.conditioning import NO_LABEL, dropped
from artdiff.diffusion.guidance import guided
from artdiff.diffusion.noise import PictureRandom
from artdiff.evaluation import scoring
from artdiff.ingest import sample_art
from artdiff.ingest.captions import caption, named
from artdiff.networks import UNet, ViT
from artdiff.painting import limits
from artdiff.settings.painting import PaintSettings
from artdiff.word_vectors import nearest, replaced

TINY = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")


# words as numbers


def test_words_are_small_letters_each_once_in_any_script():
    assert words.words("A red-haired GIRL, a girl; 江戸 ﬁre_1888") == [
        "a",
        "red",
        "haired",
        "girl",
        "江戸",
        "fire",
        "1888",
    ]


def test_a_word_is_itself_and_its_parts():
    rows = words.pieces("sun")
    assert 1 < len(rows) <= words.PIECES and max(rows) < words.TABLE
    assert len(words.pieces("a")) == 1
    assert len(words.pieces("counterclockwise")) == words.PIECES
    shared = set(words.pieces("sunny")) & set(rows)
    assert shared and rows[0] not in words.pieces("sunny")


def test_numbers_hold_the_first_words_and_nothing_else():
    found = words.numbers(["red sun", None, " ".join(f"word{number}" for number in range(99))])
    assert found.shape == (3, words.MOST_WORDS, words.PIECES)
    assert (found[1] == -1).all() and (found[0, 2:] == -1).all() and (found[2, :, 0] >= 0).all()
    assert found[0, 1, : len(words.pieces("sun"))].tolist() == list(words.pieces("sun"))


def test_vocabulary_and_unknown_words():
    known = words.vocabulary(["red sun", "red hill", None])
    assert known == ["red", "hill", "sun"]
    assert words.unknown("red suns over xyzzy", known) == {"suns": ["sun"], "over": [], "xyzzy": []}


# where captions come from


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "art"
    for number in range(6):
        put(root / f"hills/RedSun_{number:04d}_final.jpg")
        put(root / f"seas/IMG_{number}.jpg")
    return root


def loaded(root, captions, **more):
    data = ArtDataModule(
        **composed("train", f"data.root={root}", "data.image_size=16", "run_dir=unused")["data"]
        | {"captions": captions, **more}
    )
    data.setup()
    return data


def of(data):
    return {
        tuple(words.words(one or ""))
        for one in (caption(picture, data.settings.captions) for picture in data.index.used)
    }


def test_names_of_files_and_folders(folder):
    data = loaded(folder, "filename")
    assert of(data) == {("hills", "red", "sun"), ("seas",)}
    assert set(data.vocabulary) == {"hills", "red", "sun", "seas"}
    assert named("painting/vanGogh_sunflowers-1888-a3f9c2d1.jpg") == "painting van gogh sunflowers"
    assert named("山/gothic_facade_2.jpg") == "山 gothic facade"


@pytest.mark.parametrize("files", ["archive/{split} set/hills/{name}", "{split}/hills/{name}",
                                   "archive/hills/{split}/images/{name}"])  # fmt: skip
def test_folders_that_wrap_all_others_or_name_the_split_say_nothing(tmp_path, files):
    for split in ("training", "validation"):
        for name in ("RedSun.jpg", "BlueMoon.jpg"):
            put(tmp_path / "art" / files.format(split=split, name=name))
            put(tmp_path / "art" / files.replace("hills", "seas").format(split=split, name=name))
    found = {(place, *sky) for place in ("hills", "seas") for sky in (("red", "sun"), ("blue", "moon"))}
    assert of(loaded(tmp_path / "art", "filename")) == found


def test_the_class_in_the_name_of_a_split_folder_is_said(tmp_path):
    for index, name in enumerate(f"{kind}_{split}" for kind in ("cats", "dogs") for split in ("train", "val")):
        for number in range(3):
            put(tmp_path / "art" / name / f"{index}{number}.jpg")
    assert of(loaded(tmp_path / "art", "filename")) == {("cats",), ("dogs",)}


def test_a_folder_that_wraps_the_classes_says_nothing(folder):
    folder.rename(folder.parent / "inner")
    folder.mkdir()
    (folder.parent / "inner").rename(folder / "inner")
    assert of(loaded(folder, "filename")) == {("hills", "red", "sun"), ("seas",)}


def test_metadata_then_a_file_beside_it(folder):
    lines = ({"file_name": f"hills/RedSun_{number:04d}_final.jpg", "text": "a hill"} for number in range(6))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number in range(3):
        (folder / f"seas/IMG_{number}.txt").write_text("waves,\nfoam", encoding="utf-8-sig")
    (folder / "seas/IMG_3.TXT").write_text("waves foam")
    (folder / "seas/IMG_4.jpg.txt").write_text("foam, waves")
    (folder / "hills/notes.txt").write_text("no caption")
    data = loaded(folder, "auto")
    assert of(data) == {("a", "hill"), ("waves", "foam"), ("foam", "waves"), ()}
    assert data.index.digest() == loaded(folder, "none").index.digest()
    reasons = dict(data.index.rejected)
    assert reasons["seas/IMG_1.txt"] == "the caption of seas/IMG_1.jpg"
    assert "caption" not in reasons["hills/notes.txt"]
    assert of(loaded(folder, "metadata")) == {("a", "hill"), ()}
    assert of(loaded(folder, "sidecar")) == {("waves", "foam"), ("foam", "waves"), ()}


def test_without_asking_captions_are_named_and_not_used(folder, caplog):
    caplog.set_level("INFO")
    lines = [f"hills/RedSun_{number:04d}_final.jpg,a hill" for number in range(6)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    data = loaded(folder, "none")
    assert data.vocabulary == [] and data.train_set.captions is None
    assert "captions: not used, but the metadata has some: data.captions=auto trains on them" in caplog.text


def test_captions_that_are_not_there_are_one_line(folder):
    with pytest.raises(UserError, match=r"data\.captions=auto finds none in .*: expected a column text"):
        loaded(folder, "auto")


def test_the_audit_shows_them(folder, tmp_path):
    for number in range(3):
        (folder / f"seas/IMG_{number}.txt").write_text("waves and foam")
    said = in_process("artdiff.audit", f"data.root={folder}", f"out={tmp_path / 'audit'}", cwd=tmp_path)
    assert "3 pictures have a caption, 9 have none." in said and "foam (3)" in said
    assert "data.captions=auto" in said.partition("next:")[2]


def test_sample_art_says_what_it_painted(tmp_path):
    sample_art.paint(tmp_path / "plain", per_style=3, seed=0)
    sample_art.paint(tmp_path / "said", per_style=3, seed=0, captions=True)
    for path in (tmp_path / "plain").rglob("*.jpg"):
        assert path.read_bytes() == (tmp_path / "said" / path.relative_to(tmp_path / "plain")).read_bytes()
    lines = (tmp_path / "said/metadata.csv").read_text().splitlines()
    assert len(lines) == 16 and any("sky" in line for line in lines) and any("balls" in line for line in lines)


# what the network is given


def batch(count=4000):
    captions = words.numbers(["red sun over hills"] * count)
    return Batch(torch.zeros(count, 3, 2, 2), torch.zeros(count, dtype=torch.int64), words=torch.from_numpy(captions))


def test_label_and_caption_are_left_out_together_and_alone():
    rng = PictureRandom(0, torch.arange(4000))
    label, rows = dropped(batch(), rng, label_dropout=0.1, caption_dropout=0.2, word_dropout=0.25)
    no_label, no_words = label == NO_LABEL, (rows < 0).flatten(1).all(dim=1)
    assert (no_label & no_words).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (no_label & ~no_words).float().mean().item() == pytest.approx(0.9 * 0.2, abs=0.02)
    assert (no_words & ~no_label).float().mean().item() == pytest.approx(0.9 * 0.2, abs=0.025)
    left = (rows[~no_words][:, :4, 0] >= 0).float().mean().item()
    assert left == pytest.approx(0.75, abs=0.02)


def test_without_captions_nothing_changes():
    plain = batch()._replace(words=None)
    (label,) = dropped(
        plain, PictureRandom(0, torch.arange(4000)), label_dropout=0.1, caption_dropout=0.5, word_dropout=0.5
    )
    chance = PictureRandom(0, torch.arange(4000)).uniform(2)
    assert torch.equal(label == NO_LABEL, chance < 0.1)


def unet(caption_layers=0):
    return UNet(classes=2, in_channels=3, image_size=16, patch=1, channels=[32, 32], num_res_blocks=1,
                attention_resolutions=[8], cond_dim=16, dropout=0.0, words=words.TABLE,
                caption_layers=caption_layers)  # fmt: skip


def vit(caption_layers=0):
    return ViT(classes=2, in_channels=3, image_size=16, patches=8, width=64, depth=2, bottleneck=16, cond_dim=16,
               dropout=0.0, words=words.TABLE, caption_layers=caption_layers)  # fmt: skip


@pytest.mark.parametrize("build", [unet, vit])
@pytest.mark.parametrize("caption_layers", [0, 2])
def test_a_network_sees_words_and_not_their_padding_and_order_if_it_has_layers_for_it(build, caption_layers):
    torch.manual_seed(0)
    network = build(caption_layers).eval()
    for name, weight in network.named_parameters():
        torch.nn.init.normal_(weight, std=0.3 if ".words.layers." in name else 0.1)
    noisy, time, label = torch.randn(1, 3, 16, 16), torch.tensor([0.5]), torch.tensor([1])

    def seen(caption, *, most=words.MOST_WORDS):
        return network(noisy, time, label, torch.from_numpy(words.numbers([caption])[:, :most]))

    with torch.no_grad():
        red = seen("red sun")
        if caption_layers:
            assert (seen("sun red") - red).abs().max() > 1e-3
        else:
            torch.testing.assert_close(seen("sun red"), red)
        torch.testing.assert_close(seen("red sun", most=5), red)
        assert (seen("blue sun") - red).abs().max() > 1e-3
        assert (seen(None) - red).abs().max() > 1e-3
        assert seen(None).isfinite().all()


def test_layers_over_words_change_nothing_at_first_and_learn_with_captions_that_are_dropped():
    torch.manual_seed(0)
    plain, deep = unet(), unet(caption_layers=2)
    found = deep.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[2] for name in found.missing_keys} == {"layers"} and not found.unexpected_keys
    for network in (plain, deep):
        drawn = torch.Generator().manual_seed(0)
        for name, weight in network.named_parameters():
            if ".layers." not in name:
                torch.nn.init.normal_(weight, std=0.1, generator=drawn)
    rows = torch.from_numpy(words.numbers(["red sun over hills", None]))
    given = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 0.5]), torch.tensor([1, 0]), rows
    torch.testing.assert_close(deep(*given), plain(*given))
    deep(*given).square().mean().backward()
    gains = [weight.grad for name, weight in deep.named_parameters() if ".layers." in name and "out.weight" in name]
    assert gains and all(gain.isfinite().all() and gain.abs().max() > 0 for gain in gains)


def test_guidance_leads_away_from_the_negative_conditions():
    def network(noisy, time, label, rows):
        return rows[:, :1, :1, None].float() + label.view(-1, 1, 1, 1)

    def asked(row):
        return torch.tensor([5]), torch.full((1, 1, 1), row)

    at = torch.zeros(1, 1, 1, 1)
    found = [
        guided(network, asked(7), guidance=2.0, interval=(0, 1), negative=negative)(at, 0.5).item()
        for negative in (None, asked(3), asked(7))
    ]
    assert found == [12 + 14, 12 + 4, 12]


# painting


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A painter of sample art with captions."""
    root = tmp_path_factory.mktemp("captioned")
    sample_art.paint(root / "art", per_style=8, seed=0, captions=True)
    fast = ("trainer.max_steps=12", "optimizer.lr=0.02", "task.warmup=0", "callbacks.decay.share=0")
    run = train(small(root / "art", root / "run", "experiment=paint32", *TINY, "data.captions=auto", *fast))
    return run.folder


def painted(run, out, *more):
    return generate(composed("generate", f"ckpt={run}", f"out={out}", "steps=2", "n=1", "device=cpu", *more))[:-1]


@pytest.mark.slow
def test_prompts_are_rows_and_change_the_picture(captioned, tmp_path, caplog):
    made = painted(captioned, tmp_path / "a", "prompt=[red hills,'blue, soft blocks']", "label=[truchet,none]")
    assert [path.stem for path in made] == [
        "truchet_red_hills_0", "truchet_blue_soft_blocks_0", "red_hills_0", "blue_soft_blocks_0"
    ]  # fmt: skip
    contents = {Image.open(path).tobytes() for path in made}
    assert len(contents) == 4
    assert json.loads(Image.open(made[1]).text["artdiff"])["prompt"] == "blue, soft blocks"
    assert "blue is no word that the model has learned" in caplog.text


VECTORS = """5 3
hills 1 0 0
Mountains 0.9 0.1 0
sky 0 1 0
azure 0 0.2 0.9
dusky 0 -1 0
"""


def test_a_word_stands_for_the_nearest_that_is_known(tmp_path):
    for file, opened in ((tmp_path / "vectors.txt", open), (tmp_path / "vectors.txt.gz", gzip.open)):
        with opened(file, "wt") as stream:
            stream.write(VECTORS)
        assert nearest(["mountains", "azure", "xyzzy"], ["hills", "sky", "balls"], file) == {"mountains": "hills"}
    assert replaced("Mountains, and a SKY", {"mountains": "hills"}) == "hills and a sky"
    assert replaced("a SKY", {"mountains": "hills"}) == "a SKY"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hills 1 0 0\nmountains 1 0\n", "line 2 is not a word and 3 numbers"),
        ("hills 1 0 0\nmountains 1 nan 0\n", "line 2 is not a word and 3 numbers"),
        ("hills one 0 0\n", "cannot be read: could not convert string to float"),
        ("sea 1 0 0\n", "has none of these words"),
    ],
)
def test_word_vectors_that_cannot_be_used_are_one_line(tmp_path, text, line):
    (tmp_path / "vectors.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        nearest(["mountains"], ["hills"], tmp_path / "vectors.txt")


def test_an_unknown_word_paints_what_the_nearest_paints(captioned, tmp_path, caplog):
    (tmp_path / "vectors.txt").write_text(VECTORS)
    more = (f"word_vectors={tmp_path / 'vectors.txt'}", "prompt=mountains", "negative=mountains sky", "guidance=3.0")
    (path,) = painted(captioned, tmp_path / "a", *more)
    assert "mountains is no word that the model has learned, and is replaced by hills" in caplog.text
    told = json.loads(Image.open(path).text["artdiff"])
    assert (told["prompt"], told["negative"]) == ("hills", "hills sky")
    (same,) = painted(captioned, tmp_path / "b", "prompt=hills", "negative=hills sky", "guidance=3.0")
    assert Image.open(path).tobytes() == Image.open(same).tobytes()
    with pytest.raises(UserError, match=r"word_vectors=.* does not exist"):
        painted(captioned, tmp_path / "c", "prompt=hills", f"word_vectors={tmp_path / 'none.txt'}")


def test_word_vectors_are_read_once(captioned, tmp_path):
    (tmp_path / "vectors.txt").write_text(VECTORS)
    painter = artdiff.load(captioned, device="cpu")
    asked = PaintSettings.with_defaults(prompt=["mountains", "xyzzy"], word_vectors=str(tmp_path / "vectors.txt"))
    understood, lines = painter.understood(asked)
    assert (understood.prompt, understood.word_vectors, len(lines)) == (["hills", "xyzzy"], None, 2)
    assert painter.understood(understood)[0] == understood


def test_a_full_vocabulary_is_quiet_and_word_vectors_still_count(tmp_path, monkeypatch):
    (tmp_path / "vectors.txt").write_text(VECTORS)
    monkeypatch.setattr(limits, "VOCABULARY", 3)
    asked = {"prompt": "mountains, xyzzy", "word_vectors": str(tmp_path / "vectors.txt")}
    told = {}
    for name, known in (("full", ["hills", "sky", "balls"]), ("small", ["hills", "sky"])):
        for given in ({}, asked):
            settings, lines = limits.understood(PaintSettings.with_defaults(**{"prompt": "mountains"} | given), known)
            told[name, bool(given)] = settings.prompt, lines
    learned = "is no word that the model has learned"
    taken = f"mountains {learned}, and is replaced by hills"
    assert told == {
        ("full", False): ("mountains", []),
        ("full", True): ("hills xyzzy", [taken]),
        ("small", False): ("mountains", [f"mountains {learned}"]),
        ("small", True): ("hills xyzzy", [taken, f"xyzzy {learned}"]),
    }


def test_negative_words_without_guidance_are_said():
    given = {"prompt": "hills", "negative": "sky"}
    lines = [
        limits.understood(PaintSettings.with_defaults(**given, guidance=guidance), ["hills", "sky"])[1]
        for guidance in (1.0, 2.0)
    ]
    assert lines == [["negative has no effect with guidance=1 (off): set guidance=2.0, for example"], []]


def test_a_prompt_alone_has_no_label_and_a_comma_is_text(captioned, tmp_path):
    (path,) = painted(captioned, tmp_path / "a", "prompt=hills, bright sky")
    told = json.loads(Image.open(path).text["artdiff"])
    assert (told["label"], told["prompt"]) == (None, "hills, bright sky")


@pytest.mark.slow
def test_pictures_of_prompts_are_painted_again(captioned, tmp_path):
    words_ = ("prompt=[hills,strokes]", "interpolate=[1,2]", "n=3", "negative=balls", "guidance=3.0")
    made = painted(captioned, tmp_path / "a", *words_)
    for path in made:
        again = generate(
            composed("generate", f"from={path}", f"ckpt={captioned}", f"out={tmp_path / 'b'}", "device=cpu")
        )
        assert Image.open(again[0]).tobytes() == Image.open(path).tobytes(), path
    plain = painted(captioned, tmp_path / "c", *words_[:3], "guidance=3.0")
    assert Image.open(plain[0]).tobytes() != Image.open(made[0]).tobytes()


def test_the_checkpoint_alone_knows_its_words(captioned):
    painter = artdiff.load(captioned / "checkpoints/last.ckpt", device="cpu")
    assert {"hills", "strokes", "balls"} <= set(painter.vocabulary)
    one, other = (painter.paint(n=1, prompt=prompt, steps=2)[0].picture for prompt in ("hills", "strokes"))
    assert one.tobytes() != other.tobytes()


def test_a_picture_does_not_depend_on_its_company(captioned):
    painter = artdiff.load(captioned, device="cpu")
    alone = painter.paint(n=1, prompt="hills", steps=2)[0]
    among = painter.paint(n=1, prompt=["strokes", "hills", "balls"], steps=2)[1]
    assert np.array_equal(np.asarray(alone.picture), np.asarray(among.picture))


@pytest.mark.slow
def test_the_report_shows_what_is_painted_for_captions_of_held_out_pictures(captioned, tmp_path):
    asked = {"n": 8, "steps": 2, "bootstrap": 0, "representation": 0, "originality": False, "device": "cpu"}
    art = captioned.parent / "art"
    words_ = (*TINY, "data.captions=auto", "data.val_fraction=0.3", "trainer.max_steps=1")
    run = train(small(art, tmp_path / "run", "experiment=paint32", *words_)).folder
    found = artdiff.evaluate(run, **asked, out=str(tmp_path / "out"))
    data = artdiff.inspect(art, captions="auto", image_size=16, val_fraction=0.3)
    held_out = {caption(one, "auto") for one in data.index.on("validation")}
    assert found.prompts and set(found.prompts) <= held_out
    assert len(set(found.prompts)) == len(found.prompts)
    side = found.prompted.height // len(found.prompts)
    assert found.prompted.width == (1 + scoring.OF_PROMPT) * side  # the held-out picture, and those that were painted
    first = artdiff.load(run, device="cpu").paint(n=1, prompt=found.prompts[0], seed=0, steps=2)[0].picture
    page = (tmp_path / "out/report.html").read_text()
    assert "What it paints for prompts" in page and f"<li>{found.prompts[0]}</li>" in page
    cell = found.prompted.crop((side, 0, 2 * side, side))
    assert ImageOps.pad(first, (side, side)).tobytes() == cell.tobytes()


def test_a_prompt_without_words_or_with_too_many_is_said(captioned, tmp_path, caplog):
    with pytest.raises(UserError, match=r"^prompt=!!! holds no word$"):
        painted(captioned, tmp_path / "a", "prompt='!!!'")
    painted(captioned, tmp_path / "b", f"prompt={' '.join(f'word{number}' for number in range(40))}")
    assert "prompt: only its first 32 words count" in caplog.text


def test_words_for_a_model_without_are_one_line(art, tmp_path):
    train(small(art, tmp_path / "run", "experiment=paint32", *TINY))
    for word in ("prompt=hills", "negative=hills"):
        with pytest.raises(UserError, match=r"needs a model that was trained with captions: data\.captions=auto"):
            painted(tmp_path / "run", tmp_path / "out", word)


def test_a_network_that_takes_no_words_is_one_line(captioned, tmp_path):
    config = small(captioned.parent / "art", tmp_path / "run", "experiment=paint32", "data.captions=auto")
    config["task"]["network"] = {"_target_": "test_words.Wordless"}
    with pytest.raises(InstantiationException, match=r"takes no captions: set data\.captions=none"):
        train(config)


class Wordless(torch.nn.Module):
    def __init__(self, *, classes, in_channels):
        super().__init__()
        self.layer = torch.nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, noisy, time, label):
        return self.layer(noisy)


@pytest.mark.slow
def test_training_begins_with_weights_that_know_no_words_and_is_carried_on(captioned, tmp_path):
    def trained(name, *more):
        return train(small(captioned.parent / "art", tmp_path / name, "experiment=paint32", *TINY, *more))

    trained("plain")
    run = trained("worded", "data.captions=auto", f"init={tmp_path / 'plain'}")
    assert artdiff.load(run, device="cpu").vocabulary
    more = trained("worded", "data.captions=auto", "trainer.max_steps=3", f"ckpt={run.folder}")
    assert more.metadata["steps"] == 3
    with pytest.raises(UserError, match="was trained with captions: set data.captions as it was"):
        trained("other", f"ckpt={run.folder}", "trainer.max_steps=4")
    names = trained("names", "data.captions=filename", f"ckpt={run.folder}", "trainer.max_steps=4")
    assert artdiff.load(names, device="cpu").vocabulary != artdiff.load(run, device="cpu").vocabulary
