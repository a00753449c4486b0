"""Where the images of a run are stored: in the GPU's memory if they fit, else on the host.

A store is uint8: MIMIC-CXR's 377,110 films of 256 x 256 pixels are 25 GB, a third of an 80 GB GPU.
From GPU memory a batch is one gather without any copy. From a memory map it is read into pinned
memory while the previous step computes; its copy to the GPU follows on the same stream, and so
precedes the step that reads it. Both give the same bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convirt.devices import sent
from convirt.errors import InputError

SHARE = 0.5  # of the GPU's free memory that `auto` gives to images; the rest is for the run
CHUNK = 1 << 30  # bytes copied to the GPU at a time


def placed(images: np.ndarray, where: str, device: str) -> np.ndarray | Tensor:
    """The images of a store, placed where a run reads them.

    Args:
        images: (N, S, S) uint8, usually a memory map.
        where: "ram" leaves them as they are; "gpu" copies them to the GPU; "auto" does so if they
            take at most half of its free memory.
        device: cpu or cuda.

    Raises:
        InputError: "gpu", and there is no GPU or the images do not fit.
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
    try:
        return copied(images, torch.device("cuda", torch.cuda.current_device()))
    except torch.cuda.OutOfMemoryError:
        if where == "gpu":
            raise
        return images  # another stage on this GPU took the memory in the meantime


def copied(images: np.ndarray, device: torch.device) -> Tensor:
    """Copy the images to a device piece by piece, so that memory holds no second copy."""
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, CHUNK // max(1, images[:1].nbytes))
    for first in range(0, len(images), step):
        there[first : first + step] = torch.from_numpy(np.array(images[first : first + step]))
    return there


def take(images: np.ndarray | Tensor, rows: np.ndarray, device: torch.device) -> Tensor:
    """Some images, in the order of `rows`, on a device; from either place.

    Args:
        images: (N, ...), from `placed`.
        rows: (n,) which.
        device: The target; a copy to a GPU goes through pinned memory.

    Returns:
        (n, ...).
    """
    if isinstance(images, Tensor):
        return images[sent(torch.from_numpy(rows), images.device)]
    return sent(torch.from_numpy(np.ascontiguousarray(images[rows])), device)
