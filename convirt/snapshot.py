"""A model in training as named tensors, and back: its weights, the best so far, and the moments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a model, on its device and in its memory layout."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def tensors_of(
    model: nn.Module, best: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Everything of a run that is a tensor, for `checkpoint.save_state`.

    Args:
        model: As it is now.
        best: Its state at the best validation so far.
        optimiser: Of some or all parameters of the model; it has no moments before its first step.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for name, parameter in model.named_parameters():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"optimiser/{key}/{name}": value for key, value in moments.items()}
    return tensors


def restore(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Fill a model and its optimiser with what `tensors_of` gave; returns the best state."""
    own = copied(model)
    model.load_state_dict({name: tensors[f"model/{name}"] for name in own})
    moments = sorted({key.split("/")[1] for key in tensors if key.startswith("optimiser/")})
    for name, parameter in model.named_parameters():
        places = {key: f"optimiser/{key}/{name}" for key in moments}
        found = {k: _placed(tensors[at], parameter) for k, at in places.items() if at in tensors}
        if found:
            optimiser.state[parameter] = found
    return {name: value.copy_(tensors[f"best/{name}"]) for name, value in own.items()}


def _placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A moment on the device of its parameter and in its memory layout.

    Fused optimisers work in memory order and are silently wrong if the layouts differ
    (channels_last, say); a file does not preserve layouts.
    """
    if value.dim() and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value).detach()
    return value.to(parameter.device)
