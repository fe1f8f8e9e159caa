"""The commands: mistakes end in one line, and words mean what they say."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command_line, composed, in_process, put
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from artdiff import UserError, __version__, cli
from artdiff.files import make_folder
from artdiff.overrides import current_name, literal, unquoted

TRAIN, GENERATE, AUDIT, PRUNE = (f"artdiff.{name}" for name in ("train", "generate", "audit", "prune"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder with `pictures` and an empty `run` in it."""
    home = tmp_path_factory.mktemp("home")
    put(home / "pictures/one.jpg")
    (home / "run").mkdir()
    return home


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((TRAIN, "data.image_size=100"), "data.image_size must be a multiple of 8, got 100"),
        ((GENERATE, "ckpt=nowhere", "out=x"), "ckpt=nowhere does not exist"),
    ],
)
def test_a_mistake_exits_with_1_and_prints_no_traceback(home, words, line):
    printed = command_line(*words, cwd=home, expect=1)
    assert line in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((TRAIN, "data.root=pictures", "ckpt=nowhere"), "ckpt=nowhere does not exist"),
        ((TRAIN, "data.root=pictures", "loss.perceptual.weights=nowhere.pth"), "nowhere.pth is no file"),
        ((TRAIN, "data.root=nowhere"), "data.root=nowhere does not exist"),
        ((TRAIN, "data.root=."), "run_dir="),
        ((AUDIT, "data.root=pictures"), "out must be given"),
        ((AUDIT, "data.root=pictures", "out=null"), "out must be given: out=…"),
        ((AUDIT, "data.root=pictures", "out="), "out is empty"),
        ((AUDIT, "data.root=${nothing}", "out=x"), "Interpolation key 'nothing' not found"),
        ((AUDIT, "data.background=null", "out=x"), "data.background must be a colour's name or #rrggbb, got None"),
        ((TRAIN, "logger=null"), "logger must be one of csv, tensorboard, got null"),
        ((GENERATE, "ckpt=null", "out=x"), "ckpt must be given: ckpt=…"),
        ((GENERATE, "ckpt=x", "out=x", "muse="), "muse is empty"),
        ((AUDIT, "data.root=pictures", "out=pictures/audit"), "out=pictures/audit lies in data.root=pictures"),
        ((PRUNE, "cache_dir=nowhere"), "there is no cache in nowhere"),
        ((PRUNE, "unused_days=-1"), "unused_days must be 0 or more, got -1"),
        ((GENERATE,), "out must be given"),
        ((GENERATE, "ckpt=run", "out=x"), "ckpt=run is a folder without checkpoints/last.ckpt"),
        ((GENERATE, "ckpt=run", "out=x", "muse=nowhere"), "muse=nowhere does not exist"),
        ((GENERATE, "ckpt=run", "out=x", "size=huge"), "size must be train, own or WIDTHxHEIGHT, got huge"),
        ((GENERATE, "ckpt=run", "out=pictures/one.jpg"), "out=pictures/one.jpg is a file"),
    ],
)
def test_a_mistake_is_one_line(home, words, line):
    printed = in_process(*words, cwd=home, expect=1)
    assert line in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 1), (["paint"], 1)])
def test_the_console_script_lists_the_commands(monkeypatch, capsys, words, code):
    monkeypatch.setattr(sys, "argv", ["artdiff", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    assert capsys.readouterr().out.startswith(f"usage: artdiff {{{','.join(cli.COMMANDS)}}}")


def test_the_console_script_knows_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["artdiff", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr().out == f"artdiff {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_console_script_runs_a_command(home, name):
    assert "unheard" in in_process("artdiff.cli", name, "unheard=of", cwd=home, expect=1)


def test_no_command_imports_torch_before_the_settings_are_checked(home):
    modules = ", ".join(f"artdiff.{name}" for name in cli.COMMANDS)
    code = f"import sys, {modules}; print([name for name in ('torch', 'lightning') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "name",
    ["Photos (1)", "it's art", "a,b=c", "#1 [x] {y} & ; émoji 🎨", "back\\slash\\", '"', " ", "~home", "plain/1.5"],
)
def test_a_path_is_taken_literally(name):
    word = literal(f"data.root={name}")
    assert str(OverridesParser.create().parse_override(word).value()) == name


@pytest.mark.parametrize("name", ["Drawings (old)", "Children's art", "B&W", "plain"])
def test_a_label_is_taken_literally(name):
    word = literal(f"label={name}")
    assert str(OverridesParser.create().parse_override(word).value()) == name


@pytest.mark.parametrize(
    "word",
    [
        *("data.root='a b'", "data.root=${x} y", "optimizer.lr=(1)", "optimizer.lr=1_0", "-m"),
        *("label=[a,b]", "label=[]", "data.root=null", "label=Null", "label='null'", "experiment=demo"),
    ],
)
def test_other_words_are_left_unchanged(word):
    assert literal(word) == word


def test_codecs_that_were_trained_can_be_swept_over(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other, with a comma"
    one.mkdir()
    other.mkdir()
    assert current_name(f"codec={other}") == f"codec_from={other}"
    monkeypatch.setattr("sys.argv", ["train", "-m"])
    assert current_name(f"codec={one},'{other}'") == f"codec_from={one},'{other}'"
    assert current_name("codec=f4,f8") == "codec=f4,f8"
    assert current_name(f"codec=f4,{one}") == f"codec=f4,{one}"


def test_files_of_weights_and_words_are_taken_literally():
    name = "/home/zoë/v (1).pth"
    for config, key in (("evaluate", "feature_weights.dinov2"), ("generate", "word_vectors")):
        found = composed(config, f"{key}={name}", "ckpt=x", *(["out=x"] if config == "generate" else []))
        for part in key.split("."):
            found = found[part]
        assert found == name


def test_a_folder_that_cannot_be_made_is_reported():
    with pytest.raises(UserError, match="out=/dev/null/x cannot be made: Not a directory"):
        make_folder(Path("/dev/null/x"), name="out")


NUMBERS = ("2024_05", "1.50", "1e3", "0x10", "yes", "true", "nan", "-1", "+5", ".5", "1_000", "inf", "2024-01-15")
"""Names that look like numbers or truth values."""


@pytest.mark.parametrize("name", NUMBERS)
def test_a_name_that_looks_like_a_number_is_text(name):
    painted = cli.composed("generate", [f"{key}={name}" for key in ("ckpt", "out", "label", "muse", "runs_dir")])
    assert [painted[key] for key in ("ckpt", "out", "label", "muse", "runs_dir")] == [name] * 5
    data = cli.composed("audit", ["out=x", *(f"data.{key}={name}" for key in ("root", "exclude", "cache_dir"))])["data"]
    assert [data[key] for key in ("root", "exclude", "cache_dir")] == [name] * 3
    assert cli.composed("prune", [f"cache_dir={name}"])["cache_dir"] == name
    words = [f"run_dir={name}", f"++data.root={name}", f"callbacks.last.path={name}", f"loss.perceptual.weights={name}"]
    trained = cli.composed("train", words)
    assert trained["run_dir"] == trained["data"]["root"] == trained["callbacks"]["last"]["path"] == name
    assert trained["loss"]["perceptual"]["weights"] == name


def test_the_names_of_a_list_are_text():
    word = "label=[1990, 1_000,true,null,'a,b',it's,(old)]"
    found = cli.composed("generate", ["ckpt=x", "out=x", word])["label"]
    assert found == ["1990", "1_000", "true", "null", "a,b", "it's", "(old)"]


@pytest.mark.parametrize(
    ("word", "sweep"),
    [
        ("label=1990,1_000", ["1990", "1_000"]),
        ("label=choice(1990,1_000)", ["1990", "1_000"]),
        ("data.root=Photos (1),'a,b'", ["Photos (1)", "a,b"]),
        ("label=[1_0,b],[c,2_0]", [["1_0", "b"], ["c", "2_0"]]),
        ("data.root=2024_05", ["2024_05"]),
    ],
)
def test_the_names_of_a_sweep_are_text(monkeypatch, word, sweep):
    monkeypatch.setattr(sys, "argv", ["generate", "-m"])
    override = OverridesParser.create().parse_override(literal(word))
    jobs = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.get_value_string()]
    assert [OverridesParser.create().parse_override(f"x={job}").value() for job in jobs] == sweep


def test_a_multirun_keeps_names_as_they_are(home):
    printed = in_process(AUDIT, "-m", "data.root=1_0,2.50", "out=x", cwd=home, expect=1)
    assert "data.root=1_0 does not exist" in printed
    assert "data.root=2.50 does not exist" in printed


@pytest.mark.parametrize("word", ["data.root=Photos (1)", "label=2024_05", "label='null'", "label=[a,'1_0']", "seed=1"])
def test_commands_are_shown_as_they_were_typed(word):
    assert unquoted(literal(word)) == word


def test_a_choice_may_look_like_a_number(home):
    assert "experiment/2024_05" in in_process(TRAIN, "experiment=2024_05", cwd=home, expect=1)


def test_a_name_that_a_file_of_settings_has_as_a_number_is_warned_of(caplog):
    with caplog.at_level("WARNING"):
        assert cli.plain(OmegaConf.create({"out": 202405, "label": [True, "a"]})) == {
            "out": "202405",
            "label": ["True", "a"],
        }
    assert "out: 202405 is read as a number, not as a name; put it in quotes" in caplog.text


@pytest.mark.parametrize("home_of", ["~", "'~'"])
def test_a_run_may_lie_at_home(monkeypatch, tmp_path, home_of):
    monkeypatch.setenv("HOME", str(tmp_path))
    word = literal(f"run_dir={home_of}/run") if home_of == "~" else "run_dir='~/run'"
    assert cli.composed("train", [word])["run_dir"] == f"{tmp_path}/run"


def test_a_word_that_hydra_cannot_read_is_one_line_from_python_as_well():
    with pytest.raises(UserError, match="optimizer.lr="):
        cli.composed("train", ["optimizer.lr=(1"])
