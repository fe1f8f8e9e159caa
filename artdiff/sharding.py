"""Weights sharded over the devices of a training, so that each holds a part of every tensor (FSDP2).

Gradients and optimizer state are sharded with them. A layer's weights are gathered when it is called, and its gradients
are reduce-scattered.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, mesh: DeviceMesh, *, methods: Iterable[str] = ()) -> None:
    """Shard the weights of `network`: one group for each layer in its `ModuleList`s, and one for all others.

    Afterwards call only `network` itself or one of these `methods`.
    """
    network.to(memory_format=torch.contiguous_format)  # FSDP2 cannot shard other formats
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for layer in (layer for found in reversed(lists) for layer in found):  # inner layers first
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(network, method)


def is_sharded(network: nn.Module) -> bool:
    """Return whether the weights of `network` are sharded."""
    return isinstance(next(network.parameters(), None), DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor. If it is sharded, all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Shard a tensor that all ranks hold whole like `other`, which has the same shape; unchanged if that is whole."""
    if not isinstance(other, DTensor):
        return tensor
    laid_out = tensor.to(other.device).contiguous()
    return distribute_tensor(laid_out, other.device_mesh, other.placements, src_data_rank=None)
