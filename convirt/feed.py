"""The data path of pretraining: a corpus as batches on the device, transformed and normalised.

A batch is a pure function of (seed, step). A thread loads one batch ahead, from the store on the
device, in memory or on the disk (`resident`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from convirt import augment, devices, processes
from convirt.image_encoder import normalise
from convirt.objectives.base import Inputs, Objective
from convirt.pairs import AUGMENT, VALIDATION, Batch, Pairs, generator
from convirt.resident import take

if TYPE_CHECKING:
    from convirt.schedule import TrainConfig


@dataclass
class Corpus:
    """What the loop reads: images, sentences, and which of them belong together.

    Attributes:
        images: (N, S, S) uint8, memory-mapped, in memory or on the device (`resident.placed`).
        boxes: (N, 4) top, left, height, width of the film inside its square.
        texts: The distinct sentences.
        train: Pairs to train on.
        val: Pairs to validate on.
    """

    images: np.ndarray | Tensor
    boxes: np.ndarray
    texts: Sequence[str]
    train: Pairs
    val: Pairs


Loaded = tuple[Batch, Tensor, list[augment.Draws]]  # images, and draws for each view


class Feed:
    """The corpus as inputs of an objective: one batch per step, and fixed ones for validation."""

    def __init__(
        self,
        corpus: Corpus,
        spec: augment.Augmentation,
        config: TrainConfig,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.corpus, self.spec, self.config, self.device = corpus, spec, config, device
        self.views, self.image_config = objective.views, objective.image_config
        self.part = processes.part(config.batch_size)
        self.fixed = corpus.val.fixed(config.seed, config.batch_size)
        self._coming: Future[Loaded] | None = None
        self._ready: Inputs | None = None

    def steps(self, first: int, end: int) -> Iterator[tuple[int, Inputs, float]]:
        """Step, this process's inputs and the wait for them, for all steps from `first` to `end`.

        A thread loads one batch ahead.
        """

        def load(step: int) -> Loaded:
            batch = self.corpus.train.draw(self.config.seed, step, self.config.batch_size)
            # the first view has the same key as a single view
            keys = [(step,), *((step, view) for view in range(1, self.views))]
            # drawn for the whole batch, so that values do not depend on how it is divided
            draws = [self._draws(batch, AUGMENT, *key).part(self.part) for key in keys]
            own = batch.part(self.part)
            return own, self._images(own), draws

        with ThreadPoolExecutor(1) as pool:
            coming = self._coming = pool.submit(load, first)
            for step in range(first, end):
                asked = time.perf_counter()
                loaded = coming.result()
                wait = time.perf_counter() - asked
                inputs, self._ready = self._ready or self._transformed(*loaded), None
                if step + 1 < end:
                    coming = self._coming = pool.submit(load, step + 1)
                else:
                    self._coming = None
                self._mark_step()
                yield step, inputs, wait

    def ahead(self) -> None:
        """Transform the coming batch if it is loaded: for a thread that is otherwise idle."""
        if self._coming is not None and self._coming.done():
            self._ready = self._transformed(*self._coming.result())

    def settle(self) -> None:
        """Wait until the coming batch, if any, has been loaded, so that its thread is idle."""
        if self._coming is not None:
            futures.wait([self._coming])

    def validation(self) -> Iterator[Inputs]:
        """The same inputs each time: whole films, or fixed views if several views are compared."""
        for number, batch in enumerate(self.fixed):
            # validation runs under autocast, which would round the coordinates of the sampling
            with torch.autocast(self.device.type, enabled=False):
                inputs = self._validated(number, batch)
            self._mark_step()
            yield inputs

    def _mark_step(self) -> None:
        """Allow CUDA graphs of compiled encoders to overwrite outputs of the previous step."""
        if self.config.compile:
            torch.compiler.cudagraph_mark_step_begin()

    def _validated(self, number: int, batch: Batch) -> Inputs:
        images = self._images(batch)
        if self.views > 1:
            keys = [(1 + number, view) for view in range(self.views)]
            draws = [self._draws(batch, VALIDATION, *key) for key in keys]
            return self._transformed(batch, images, draws)
        theta = augment.whole(self.corpus.boxes[batch.images], images.shape[-1])
        x = augment.warp(images, devices.sent(theta, self.device), self.image_config.size)
        return Inputs((normalise(x, self.image_config),), batch)

    def _images(self, batch: Batch) -> Tensor:
        return take(self.corpus.images, batch.images, self.device)

    def _draws(self, batch: Batch, stream: int, *key: int) -> augment.Draws:
        rng = generator(self.config.seed, stream, *key)
        boxes, side = self.corpus.boxes[batch.images], self.corpus.images.shape[-1]
        return augment.draw(rng, boxes, side, self.spec).to(self.device)

    def _transformed(self, batch: Batch, images: Tensor, draws: list[augment.Draws]) -> Inputs:
        size, kernel = self.image_config.size, self.spec.blur_kernel
        views = (augment.apply(images, one, size, kernel) for one in draws)
        return Inputs(tuple(normalise(x, self.image_config) for x in views), batch)
