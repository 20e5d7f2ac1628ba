"""How weights move: AdamW, its schedule, and an average of the weights it leaves behind."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.999), 1e-8


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and kernels alone, not norms, biases and other vectors.

    Source: Loshchilov and Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True)


def learning_rate(step: int, *, peak: float, warmup: int, num_steps: int) -> float:
    """Return the rate of a step, from 0.

    It rises linearly from peak / warmup to `peak`, then falls towards 0 by half a cosine.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, https://arxiv.org/abs/1608.03983
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1))) / 2


class Average:
    """Exponential moving average of a model's parameters and buffers (EMA).

    After update n, from 1, it is d average + (1 - d) weights, with d = min(decay,
    (1 + n) / (10 + n)) so that the first, random weights are soon forgotten. Counters are
    copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's tensors after a step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        floats, weights = [], []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                floats.append(self.state[name])
                weights.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(floats, weights, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's tensors and the average's; twice changes nothing."""
        for name, tensor in model.state_dict().items():
            kept = tensor.clone()
            tensor.copy_(self.state[name])
            self.state[name].copy_(kept)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors by `PARAMETER.MOMENT`, for a file."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def moments_like(name: str, parameter: Tensor) -> dict[str, Tensor]:
    """Return tensors of the names, shapes and dtypes of a parameter's `moments`, below `adamw.`."""
    names = (f"adamw.{name}.exp_avg", f"adamw.{name}.exp_avg_sq")
    return dict.fromkeys(names, parameter.detach()) | {f"adamw.{name}.step": torch.tensor(0.0)}


@torch.no_grad()
def set_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]
) -> None:
    """Give an optimiser what `moments` took from another. Raises KeyError where one is missing."""
    for name, parameter in model.named_parameters():
        if f"{name}.step" not in kept:
            continue
        state = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = torch.empty_like(parameter).copy_(kept[f"{name}.{key}"])
        step = kept[f"{name}.step"]
        state["step"] = step.to(parameter.device)
