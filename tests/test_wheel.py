"""What is published: a wheel that holds everything, and works in a folder where there is nothing else."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import artdiff

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    asked = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as content:
        yield content


def test_twine_finds_nothing_wrong(built):
    asked = [sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_it_holds_every_module_and_every_setting(wheel):
    held = set(wheel.namelist())
    for folder, inside in (("artdiff", "artdiff"), ("conf", "artdiff/conf")):
        ours = [path for end in ("py", "yaml") for path in (ROOT / folder).rglob(f"*.{end}")]
        assert ours and {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in ours} <= held
    assert not any(name.startswith(("tests", "benchmarks", "notebooks")) for name in held)


def test_it_says_what_it_is(wheel):
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
    about = email.message_from_string(wheel.read(name).decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("artdiff", artdiff.__version__, "MIT")
    assert any(one.endswith("LICENSE") for one in wheel.namelist())
    assert {"gallery", "sweep", "onnx", "c2pa"} <= set(about.get_all("Provides-Extra"))


@pytest.mark.slow
def test_it_trains_and_paints_in_an_empty_folder(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    here = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*words):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path / "empty", env=here, capture_output=True,
                              text=True, timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tiny = ("network.channels=[16,32]", "network.cond_dim=16", "data.image_size=16", "callbacks.grids=null")
    run("artdiff.train", "experiment=paint32", "debug=two_steps", "trainer=cpu", "run_dir=run", *tiny)
    run("artdiff.generate", "ckpt=run", "n=1", "label=truchet", "steps=1", "device=cpu", "out=made")
    assert sorted(path.name for path in (tmp_path / "empty/made").iterdir()) == ["sheet.png", "truchet_0.png"]
    where = subprocess.run([sys.executable, "-c", "import artdiff; print(artdiff.__file__)"], cwd=tmp_path, env=here,
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(tmp_path / "site")
