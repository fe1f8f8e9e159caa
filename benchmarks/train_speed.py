"""Images per second of artdiff.train and of other programs, in turns: the article's, two libraries, a bare loop.

    python benchmarks/train_speed.py --data DIR --steps 80 --rounds 3
    python benchmarks/train_speed.py --data DIR --steps 300 --trainer gpu --json FILE
    python benchmarks/train_speed.py --data DIR --step-only --against bare --against ddpp experiment=paint32

Each time is that of a whole command. It includes imports, and for artdiff also validation, grids and checkpoints. In
the first round artdiff's cache is cold, so the time includes decoding every file. From the second round on it is warm,
and also has the features of all targets of the first round, since the order is the same. With --step-only the time is
that of the steps alone, after the first few. `contenders.py` describes the other programs; the libraries are installed,
or in the folder --peers. torch counts the FLOP of a step, and the machine's peak is that of a large matrix product in
the same run.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, Bare
from hydra.utils import instantiate
from measure import STEPS_ALONE, composed, peak, timed
from torch.utils.flop_counter import FlopCounterMode

from artdiff import hardware

HERE = Path(__file__).parent


def arithmetic(overrides: list[str], device: torch.device) -> float:
    """FLOP per image of a training step."""
    loop = Bare(composed("train", "run_dir=unused", *overrides), device)
    wire = next(loop.batches)
    loop.step(wire)  # now its targets' features are cached, if caching is on
    with FlopCounterMode(display=False) as counter:
        loop.step(wire)
    return counter.get_total_flops() / loop.batch


def race(args: argparse.Namespace, overrides: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run each program once per round → the figures of each round."""
    overrides = [*overrides, f"trainer.max_steps={args.steps}"]
    config = composed("train", "run_dir=unused", *overrides)
    batch, parameters = config["data"]["batch_size"], instantiate(config["task"]).facts()["parameters"]
    own = [sys.executable, "-m", "artdiff.train", *overrides]
    words = {"data": args.data, "steps": args.steps, "parameters": parameters, "batch": batch, "trainer": args.trainer}
    words |= {"size": config["data"]["image_size"]}
    words |= {"peer-precision": args.peer_precision or ("no" if args.trainer == "cpu" else "bf16")}
    if config["loss"]["perceptual"] is not None:
        words |= {name: config["loss"]["perceptual"][name] for name in ("weights", "layer")}
    told = [f"--{name}={value}" for name, value in words.items()]
    commands = {"artdiff": [*own, f"runs_dir={folder}/runs", *(STEPS_ALONE if args.step_only else ())]}
    commands |= {name: [sys.executable, str(HERE / "contenders.py"), name, *overrides, *told] for name in args.against}
    on_cpu = {"ACCELERATE_USE_CPU": "1"} if args.trainer == "cpu" else {}
    rounds = []
    for number in range(args.rounds):
        row: dict[str, Any] = {}
        for name, command in commands.items():
            done = timed(command, folder / f"{name}.log", peers=(args.peers,), **on_cpu)
            rate = done.figures["rate"] if args.step_only else batch * args.steps / done.seconds
            row[name] = {"images_per_second": rate, "seconds": done.seconds, "gib": done.gib, **done.figures}
        rounds.append(row)
        said = [f"{name} {one['images_per_second']:.2f} ({one['gib']:.1f} GiB)" for name, one in row.items()]
        ratios = [f"{name} {ratio(row, name):.2f}" for name in args.against]
        kind = "warm" if number else "cold"
        print(f"round {number + 1} (cache {kind}): images/s {', '.join(said)}")
        print(f"  artdiff's ratio to {', '.join(ratios)}", flush=True)
    return rounds


def ratio(row: dict[str, Any], name: str) -> float:
    """artdiff's speed divided by another program's, in one round."""
    return row["artdiff"]["images_per_second"] / row[name]["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with class subfolders, all of whose files decode")
    parser.add_argument("--against", action="append", choices=CONTENDERS, help="plain; may be given more than once")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--step-only", action="store_true")
    parser.add_argument("--trainer", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--peers", default="", help="folder that the libraries are installed in")
    parser.add_argument("--peer-precision", choices=("no", "bf16", "fp16"), help="no on a CPU, bf16 on a GPU")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("overrides", nargs="*", default=["experiment=article"], help="as artdiff.train takes them")
    args = parser.parse_args()
    args.against = args.against or ["plain"]
    device = hardware.device(args.trainer)
    print(f"{hardware.describe(device)}, {hardware.precision(device)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        own = [f"trainer={args.trainer}", f"data.root={args.data}", f"data.cache_dir={folder}/cache"]
        flops = {"as trained": arithmetic([*args.overrides, *own], device)}
        if composed("train", "run_dir=unused", *args.overrides)["loss"]["perceptual"] is not None:
            again = arithmetic([*args.overrides, *own, "loss.perceptual.keep=0"], device)
            flops["with every target's features computed"] = again
        rounds = race(args, [*args.overrides, *own], Path(folder))
    later = rounds[1:] or rounds
    for name in args.against:
        median = statistics.median(ratio(row, name) for row in later)
        print(f"median ratio to {name}, cache {'warm' if rounds[1:] else 'cold'}: {median:.2f}")
    peaks = {str(dtype)[6:]: peak(device, dtype) for dtype in (torch.bfloat16, torch.float32)}
    reached = statistics.median(row["artdiff"]["images_per_second"] for row in later) * flops["as trained"]
    print("an image: " + ", ".join(f"{value / 1e9:.2f} GFLOP {name}" for name, value in flops.items()))
    print("matrix product: " + ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in peaks.items()))
    shares = ", ".join(f"{reached / value:.0%} of {name}'s" for name, value in peaks.items())
    print(f"artdiff: {reached / 1e12:.3g} TFLOP/s, {shares}")
    if args.json is not None:
        facts = {"device": hardware.describe(device), "torch": torch.__version__, "arguments": sys.argv[1:]}
        args.json.write_text(json.dumps({**facts, "flop": flops, "peak": peaks, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
