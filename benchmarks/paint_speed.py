"""How fast a painter trains, and what share of the machine's own bf16 matrix peak that is.

Takes steps of an experiment on random pictures, data loading and logging left out: forward, loss, backward, clipping
and Adam. Arithmetic is counted by torch's FLOP counter (the frozen VGG16 of a hybrid loss included); the peak is
measured beside it with one large matrix product.

    python benchmarks/paint_speed.py --steps 20 experiment=paint32 data.batch_size=64
"""

import argparse
import time

import torch
from hydra.utils import instantiate
from paint_quality import composed
from torch.utils.flop_counter import FlopCounterMode

from artdiff import flow, hardware
from artdiff.tasks import Generation


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product: the best of ten."""
    side = 8192 if device.type == "cuda" else 4096
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    least = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        one @ other
        wait(device)
        least = min(least, time.perf_counter() - begun)
    return 2 * side**3 / least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("overrides", nargs="+", help="as artdiff.train takes them")
    args = parser.parse_args()
    config = composed("train", "run_dir=unused", *args.overrides)
    device = hardware.device(config["trainer"]["accelerator"])
    fast = hardware.precision(device) == "bf16-mixed"
    config["task"]["classes"] = ["a", "b", "c", "d", "e"]
    task: Generation = instantiate(config["task"], loss=instantiate(config["loss"])).to(device)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-4)
    size, count = config["data"]["image_size"], config["data"]["batch_size"]
    image = torch.rand(count, 3, size, size, device=device) * 2 - 1
    label = torch.arange(count, device=device) % 5

    def step() -> None:
        time = flow.draw_times(count, mean=task.time_mean, std=task.time_std, device=device)
        noisy = flow.noised(image, torch.randn_like(image), time)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            denoised = task.network(noisy, time, label)
            terms = task.weighed(denoised, image, time)
        optimizer.zero_grad()
        terms.loss.backward()
        torch.nn.utils.clip_grad_norm_(task.network.parameters(), 5.0)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    for _ in range(3):
        step()
    wait(device)
    begun = time.perf_counter()
    for _ in range(args.steps):
        step()
    wait(device)
    seconds = (time.perf_counter() - begun) / args.steps
    reached, most = counter.get_total_flops() / seconds, peak(device, torch.bfloat16 if fast else torch.float32)
    print(f"{hardware.describe(device)}, {'bf16' if fast else 'float32'}, {task.facts()['parameters']:,} parameters")
    print(f"{count / seconds:.1f} images/s, {counter.get_total_flops() / count / 1e9:.2f} GFLOP an image")
    print(f"{reached / 1e12:.2f} TFLOP/s of {most / 1e12:.2f} measured: {reached / most:.0%}")


if __name__ == "__main__":
    main()
