"""Images per second and weights of a training on one device and on several, in turns.

    python benchmarks/several_devices.py --data DIR --steps 60 --rounds 3 experiment=paint32
    python benchmarks/several_devices.py --data DIR --devices 4 --trainer gpu experiment=latent128

Each batch is split over the devices. Rates are those of the steps alone. On a CPU the devices are processes that divide
the cores, so several cannot be faster than one: the loss is the cost of communication. The memory in parentheses is
that of the first process.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from measure import STEPS_ALONE, timed

from artdiff import hardware

STRATEGIES = ("ddp", "fsdp")


def apart(ours: Path, theirs: Path) -> float:
    """The largest difference between weights in the two runs' last checkpoints."""
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (ours, theirs)]
    return max(float((states[0][name] - value).abs().max()) for name, value in states[1].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of pictures")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainer", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("overrides", nargs="*", default=["experiment=paint32"], help="as artdiff.train takes them")
    args = parser.parse_args()
    device = hardware.device(args.trainer)
    cores = max(1, (os.cpu_count() or 1) // args.devices)
    print(f"{hardware.describe(device)}, torch {torch.__version__}; {args.devices} devices, batches of all together")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [*args.overrides, f"data.root={args.data}", f"data.cache_dir={folder}/cache", "trainer.max_time=null"]
        # several processes on a CPU use float32, so one process must too: weights are compared
        words += ["trainer.precision=32-true"] if device.type == "cpu" else []
        several = (f"trainer.accelerator={args.trainer}", f"trainer.devices={args.devices}")
        ways = {name: (f"trainer={name}", *several) for name in STRATEGIES} | {"one": (f"trainer={args.trainer}",)}
        for way, more in ways.items():
            command = [sys.executable, "-m", "artdiff.train", *words, *more, "trainer.max_steps=10"]
            timed([*command, f"hydra.run.dir={folder}/{way}"], folder / f"{way}.log")
        for way in STRATEGIES:
            print(f"{way}: after 10 steps weights differ by {apart(folder / way, folder / 'one'):.1e} at most")
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(args.rounds):
            said = []
            for way, more in ways.items():
                command = [sys.executable, "-m", "artdiff.train", *words, *more, *STEPS_ALONE]
                command += [f"trainer.max_steps={args.steps}", f"hydra.run.dir={folder}/{way}_{number}"]
                threads = {} if way == "one" or device.type != "cpu" else {"OMP_NUM_THREADS": str(cores)}
                done = timed(command, folder / f"{way}.log", **threads)
                rates[way].append(done.figures["rate"])
                said.append(f"{way} {done.figures['rate']:.1f} ({done.gib:.1f} GiB)")
            print(f"round {number + 1}: images/s {', '.join(said)}", flush=True)
    for way in STRATEGIES:
        shares = [shared / one for shared, one in zip(rates[way], rates["one"], strict=True)]
        print(f"median ratio of {way} to one: {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
