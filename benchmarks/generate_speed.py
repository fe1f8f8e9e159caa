"""Pictures per second of artdiff and of two libraries, with networks of equal size and equal numbers of evaluations.

    python benchmarks/generate_speed.py --n 64 --calls 50 --peers DIR experiment=paint32
    python benchmarks/generate_speed.py --n 256 --calls 50 --trainer gpu --peers DIR experiment=latent128

All paint from noise without guidance, in turns, in one process: artdiff like artdiff.generate (with Euler's method),
denoising-diffusion-pytorch with its `sample` (DDIM), diffusers' UNet2DModel with its DDIM scheduler. Weights are not
trained, which does not change the time. The libraries compute in float32 on a CPU and in bf16 on a GPU
(--peer-precision changes that).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import ddpp_network, diffusers_network
from hydra.utils import instantiate
from measure import composed, wait

from artdiff import hardware
from artdiff.ingest.decode import Transform
from artdiff.painter import Painter

CLASSES = ["a", "b", "c", "d"]


def own(args: argparse.Namespace, device: torch.device) -> tuple[Callable[[], object], int]:
    config = composed("train", "run_dir=unused", *args.overrides)
    config["task"]["classes"] = CLASSES
    task = instantiate(config["task"]).to(device).eval()
    painter = Painter(task, Transform(config["data"]["image_size"], "squash", (255, 255, 255)), Path("none"))
    how = {"n": args.n, "label": "a", "steps": args.calls, "solver": "euler", "guidance": 1.0, "compile": args.compile}
    return lambda: painter.paint(**how), task.facts()["parameters"]


def ddpp(args: argparse.Namespace, device: torch.device, size: int, parameters: int) -> Callable[[], object]:
    from denoising_diffusion_pytorch import GaussianDiffusion

    diffusion = GaussianDiffusion(ddpp_network(parameters), image_size=size, sampling_timesteps=args.calls)
    diffusion.to(device).eval()
    return lambda: diffusion.sample(batch_size=args.n)


def diffusers(args: argparse.Namespace, device: torch.device, size: int, parameters: int) -> Callable[[], object]:
    from diffusers import DDIMScheduler

    network = diffusers_network(parameters, size).to(device).eval()
    schedule = DDIMScheduler(1000)
    schedule.set_timesteps(args.calls)

    def sample() -> torch.Tensor:
        image = torch.randn(args.n, 3, size, size, device=device)
        for moment in schedule.timesteps:
            image = schedule.step(network(image, moment).sample, moment, image).prev_sample
        return image

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64, help="pictures a round")
    parser.add_argument("--calls", type=int, default=50, help="of the network for each picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainer", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--compile", default="auto", help="as artdiff.generate takes it")
    parser.add_argument("--peers", default="", help="folder that the libraries are installed in")
    parser.add_argument("--peer-precision", choices=("no", "bf16"), help="no on a CPU, bf16 on a GPU")
    parser.add_argument("overrides", nargs="*", default=["experiment=paint32"], help="of the network, as for training")
    args = parser.parse_args()
    sys.path.append(args.peers)
    device = hardware.device(args.trainer)
    size = composed("train", "run_dir=unused", *args.overrides)["data"]["image_size"]
    paint, parameters = own(args, device)
    programs = {"artdiff": paint}
    programs |= {build.__name__: build(args, device, size, parameters) for build in (ddpp, diffusers)}
    precision = args.peer_precision or ("no" if device.type == "cpu" else "bf16")
    print(f"{hardware.describe(device)}, torch {torch.__version__}, {parameters:,} parameters, {size} px")
    others = "float32" if precision == "no" else "bf16"
    print(f"{args.n} pictures a round, {args.calls} calls each")
    print(f"artdiff in {hardware.precision(device)}, others in {others}")
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(args.rounds + 1):
        for name, program in programs.items():
            is_fast = name != "artdiff" and precision == "bf16"
            begun = time.perf_counter()
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_fast):
                program()
            wait(device)
            if number:  # the first is a warm-up
                rates[name].append(args.n / (time.perf_counter() - begun))
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(rates["artdiff"], found, strict=True))
        print(f"{name}: {statistics.median(found):.2f} pictures/s; artdiff {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
