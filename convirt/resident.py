"""Where the images of a run lie: in the memory of the GPU if they fit, or on the disk's side of it.

A store is uint8: MIMIC-CXR's 377,110 films of 256 x 256 pixels are 25 GB, a third of a GPU of
80 GB. From there a batch is one gather without any copy; from a memory map it is copied through
pinned memory while the step before it computes. Both give the same bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convirt.devices import sent
from convirt.errors import InputError

SHARE = 0.5  # of the free memory of a GPU that `auto` lets images have; the rest is for the run
CHUNK = 1 << 30  # bytes copied to the GPU at once


def placed(images: np.ndarray, where: str, device: str) -> np.ndarray | Tensor:
    """The images of a store where a run reads them from.

    Args:
        images: (N, S, S) uint8, usually a memory map.
        where: "ram" leaves them as they are; "gpu" copies them to the GPU; "auto" does so where
            they take at most half of its free memory.
        device: cpu or cuda.

    Raises:
        InputError: "gpu", and there is none, or they do not fit.
    """
    if where == "ram" or (where == "auto" and device == "cpu"):
        return images
    if device == "cpu":
        raise InputError(
            "params.yaml: compute.store", "auto or ram without a GPU", "gpu", "set auto"
        )
    free = torch.cuda.mem_get_info()[0]
    if images.nbytes > (SHARE * free if where == "auto" else free):
        if where == "auto":
            return images
        found = f"{images.nbytes / 1e9:.1f} GB of images and {free / 1e9:.1f} GB free"
        raise InputError("params.yaml: compute.store", "images that fit", found, "set auto or ram")
    return copied(images, torch.device("cuda", torch.cuda.current_device()))


def copied(images: np.ndarray, device: torch.device) -> Tensor:
    """The images on a device, copied piece by piece, so that no second copy is held in memory."""
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, CHUNK // max(1, images[:1].nbytes))
    for first in range(0, len(images), step):
        there[first : first + step] = torch.from_numpy(np.array(images[first : first + step]))
    return there


def take(images: np.ndarray | Tensor, rows: np.ndarray, device: torch.device) -> Tensor:
    """Some images, in the order of `rows`, on a device; from either place.

    Args:
        images: (N, ...), of `placed`.
        rows: (n,) which.
        device: Where to; pinned memory is on the way to a GPU.

    Returns:
        (n, ...).
    """
    if isinstance(images, Tensor):
        return images[sent(torch.from_numpy(rows), images.device)]
    return sent(torch.from_numpy(np.ascontiguousarray(images[rows])), device)
