"""Transfer of an image encoder to a labelled task: the paper's linear and fine-tuning protocols.

Section 4.2 and appendix B. Linear: the encoder is frozen and a linear head is trained, here on
features computed beforehand (`feature_cache`), so that the encoder is not part of the run.
Fine-tuning: the head alone for the first steps, then all weights. Both validate after every epoch,
lower the learning rate when validation is flat, stop early, and keep the best state.

Where the paper is silent: there is no augmentation, so a frozen encoder's features of an image are
constant and computed once; a frozen encoder is in evaluation mode, so its BatchNorm statistics do
not change; there are no class weights; the state after the head-only phase is validated as epoch 0
and may be the best one; of equal validation metrics the lower loss is better; label fractions are
stratified and nested (`labelled.label_subset`).

Instead of being trained by the paper's optimiser, a linear head may be set to the exact minimum
(`probe`).

Every random draw is a pure function of (seed, phase, epoch, batch), so any step can be repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from convirt import checkpoint, devices, snapshot
from convirt.errors import InputError, StoppedError
from convirt.labelled import Source, blocks, features
from convirt.logistic import Solution, solutions
from convirt.metrics import METRICS, Ints
from convirt.recipe import Recipe, Score, batches, loss_of, plan, probabilities, torch_seed

KEEP_EVERY = 60.0  # seconds between two resume states; no effect on results
INIT, HEAD, MAIN = 0, 1, 2  # phases, for the keys of random draws


def linear_head(width: int, labels: int, recipe: Recipe) -> nn.Sequential:
    """Dropout and a linear layer, initialised by the recipe's seed: (N, width) to logits (N, L)."""
    torch.manual_seed(torch_seed(recipe.seed, INIT))
    return nn.Sequential(nn.Dropout(recipe.dropout), nn.Linear(width, labels))


class Classifier(nn.Module):
    """An encoder and a head: (N, 3, H, W) to logits (N, L)."""

    def __init__(self, encoder: nn.Module, width: int, labels: int, recipe: Recipe) -> None:
        """Put a new head, initialised by the recipe's seed, on an encoder of (N, width) outputs."""
        super().__init__()
        self.encoder = encoder
        self.head = linear_head(width, labels, recipe)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return cast(Tensor, self.head(self.encoder(x)))


@torch.inference_mode()
def predict(model: nn.Module, source: Source) -> Tensor:
    """Logits of all items in evaluation mode, (n, L) float32 on the CPU."""
    model.eval()
    parts = [model(source.batch(i)).float() for i in blocks(np.arange(len(source.y)))]
    return torch.cat(parts).cpu()


def score(model: nn.Module, source: Source, recipe: Recipe) -> Score:
    """Metric over the units and loss over the images."""
    logits = predict(model, source)
    p = source.units.average(probabilities(logits, recipe.kind))
    value = METRICS[recipe.metric](source.units.y, p, None)[0]
    return Score(float(value), -float(loss_of(logits, source.y, recipe.kind)))


# ------------------------------------------------------------------------------ the loop
@dataclass(frozen=True)
class EpochReport:
    """What the callback gets after each epoch; the head-only phase is epoch 0."""

    epoch: int
    lr: float
    train_loss: float
    val: Score
    best_epoch: int


@dataclass(frozen=True)
class Outcome:
    """The course of a run: its epochs, the one whose state was kept, and its validations."""

    best_epoch: int
    epochs: int
    history: tuple[Score, ...]


def transfer(
    model: nn.Module,
    train: Source,
    val: Source,
    recipe: Recipe,
    report: Callable[[EpochReport], None] = lambda epoch: None,
    scratch: Path | None = None,
) -> Outcome:
    """Train `model` in place and leave it in its best validated state.

    Args:
        model: On the recipe's device: a `Classifier`, of which the head alone is trained first, or
            for the linear protocol a `linear_head`.
        train: The model's inputs, images or features, already cut to the label fraction.
        val: The same for the validation images.
        recipe: The protocol and its numbers.
        report: Called after each epoch.
        scratch: Folder of the resume state; the result is the same bytes with or without one.

    Raises:
        ValueError: The model does not fit the recipe's protocol.
        InputError: The loss or the weights are no longer finite; such a state is not saved.
        StoppedError: `train` or `val` raised it instead of returning a batch; the steps after
            the head-only phase are saved.
    """
    if isinstance(model, Classifier) != (recipe.protocol == "finetune"):
        raise ValueError(f"{type(model).__name__} is no model of the protocol {recipe.protocol}")
    saved = checkpoint.load_state(scratch) if scratch else None
    first = 1  # the epoch of history[0]; epoch 0 is the state after the head-only phase
    history: list[Score] = []
    if isinstance(model, Classifier):
        first = 0
        if saved is None:
            train_head(model, train, recipe)
            history.append(score(model, val, recipe))
    optimizer = _adam(model, recipe.lr, recipe)
    best = snapshot.copied(model)
    passed = Pass(recipe.device)
    if saved is not None:
        tensors, state = saved
        best = snapshot.restore(model, optimizer, tensors)
        passed.batches, passed.total = state["batches"], tensors["total"].to(recipe.device)
        history = [Score(*pair) for pair in state["history"]]
    kept = time.monotonic()

    def keep() -> None:
        nonlocal kept
        if scratch:
            if not checkpoint.finite(model.state_dict().values()):
                raise _diverged("weights that are not finite", epoch, lr)
            tensors = snapshot.tensors_of(model, best, optimizer) | {"total": passed.total}
            scores = [(s.value, s.minus_loss) for s in history]
            checkpoint.save_state(scratch, tensors, {"batches": passed.batches, "history": scores})
            kept = time.monotonic()

    while True:
        at, lr, over = plan(history, recipe)
        epoch = len(history) + first
        if over or epoch > recipe.max_epochs:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr
        parts = batches(len(train.y), recipe.batch_size, recipe.seed, MAIN, epoch)
        try:
            for i, index in enumerate(parts[passed.batches :], passed.batches):
                key = torch_seed(recipe.seed, MAIN, epoch, i)
                passed.total += len(index) * step(model, train, index, optimizer, recipe, key)
                passed.batches = i + 1
                if time.monotonic() - kept >= KEEP_EVERY:
                    keep()
            found = score(model, val, recipe)
        except StoppedError:
            keep()
            raise
        train_loss = float(passed.total) / len(train.y)
        passed = Pass(recipe.device)
        history.append(found)
        if not math.isfinite(loss := train_loss - found.minus_loss):
            raise _diverged(f"a loss of {loss}", epoch, lr)
        at = plan(history, recipe)[0]
        if at == len(history) - 1:
            best = snapshot.copied(model)
        report(EpochReport(epoch, lr, train_loss, history[-1], at + first))
        if time.monotonic() - kept >= KEEP_EVERY:
            keep()
    snapshot.put(model, best)
    return Outcome(at + first, epoch - 1, tuple(history))


class Pass:
    """The progress of the pass over the training items.

    Attributes:
        batches: Steps done.
        total: Loss of their items, summed on the device, so that no step waits for it.
    """

    def __init__(self, device: str) -> None:
        self.batches, self.total = 0, torch.zeros((), device=device)


def _diverged(found: str, epoch: int, lr: float) -> InputError:
    return InputError(
        "params.yaml: tasks.<name>.lr",
        "a rate at which the loss stays finite",
        f"{found} in epoch {epoch} at the rate {lr:g}",
        "lower it, or finetune.finetune.head_lr",
    )


@dataclass(frozen=True)
class Choice:
    """The penalty that was chosen, and the number of steps to its minimum."""

    l2: float
    steps: int


def probe(
    head: nn.Sequential, train: Source, val: Source, recipe: Recipe, penalties: Sequence[float]
) -> Choice:
    """Set `head` to the penalised regression that validates best; on a tie the strongest penalty.

    Args:
        head: A `linear_head`; its initial weights have no effect.
        train: Features, already cut to the label fraction; all of them are held in memory.
        val: Features of the validation images.
        recipe: Only its kind, metric and device are used.
        penalties: Values of l2 to choose from.

    Raises:
        InputError: As `logistic.solutions`.
    """
    linear = cast(nn.Linear, head[1])
    h = torch.cat([train.batch(index) for index in blocks(np.arange(len(train.y)))])
    best: tuple[Score, Solution] | None = None
    for solution in solutions(h, train.y.to(recipe.device), recipe.kind, penalties):
        _fill(linear, solution)
        found = score(head, val, recipe)
        if best is None or found > best[0]:
            best = found, solution
    assert best is not None  # params.yaml allows no empty list
    _fill(linear, best[1])
    return Choice(best[1].l2, best[1].steps)


@torch.no_grad()
def _fill(linear: nn.Linear, solution: Solution) -> None:
    linear.weight.copy_(solution.weight)
    linear.bias.copy_(solution.bias)


def train_head(classifier: Classifier, train: Source, recipe: Recipe) -> None:
    """Run the first `head_steps` steps of fine-tuning: the head alone, with the encoder frozen.

    Features are computed only for the images that these steps draw.
    """
    drawn: list[Ints] = []
    while len(drawn) < recipe.head_steps:
        drawn += batches(len(train.y), recipe.batch_size, recipe.seed, HEAD, len(drawn))
    drawn = drawn[: recipe.head_steps]
    if not drawn:
        return
    cached = features(classifier.encoder, train, np.unique(np.concatenate(drawn)))
    optimizer = _adam(classifier.head, recipe.head_lr, recipe)
    for i, index in enumerate(drawn):
        step(classifier.head, cached, index, optimizer, recipe, torch_seed(recipe.seed, HEAD, 0, i))


def step(
    model: nn.Module,
    source: Source,
    index: Ints,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    key: int,
) -> Tensor:
    """Update on the items at `index`; returns the loss, detached, so that nothing waits for it."""
    model.train()
    devices.seed(recipe.device, key)
    x = source.batch(index)
    y = devices.sent(source.y[torch.from_numpy(index)], recipe.device)
    with torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.bfloat16):
        logits = model(x)
    loss = loss_of(logits.float(), y, recipe.kind)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: steps of a linear head are so small that threads would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _adam(model: nn.Module, lr: float, recipe: Recipe) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=recipe.weight_decay, fused=True)
