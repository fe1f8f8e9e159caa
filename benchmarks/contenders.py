"""Programs to compare with: the article's, two libraries, and artdiff's steps in a bare loop.

train_speed.py runs each in its own process, which prints images/s of its steps after the first few.

- `plain`: the article's program as published: float32, `ImageFolder` and transforms, one process that decodes every
  file in every epoch.
- `bare`: the network, loss, optimizer, data and precision of an artdiff experiment, without Lightning: nothing is
  logged, validated or saved.
- `ddpp`: denoising-diffusion-pytorch's own Trainer. `diffusers`: the steps of its example for unconditional training.
  Both use the experiment's batches, and the width whose number of weights is nearest to the experiment's. They compute
  in float32 on a CPU and in mixed precision on a GPU, as their users run them (--peer-precision changes that).
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from measure import WARM, Clock, composed, tell
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from artdiff import hardware


def _endless(batches: Any) -> Any:
    return (batch for _ in count() for batch in batches)


def plain(args: argparse.Namespace, device: torch.device) -> None:
    from artdiff.images import IMAGENET_MEAN, IMAGENET_STD
    from artdiff.losses import PerceptualLoss
    from artdiff.networks import ConvDiffusionModel

    vgg = PerceptualLoss(weights=args.weights, layer=args.layer, relative=False, keep=0).features
    vgg.to(device, memory_format=torch.contiguous_format)
    model = ConvDiffusionModel().to(device)
    steps = [transforms.Resize((args.size, args.size)), transforms.ToTensor()]
    steps += [transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    loader = DataLoader(ImageFolder(args.data, transforms.Compose(steps)), batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    clock = Clock(device, WARM)
    for batch, _ in islice(_endless(loader), args.steps):
        clock.tick()
        image = batch.to(device)
        output = model(image)
        loss = F.mse_loss(output, image) + F.mse_loss(vgg(output), vgg(image))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    tell(rate=clock.rate(32))


class Bare:
    """An artdiff experiment without Lightning: its steps are called one by one."""

    def __init__(self, config: dict[str, Any], device: torch.device) -> None:
        from hydra.utils import instantiate

        from artdiff.training import trainer

        self.device = device
        self.batch = config["data"]["batch_size"]
        self.clip = config["trainer"]["gradient_clip_val"]
        self.data = instantiate(config["data"])
        self.data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device), global_rank=0, world_size=1)
        self.data.setup()
        if "classes" in config["task"]:
            config["task"]["classes"] = self.data.classes
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = device.type == "cuda"
        self.task = instantiate(config["task"], loss=instantiate(config["loss"])).to(device)
        self.task._trainer = SimpleNamespace(world_size=1, global_rank=0)
        trainer.cache_and_compile(config, self.task, self.data, device, batch_size=self.batch)
        self.optimizer = instantiate(self.task.optimizer)(self.task.network.named_parameters())
        wanted = config["trainer"]["precision"]
        self.is_fast = (hardware.precision(device) if wanted == "auto" else wanted) == "bf16-mixed"
        self.batches = _endless(self.data.train_dataloader())

    def step(self, wire: Any = None) -> None:
        wire = next(self.batches) if wire is None else wire
        wire = self.data.transfer_batch_to_device(wire, self.device, 0)
        batch = self.data.on_after_batch_transfer(wire, 0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_fast):
            loss = self.task.losses(batch).loss
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.task.network.parameters(), self.clip)
        self.optimizer.step()
        if hasattr(self.task, "ema"):
            with torch.no_grad():
                torch._foreach_lerp_(list(self.task.ema.parameters()), list(self.task.network.parameters()), 0.001)


def bare(args: argparse.Namespace, device: torch.device) -> None:
    loop = Bare(composed("train", "run_dir=unused", *args.overrides), device)
    clock = Clock(device, WARM)
    for _ in range(args.steps):
        clock.tick()
        loop.step()
    tell(rate=clock.rate(loop.batch))


def nearest(build: Callable[[int], nn.Module], parameters: int) -> nn.Module:
    """The network whose number of weights is nearest to `parameters`, among widths that are multiples of 8."""

    def off(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(weight.numel() for weight in build(width).parameters()) - parameters)

    return build(min(range(16, 257, 8), key=off))


def ddpp_network(parameters: int) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return nearest(lambda width: Unet(dim=width, dim_mults=(1, 2, 4)), parameters)


def diffusers_network(parameters: int, size: int) -> nn.Module:
    from diffusers import UNet2DModel

    down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    up = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    how = {"layers_per_block": 1, "norm_num_groups": 8, "down_block_types": down, "up_block_types": up}
    widths = (1, 2, 4)
    return nearest(
        lambda width: UNet2DModel(size, block_out_channels=tuple(width * times for times in widths), **how), parameters
    )


def ddpp(args: argparse.Namespace, device: torch.device) -> None:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    network = ddpp_network(args.parameters)
    diffusion = GaussianDiffusion(network, image_size=args.size, sampling_timesteps=50)
    clock = Clock(device, WARM)
    network.register_forward_pre_hook(clock.tick)
    with tempfile.TemporaryDirectory() as results:
        how = {"train_batch_size": args.batch, "train_num_steps": args.steps, "save_and_sample_every": 10**9}
        how |= {"calculate_fid": False, "results_folder": results, "amp": args.peer_precision != "no"}
        Trainer(diffusion, args.data, **how, mixed_precision_type=args.peer_precision).train()
    tell(rate=clock.rate(args.batch), parameters=_weights(network))


def diffusers(args: argparse.Namespace, device: torch.device) -> None:
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    steps = [transforms.Resize(args.size), transforms.CenterCrop(args.size), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    loader = DataLoader(ImageFolder(args.data, transforms.Compose(steps)), batch_size=args.batch, shuffle=True)
    network = diffusers_network(args.parameters, args.size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rises = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=args.steps)
    accelerator = Accelerator(mixed_precision=args.peer_precision, cpu=device.type == "cpu")
    network, optimizer, loader, rises = accelerator.prepare(network, optimizer, loader, rises)
    schedule = DDPMScheduler(1000)
    average = EMAModel(network.parameters(), use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    average.to(accelerator.device)
    clock = Clock(device, WARM)
    for image, _ in islice(_endless(loader), args.steps):
        clock.tick()
        noise = torch.randn_like(image)
        time = torch.randint(0, 1000, (len(image),), device=image.device).long()
        loss = F.mse_loss(network(schedule.add_noise(image, noise, time), time).sample.float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rises.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        loss.detach().item()
    tell(rate=clock.rate(args.batch), parameters=_weights(network))


def _weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


CONTENDERS = {"plain": plain, "bare": bare, "ddpp": ddpp, "diffusers": diffusers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="width and height of the pictures in pixels")
    parser.add_argument("--batch", type=int, required=True, help="pictures a step")
    parser.add_argument("--trainer", required=True, choices=("cpu", "gpu"))
    parser.add_argument("--weights", default="random", help="of VGG16")
    parser.add_argument("--layer", default="relu3_3", help="where VGG16 is cut")
    parser.add_argument("--parameters", type=int, default=0, help="about how many weights a library's network has")
    parser.add_argument("--peer-precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("overrides", nargs="*", help="of the experiment that it is compared with")
    args = parser.parse_args()
    torch.manual_seed(0)
    CONTENDERS[args.contender](args, hardware.device(args.trainer))


if __name__ == "__main__":
    main()
