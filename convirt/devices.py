"""Where tensors live."""

from __future__ import annotations

from convirt.errors import InputError


def require(name: str) -> str:
    """Return `name` ("cpu" or "cuda") if torch can compute there.

    Raises:
        InputError: It is cuda and there is no usable GPU; a run on the CPU instead would be
            another run, with other last bits and of another length.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "params.yaml: compute.device",
            "a GPU that torch can use, as device is cuda",
            f"none (torch {torch.__version__})",
            "set compute.device to cpu and compute.precision to float32, or check nvidia-smi",
        )
    return name
