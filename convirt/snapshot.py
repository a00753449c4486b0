"""A model in training as named tensors, and back: its weights, the best so far, and the moments."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn


def copied(model: nn.Module, without: Set[str] = frozenset()) -> dict[str, Tensor]:
    """A copy of the state of a model, on its device and in its memory layout.

    Args:
        model: Any.
        without: Names of the state that never change, and need no copy.
    """
    state = model.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if name not in without}


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace these tensors of the state of a model; the others stay."""
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)


def tensors_of(
    model: nn.Module, best: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Weights, best state and the optimiser's moments by name, for `checkpoint.save_state`.

    Args:
        model: As it is now.
        best: Its state at the best validation so far, as `copied` gave it.
        optimiser: Of some or all parameters of the model; it has no moments before its first step.
    """
    state = model.state_dict()
    tensors = {f"model/{name}": state[name] for name in best}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for name, parameter in model.named_parameters():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"optimiser/{key}/{name}": value for key, value in moments.items()}
    return tensors


def restore(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    without: Set[str] = frozenset(),
) -> dict[str, Tensor]:
    """Fill a model and its optimiser with what `tensors_of` gave; returns the best state.

    Args:
        model: Built as the one that was saved.
        optimiser: Likewise.
        tensors: Read from the file.
        without: As for `copied`, when it was saved.
    """
    own = copied(model, without)
    put(model, {name: tensors[f"model/{name}"] for name in own})
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
