"""Weights that are shared out over the devices of a training, so that each holds a part of every one (FSDP2).

With them their gradients and the optimizer's averages are shared out. A layer's weights are put together when it is
called, and its gradients are averaged over the devices part by part.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, mesh: DeviceMesh, *, methods: Iterable[str] = ()) -> None:
    """Share out the weights of `network`: those of each layer of its lists by themselves, the others together.

    It is then called as a whole, or by one of these `methods`.
    """
    network.to(memory_format=torch.contiguous_format)  # others cannot be shared out
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for layer in (layer for found in reversed(lists) for layer in found):  # inner layers first
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(network, method)


def is_shared_out(network: nn.Module) -> bool:
    """Whether `shard` has shared out its weights."""
    return isinstance(next(network.parameters(), None), DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together if it is shared out; then all devices must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that all devices hold whole, shared out as `other` of the same shape is, and as it lies in memory."""
    if not isinstance(other, DTensor):
        return tensor
    laid_out = tensor.to(other.device).contiguous()
    return distribute_tensor(laid_out, other.device_mesh, other.placements, src_data_rank=None)
