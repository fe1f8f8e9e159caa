"""The commands: mistakes end in one line, and words mean what they say."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command_line, in_process, put
from hydra.core.override_parser.overrides_parser import OverridesParser

from artdiff import UserError, cli, runs
from artdiff.cli import literal

TRAIN, GENERATE, AUDIT, PRUNE = (f"artdiff.{name}" for name in cli.COMMANDS)


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
        ((AUDIT, "data.root=pictures", "out=pictures/audit"), "out=pictures/audit lies in data.root=pictures"),
        ((PRUNE, "cache_dir=nowhere"), "there is no cache in nowhere"),
        ((PRUNE, "unused_days=-1"), "unused_days must be 0 or more, got -1"),
        ((GENERATE,), "ckpt and out must be given"),
        ((GENERATE, "ckpt=run", "out=x"), "ckpt=run is a folder without checkpoints/last.ckpt"),
        ((GENERATE, "ckpt=run", "out=x", "muse=nowhere"), "muse=nowhere does not exist"),
        ((GENERATE, "ckpt=run", "out=x", "size=huge"), "size must be train or own, got huge"),
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


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_console_script_runs_a_command(home, name):
    assert "is not in struct" in in_process("artdiff.cli", name, "unheard=of", cwd=home, expect=1)


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
    "word", ["data.root='a b'", "data.root=${x} y", "optimizer.lr=(1)", "-m", "label=[a,(b)]", "data.root=null"]
)
def test_other_words_are_left_unchanged(word):
    assert literal(word) == word


def test_a_folder_that_cannot_be_made_is_reported():
    with pytest.raises(UserError, match="out=/dev/null/x cannot be made: Not a directory"):
        runs.make(Path("/dev/null/x"), name="out")
