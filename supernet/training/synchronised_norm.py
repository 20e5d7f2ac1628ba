"""Batch normalisation over the batches of all processes of a training.

A mode takes over `batch_norm`, so networks need not know. PyTorch's own synchronised layer refuses
the CPU. B batch, C channels.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SynchronisedStatistics(TorchFunctionMode):
    """While active, batch normalisation in training takes the batches of all ranks as one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            func = _batch_norm
        return func(*args, **(kwargs or {}))


def _batch_norm(  # the parameters are those of the function that it stands for
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `torch.nn.functional.batch_norm` does, in training over the batches of all ranks.

    x is (B, C, ...), of as many elements on every rank.
    """
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    assert weight is not None, "without affine parameters nothing here normalises"
    assert bias is not None
    normalise: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Normalise.apply
    y, mean, var = normalise(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return y


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias; mean and var are those of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        own = _per_channel(wide)
        own_var = _per_channel((wide - _as(own, x)).square())
        means, variances = of_all_ranks(torch.stack([own, own_var])).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        centred = wide - _as(mean, x)
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, scale)
        y = centred * _as(scale * weight, x) + _as(bias, x)
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        wide = dy.to(mean.dtype)
        normed = (x.to(mean.dtype) - _as(mean, x)) * _as(scale, x)
        mean_dy, mean_dyx = _per_channel(wide), _per_channel(wide * normed)
        count = x.numel() // x.shape[1]
        dweight, dbias = mean_dyx * count, mean_dy * count  # of this rank; averaged with the rest
        mean_dy, mean_dyx = _mean_of_ranks(torch.stack([mean_dy, mean_dyx]))
        dx = (wide - _as(mean_dy, x) - normed * _as(mean_dyx, x)) * _as(scale * weight, x)
        return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype), None


def of_all_ranks(tensor: Tensor) -> Tensor:
    """Return the tensor of every rank, (ranks, ...), on all of them."""
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor)
    return torch.stack(tensors)


def _mean_of_ranks(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total.div_(dist.get_world_size())


def _per_channel(x: Tensor) -> Tensor:
    """Return the mean of each channel, (B, C, ...) -> (C,)."""
    return x.mean([d for d in range(x.dim()) if d != 1])


def _as(per_channel: Tensor, x: Tensor) -> Tensor:
    return per_channel.view(1, -1, *[1] * (x.dim() - 2))
