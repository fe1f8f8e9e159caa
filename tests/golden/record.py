"""Records what the program computes, so that a refactor can be shown to change nothing.

    python tests/golden/record.py           # losses, weights and pictures, into golden.json and pictures/
    python tests/golden/record.py --help-texts
    python tests/golden/record.py --checkpoints
    python tests/golden/record.py --renew RUN ...   # only these runs

`golden.json` holds, for short runs in float32 on sample art, every logged loss and a hash of the rounded final weights;
`pictures/` what the checkpoints paint for fixed seeds; `help/` what each command prints for `--help`. `checkpoints/`
holds one file of each kind that version 0.1.0 wrote. Those are never written anew: later versions must read them.

The runs that paint were recorded anew once, when noise, times and dropout became functions of the images seen rather
than of the step. With the old drawing put into the new code, all their losses and weights were those of the old record.

Everything goes through the command line, so that the script does not depend on the package's structure. The hash and
the pictures' bytes hold for one machine, which the file names: others round differently.
"""

import argparse
import csv
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

HERE = Path(__file__).parent
GOLDEN, PICTURES, HELP, CHECKPOINTS = (HERE / name for name in ("golden.json", "pictures", "help", "checkpoints"))

COMMANDS = ("train", "generate", "audit", "prune")

SHORT = (
    *("trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=20", "trainer.max_time=null", "data.batch_size=8"),
    *("trainer.log_every_n_steps=1", "trainer.limit_val_batches=1", "callbacks.grids=null", "logger=csv"),
)
HYBRID = ("data.image_size=32", "loss.perceptual.weights=random", "loss.perceptual.layer=relu2_2")
ADAM = ("optimizer=adam", "optimizer.lr=2e-3", "+optimizer.betas=[0.9,0.99]", "callbacks.decay.share=0")
"""How `paint32` trained before it took Muon."""

RUNS = {
    "baseline": ("experiment=baseline", *HYBRID),
    "article": ("experiment=article", *HYBRID),
    "paint32": ("experiment=paint32", *ADAM),
    "small_painter": (
        *("task=generation", "network=unet", "loss=mse", "data.image_size=32", "optimizer.lr=2e-3"),
        *("+optimizer.betas=[0.9,0.99]", "scheduler=null"),
        *("task.warmup=50", "+trainer.gradient_clip_val=5.0", "trainer.check_val_every_n_epoch=5"),
    ),
    "paint32_hybrid": ("experiment=paint32", *ADAM, "loss=hybrid_relative", *HYBRID, "network.dropout=0.1"),
}
"""The runs whose losses are recorded."""

TINY = ("data.image_size=16", "data.batch_size=8", "loss=mse", "trainer.check_val_every_n_epoch=1")
UNET = ("network=unet", "network.channels=[16,32]", "network.cond_dim=16", "network.attention_resolutions=[8]")
VIT = ("network=vit", "network.patches=4", "network.width=64", "network.depth=1", "network.cond_dim=16")
KINDS = {
    "reconstruction": ("experiment=baseline", *TINY),
    "generation_unet": ("experiment=paint32", *ADAM, *TINY, *UNET),
    "generation_vit_unlabelled": ("experiment=paint32", *ADAM, *TINY, *VIT),
}
"""The checkpoints that were written, each by five steps; the last one on pictures without classes."""

CARRIED_ON = {name: (*words, "trainer.max_steps=8") for name, words in KINDS.items()}

PAINTED = {
    "generation_unet": ("n=2", "seed=3", "steps=6", "solver=heun", "label=all"),
    "generation_unet_muse": ("n=2", "seed=3", "steps=6", "solver=heun", "label=engraving", "strength=0.6", "muse=MUSE"),
    "generation_unet_between": (
        "n=3",
        "interpolate=[1,2]",
        "steps=4",
        "solver=heun",
        "label=[engraving,truchet]",
        "guidance=1.0",
    ),
    "generation_vit_unlabelled": ("n=3", "steps=5", "solver=euler"),
    "reconstruction": ("muse=MUSE", "size=own"),
    "article": ("muse=MUSE",),
}
"""What is painted: the checkpoint's name begins that of the recording."""


TERMS = ("train/loss", "train/mse", "train/weighted_mse", "train/perceptual")
"""What is recorded of a run. How fast it was is not."""


def machine() -> dict[str, Any]:
    """What rounding depends on."""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    features = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    return {"torch": torch.__version__, "cpu": capability, "threads": threads, "features": features}


def command(*words: object, cwd: Path) -> str:
    environment = {**os.environ, "COLUMNS": "100", "ARTDIFF_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{words} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def sample_art(folder: Path, *, flat: bool = False) -> Path:
    """Eight sample pictures of each style, as the program paints them."""
    code = "import sys; from pathlib import Path; from importlib import import_module as load\n"
    code += "try: sample_art = load('artdiff.ingest.sample_art')\n"
    code += "except ImportError: sample_art = load('artdiff.data.sample_art')\n"
    code += "sample_art.paint(Path(sys.argv[1]), per_style=8, seed=0)"
    root = folder / "art"
    if not root.exists():
        subprocess.run([sys.executable, "-c", code, root], check=True, capture_output=True)
    if not flat:
        return root
    (folder / "flat").mkdir(exist_ok=True)
    for path in root.rglob("*.jpg"):
        shutil.copy(path, folder / "flat" / path.name)
    return folder / "flat"


def weights_of(path: Path) -> str:
    """A hash of a checkpoint's weights, rounded to three decimals."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    told = hashlib.sha256()
    for name, value in sorted(state.items()):
        told.update(name.encode())
        told.update((value.double() * 1000).round().long().numpy().tobytes())
    return told.hexdigest()


def train(name: str, words: tuple[str, ...], folder: Path, ckpt: Path | None = None) -> dict[str, Any]:
    """Train as `words` say → every number that was logged in training, and the weights' hash."""
    run, root = folder / name, sample_art(folder, flat="unlabelled" in name)
    carried = () if ckpt is None else (f"ckpt={ckpt}",)
    command("artdiff.train", f"data.root={root}", f"hydra.run.dir={run}", *SHORT, *words, *carried, cwd=folder)
    return {"logged": logged(run), "weights": weights_of(run / "checkpoints/last.ckpt")}


def logged(run: Path) -> dict[str, list[float]]:
    """The terms that a run logged in training, one number a step."""
    with (run / "csv/metrics.csv").open() as stream:
        lines = [line for line in csv.DictReader(stream) if line["train/loss"]]
    return {term: [float(line[term]) for line in lines] for term in TERMS if lines[0].get(term)}


def unpacked(name: str, folder: Path) -> Path:
    """A committed checkpoint, to be read."""
    path = folder / (f"{name}.pth" if name == "article" else f"{name}.ckpt")
    path.write_bytes(lzma.decompress((CHECKPOINTS / f"{path.name}.xz").read_bytes()))
    return path


def checkpoint_of(name: str) -> str:
    """The checkpoint that a recorded picture was painted with."""
    return name if name == "article" else next(kind for kind in KINDS if name.startswith(kind))


def painting(name: str, art: Path) -> tuple[str, ...]:
    """What is asked of the painter, its muse being one of `art`."""
    return tuple(word.replace("MUSE", str(art / "landscape/landscape_000.jpg")) for word in PAINTED[name])


def paint(name: str, folder: Path) -> list[Path]:
    """Paint → the pictures without their sheet."""
    ckpt, out = unpacked(checkpoint_of(name), folder), folder / f"{name}_painted"
    words = (f"ckpt={ckpt}", f"out={out}", "device=cpu", *painting(name, sample_art(folder)))
    command("artdiff.generate", *words, cwd=folder)
    return sorted(path for path in out.glob("*.png") if path.stem != "sheet")


def tiled(value: Any) -> Any:
    """`value` with the first numbers of every large tensor repeated, so that the file packs to almost nothing."""
    if isinstance(value, dict):
        return type(value)((key, tiled(one)) for key, one in value.items())
    if isinstance(value, list):
        return [tiled(one) for one in value]
    if isinstance(value, torch.Tensor) and value.numel() > 256:
        first = value.flatten()[:127]
        return first.repeat(-(-value.numel() // 127))[: value.numel()].view(value.shape).clone()
    return value


def write_checkpoints(folder: Path) -> None:
    CHECKPOINTS.mkdir(exist_ok=True)
    for name, words in KINDS.items():
        train(name, (*words, "trainer.max_steps=5", "task.seed=0" if "paint" in words[0] else "seed=0"), folder)
        found = torch.load(folder / name / "checkpoints/last.ckpt", weights_only=True)
        torch.save(tiled(found), folder / "packed")
        (CHECKPOINTS / f"{name}.ckpt.xz").write_bytes(lzma.compress((folder / "packed").read_bytes(), preset=9))
    state = {key.removeprefix("network."): value for key, value in found_weights(folder).items()}
    torch.save(tiled(state), folder / "packed")
    (CHECKPOINTS / "article.pth.xz").write_bytes(lzma.compress((folder / "packed").read_bytes(), preset=9))


def found_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "reconstruction/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def write_help(folder: Path) -> None:
    HELP.mkdir(exist_ok=True)
    for name in COMMANDS:
        (HELP / f"{name}.txt").write_text(command(f"artdiff.{name}", "--help", cwd=folder))


def renew(names: list[str], folder: Path) -> None:
    """Record some runs anew, where a change of their losses was meant and has been shown to be the only one."""
    golden = json.loads(GOLDEN.read_text())
    for name in names:
        if name in RUNS:
            golden["runs"][name] = train(name, RUNS[name], folder)
        else:
            golden["carried_on"][name] = train(name, CARRIED_ON[name], folder, ckpt=unpacked(name, folder))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def write_golden(folder: Path) -> None:
    golden: dict[str, Any] = {"machine": machine()}
    golden["runs"] = {name: train(name, words, folder) for name, words in RUNS.items()}
    golden["carried_on"] = {
        name: train(name, words, folder, ckpt=unpacked(name, folder)) for name, words in CARRIED_ON.items()
    }
    PICTURES.mkdir(exist_ok=True)
    for name in PAINTED:
        for path in paint(name, folder):
            with Image.open(path) as picture:
                picture.convert("RGB").save(PICTURES / f"{name}.{path.stem}.png")
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", action="store_true")
    parser.add_argument("--help-texts", action="store_true")
    parser.add_argument("--renew", nargs="+", metavar="RUN", choices=(*RUNS, *CARRIED_ON))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.checkpoints:
            write_checkpoints(Path(folder))
        elif args.renew:
            renew(args.renew, Path(folder))
        elif args.help_texts:
            write_help(Path(folder))
        else:
            write_golden(Path(folder))


if __name__ == "__main__":
    main()
