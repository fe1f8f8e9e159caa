"""Functions that the benchmarks share: time and memory of a command, and the peak FLOP/s of the machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULT = "RESULT "
"""Prefix of the line in a command's output that holds its figures as JSON."""

BEGUN = "BENCHMARK_BEGUN"
"""Environment variable with the command's start time, in Unix seconds."""

WARM = 5
"""Warm-up steps, not timed."""

STEPS_ALONE = (
    *("trainer.limit_val_batches=0", "callbacks.grids=null", "callbacks.best=null", "callbacks.last=null"),
    *("callbacks.every_ten_epochs=null", f"+callbacks.clock.warm={WARM}"),
    "+callbacks.clock._target_=step_clock.StepClock",
)
"""Overrides that switch off everything in a training but its steps."""


class Timed(NamedTuple):
    """Wall-clock `seconds` of a command, its peak resident memory in GiB, and the figures that it printed."""

    seconds: float
    gib: float
    figures: dict[str, Any]


def timed(command: list[str], log: Path, *, expect: int = 0, peers: tuple[str, ...] = (), **more: str) -> Timed:
    """Run `command`, whose exit code must be `expect`; its output goes to `log`.

    `peers` are folders that are added to its module path, `more` is added to its environment.
    """
    paths = [str(Path(__file__).parent), *peers, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {BEGUN: str(time.time()), "PYTHONPATH": os.pathsep.join(path for path in paths if path), **more}
    started = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | environment)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    text = log.read_text(errors="replace")
    if os.waitstatus_to_exitcode(status) != expect:
        sys.exit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    lines = [line for line in text.splitlines() if line.startswith(RESULT)]
    kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Timed(seconds, kib / 2**20, json.loads(lines[-1][len(RESULT) :]) if lines else {})


def tell(**figures: Any) -> None:
    """Print figures for `timed` to find."""
    print(RESULT + json.dumps(figures), flush=True)


def composed(config: str, *overrides: str) -> dict[str, Any]:
    """Compose `conf/CONFIG.yaml` with these overrides → plain values."""
    from artdiff import cli

    return cli.composed(config, overrides)


def wait(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of ten; float32 on a GPU is without TF32."""
    torch.set_float32_matmul_precision("highest")
    side = 8192 if device.type != "cpu" else 4096
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    least = float("inf")
    for _ in range(10):
        wait(device)
        begun = time.perf_counter()
        one @ other
        wait(device)
        least = min(least, time.perf_counter() - begun)
    return 2 * side**3 / least


class Clock:
    """Times steps; the first `warm` ones do not count."""

    def __init__(self, device: torch.device, warm: int) -> None:
        self.device = device
        self.warm = warm
        self.begun = 0

    def tick(self, *_: object) -> None:
        if self.begun == self.warm:
            wait(self.device)
            self.started = time.perf_counter()
        self.begun += 1

    def rate(self, batch: int) -> float:
        """Images per second; call it after the last step."""
        wait(self.device)
        return batch * (self.begun - self.warm) / (time.perf_counter() - self.started)
