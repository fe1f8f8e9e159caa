"""Lightning's strategy for sharded weights (FSDP2), with the checkpoint format of a training on one device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from artdiff.sharding import sharded_like, whole


class FullySharded(ModelParallelStrategy):
    """The strategy of `trainer=fsdp`; `Task.configure_model` shards the network.

    Lightning's own strategy numbers an optimizer's weights by their position in the model. If the optimizer has several
    groups, it then cannot resume a run of one device, nor one device a run of it.

    Args:
        devices: the number of devices on all machines.
    """

    def __init__(self, devices: int) -> None:
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False  # as on one device: restored before hooks that run at the start of training

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return all weights, whole. All ranks must call it."""
        assert self.lightning_module is not None
        return {name: whole(value) for name, value in self.lightning_module.state_dict().items()}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        ours, given = self.lightning_module.state_dict(), checkpoint["state_dict"]
        shared = {name: sharded_like(value, ours[name]) if name in ours else value for name, value in given.items()}
        self.lightning_module.load_state_dict(shared, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer state, whole. All ranks must call it."""
        state = optimizer.state_dict()
        return state | {"state": {number: _each(_unshared, kept) for number, kept in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            weight_of = dict(zip(numbers, weights, strict=True))
            shared = {number: _shared(kept, weight_of[number]) for number, kept in state["state"].items()}
            optimizer.load_state_dict({**state, "state": shared})


def _unshared(value: Tensor) -> Tensor:
    """Return the whole tensor in the memory format that weights have on one device: fused optimizers require it."""
    found = whole(value)
    return found.contiguous(memory_format=torch.channels_last) if found.ndim == 4 else found


def _each(change: Any, kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in kept.items()}


def _shared(kept: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    """Shard an optimizer's state of a weight: tensors with the weight's shape are sharded like the weight."""
    return _each(lambda value: sharded_like(value, weight) if value.shape == weight.shape else value, kept)
