"""Pretraining: the one visible loop (section 3 and appendix A of the paper).

Randomness is a pure function of (seed, step). So weights, optimiser state and counters are all that
a resumed run needs to end with the same bits as an uninterrupted one (on the CPU).

Under torchrun several processes run this loop together (`processes`): each draws the same batch and
encodes its part of it; only the first validates and writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from convirt import augment, checkpoint, chunks, devices, processes, recorded, snapshot
from convirt.errors import InputError, StoppedError, quoted
from convirt.feed import Corpus, Feed
from convirt.halves import side_by_side
from convirt.objectives.base import Inputs, Objective
from convirt.pairs import DROPOUT, generator
from convirt.schedule import Progress, TrainConfig, learning_rate, note_validation, total_steps

KEPT = "kept/step-{:09d}.safetensors"  # in the scratch folder: states along the way
# several processes ask each other whether to stop after so many steps, or so many seconds
ASK_STEPS, ASK_SECONDS = 20, 3.0


@dataclass(frozen=True)
class Result:
    """The results of a run; the objective holds the best state.

    Attributes:
        history: One row per evaluation, the first before any step: step, train_loss (None there),
            val_loss, lr, chance, and whatever else the objective logs.
        best_step: Number of steps after which the criterion was best.
        steps: Steps in total.
        waiting: Share of this process's time spent waiting for data.
        rate: Pairs of all processes per second since this one started, validations included.
    """

    history: list[dict[str, float | None]]
    best_step: int
    steps: int
    waiting: float
    rate: float

    def best(self) -> dict[str, float | None]:
        """The row of the best evaluation."""
        return next(row for row in self.history if row["step"] == self.best_step)


def pretrain(
    objective: Objective,
    corpus: Corpus,
    spec: augment.Augmentation,
    config: TrainConfig,
    scratch: Path | None,
    report: Callable[[dict[str, float]], None],
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train an objective, which afterwards holds the state of the best validation.

    Args:
        objective: In its initial state.
        corpus: Images, sentences and pairs.
        spec: Ranges of the image transforms.
        config: All other settings.
        scratch: Folder of the resume state and the kept states (`KEPT`); None keeps none.
        report: Called after every step with step, steps, rate and waiting; at some steps also with
            the loss and the values of a validation.
        device: cpu or cuda.
        stop: Called after every step and between the batches of a validation; true stops the run.

    Raises:
        InputError: The resume state or the corpus cannot be used, the batch cannot be divided
            equally among all processes, the objective cannot be cut into chunks or recorded, or
            the loss or a weight is no longer finite (the last resume state is then from before).
        StoppedError: `stop` returned true; the progress is saved.
    """
    where = torch.device(device)
    if where.type == "cuda":  # with its number: the loading thread has a device of its own
        where = torch.device("cuda", torch.cuda.current_device())
    objective.to(where)
    first_process = processes.rank() == 0
    autocast = autocast_of(where, config.precision)
    objective.chunk = _validated_at_once(objective, config)
    feed = Feed(corpus, spec, config, objective, where)
    backward = _backward_of(objective, feed, config, where)
    if config.compile:
        objective.compile_encoders(config)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimiser = optimiser_of(trained, config)
    recorder = None
    if config.graphs:
        recorded.require_recordable(objective, config)
        recorder = recorded.Recorder(objective, optimiser, autocast, feed.settle)
    steps = total_steps(config, corpus.train.count)
    constant = objective.constant()
    progress, best = _resume(scratch, objective, optimiser, constant)
    running = _Running(progress.sums, steps, where)
    began, waited, first = time.perf_counter(), 0.0, progress.step
    asked = _Asked(stop, progress.step)

    def save() -> None:
        if scratch is not None and first_process:
            _save(scratch, objective, best, optimiser, progress)

    def leave() -> NoReturn:
        save()
        processes.any_of(False)  # no process ends before the first has written
        raise StoppedError

    def evaluate() -> dict[str, float]:
        nonlocal best
        rate = learning_rate(config, progress.step - 1, steps, progress.decays)
        try:
            values, better = _evaluate(objective, feed, progress, config, autocast, rate, stop)
        except StoppedError:
            leave()
        objective.train()
        running.clear()
        if better:
            best = snapshot.copied(objective, constant)
        number = progress.step // config.eval_every
        kept = config.keep_every and number and number % config.keep_every == 0
        if scratch is not None and first_process and kept:
            checkpoint.save_safetensors(scratch / KEPT.format(progress.step), _own(objective))
        return values

    objective.train()  # only here and after validations, since it visits hundreds of submodules
    if progress.step % config.eval_every == 0 and not _evaluated(progress):
        evaluate()  # the start of the run, or an evaluation at which it was stopped

    for step, inputs, wait in feed.steps(progress.step, steps):
        waited += wait
        recorded.set_rate(optimiser, learning_rate(config, step, steps, progress.decays))
        if not config.chunk:  # chunks are seeded one by one
            # the first process has the same key as a single process
            key = (step, processes.rank()) if processes.rank() else (step,)
            _seed(where, config.seed, *key)
        if recorder:
            loss, logs = recorder.step(inputs)  # includes the update
        else:
            loss, logs = backward(step, inputs)
            optimiser.step()
            # None, not zeros: the next step then writes gradients instead of adding to them
            optimiser.zero_grad(set_to_none=True)
        running.add(step, loss, logs)

        progress.step, progress.count = step + 1, progress.count + 1
        seconds = time.perf_counter() - began
        status = {
            "step": progress.step,
            "steps": steps,
            "rate": (progress.step - first) * config.batch_size / seconds,
            "waiting": waited / seconds,
        }
        evaluate_now = progress.step % config.eval_every == 0
        checkpoint_now = progress.step % config.checkpoint_every == 0
        leaving = asked(progress.step)
        if evaluate_now or checkpoint_now or leaving:
            progress.sums = running.read()
            status["loss"] = progress.sums["train_loss"] / progress.count
            if not math.isfinite(status["loss"]):
                began_at, found = running.first_broken(), str(status["loss"])
                raise _not_finite(corpus, config, "training loss at", began_at, found)
            # the loss of a step does not show what its own update did
            if not checkpoint.finite(trained):
                found = "weights that are not finite"
                raise _not_finite(corpus, config, "weights after", step, found)
        if leaving:  # an evaluation that is due here is left to the next run
            leave()
        if evaluate_now:
            status |= evaluate()
        if checkpoint_now:
            save()
        report(status)

    snapshot.put(objective, best)
    objective.eval()
    seconds = max(time.perf_counter() - began, 1e-9)
    return Result(
        history=progress.history,
        best_step=progress.best_step,
        steps=steps,
        waiting=waited / seconds,
        rate=(progress.step - first) * config.batch_size / seconds,
    )


def _backward_of(
    objective: Objective, feed: Feed, config: TrainConfig, device: torch.device
) -> Callable[[int, Inputs], tuple[Tensor, dict[str, Tensor]]]:
    """A function that adds the gradient of a step's loss to the weights, and returns loss and logs.

    In chunks (`chunks`), with the halves of the pairs in parallel (`halves`), or plainly.

    Raises:
        InputError: The objective cannot be cut into chunks.
    """
    autocast = autocast_of(device, config.precision)
    model = processes.data_parallel(objective, device, averaging=config.chunk == 0)
    halves = side_by_side(objective, device, config)

    def in_chunks(step: int, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        seed = partial(_seed, device, config.seed, step, processes.rank())
        loss, logs = chunks.backward(objective, inputs, config.chunk, seed, autocast)
        processes.average(p for p in objective.parameters() if p.requires_grad)
        return loss, logs

    def plainly(_: int, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast():
            loss, logs = model(inputs)
        loss.backward()
        return loss, logs

    if config.chunk:
        chunks.require_divisible(objective)
        return in_chunks
    if halves:
        return lambda _, inputs: halves.backward(inputs, meanwhile=feed.ahead)
    return plainly


def _validated_at_once(objective: Objective, config: TrainConfig) -> int:
    """Pairs that are embedded at a time in validation; 0 means a whole batch.

    The first of several processes validates alone, with the memory for its part of a step.
    """
    if config.chunk or processes.count() == 1 or not chunks.divisible(objective):
        return config.chunk
    return config.batch_size // processes.count()


class _Running:
    """Loss and logged values, summed on the device over the steps since the last evaluation.

    In double precision and reset only by evaluations, so that it does not matter when they are read
    in between.
    """

    def __init__(self, sums: Mapping[str, float], steps: int, device: torch.device) -> None:
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in sums.items()
        }
        self._broken = torch.full((), steps, device=device)

    def add(self, step: int, loss: Tensor, logs: Mapping[str, Tensor]) -> None:
        for name, value in {"train_loss": loss, **logs}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()
        first = self._broken.clamp(max=step)
        self._broken = torch.where(loss.detach().isfinite(), self._broken, first)

    def clear(self) -> None:
        self._sums.clear()

    def read(self) -> dict[str, float]:
        """The sums, as means over all processes; a sync point on the GPU."""
        return {name: float(value) for name, value in processes.mean(self._sums).items()}

    def first_broken(self) -> int:
        """The first step of this run, in any process, whose loss was not finite."""
        return processes.minimum(int(self._broken))


def _seed(device: torch.device, seed: int, *key: int) -> None:
    """Seed torch, for dropout and for draws of objectives."""
    devices.seed(device.type, int(generator(seed, DROPOUT, *key).integers(2**63)))


@torch.no_grad()
def _evaluate(
    objective: Objective,
    feed: Feed,
    progress: Progress,
    config: TrainConfig,
    autocast: Any,
    rate: float,
    stop: Callable[[], bool],
) -> tuple[dict[str, float], bool]:
    """Validate, add a row to the history, and return whether this is the best so far."""
    objective.eval()
    found: dict[str, float] | None = None
    if processes.rank() == 0:
        with suppress(StoppedError), autocast(), processes.alone():
            found = objective.validate(_until(stop, feed.validation()))
    values = processes.broadcast_object(found)
    if values is None:
        raise StoppedError
    for value in values.values():
        _require_finite(value, progress.step)
    means = {name: total / progress.count for name, total in progress.sums.items()}
    row = {"step": progress.step, "train_loss": None, **means, **values}
    rate = rate if progress.step else 0.0
    progress.history.append({**row, "lr": rate, "chance": objective.chance()})
    progress.sums, progress.count = {}, 0
    sign = -1.0 if objective.larger_is_better else 1.0
    cost = sign * values[objective.criterion]
    return values, note_validation(progress, cost, values["val_loss"], config)


def _evaluated(progress: Progress) -> bool:
    """Whether the current step of a run already has its row."""
    return bool(progress.history) and progress.history[-1]["step"] == progress.step


class _Asked:
    """Whether to stop after a step; several processes have to agree on the step.

    To ask makes them wait for each other, so they do not after each step.
    """

    def __init__(self, stop: Callable[[], bool], step: int) -> None:
        self._stop, self._last, self._next = stop, step, step + 1
        self._since = time.monotonic()

    def __call__(self, step: int) -> bool:
        if processes.count() == 1:
            return self._stop()
        if step < self._next:
            return False
        now = time.monotonic()
        each = max((now - self._since) / (step - self._last), 1e-6)
        self._last, self._since = step, now
        # the processes differ in what they measure
        self._next = step + processes.minimum(max(1, min(ASK_STEPS, int(ASK_SECONDS / each))))
        return processes.any_of(self._stop())


def _until(stop: Callable[[], bool], batches: Iterator[Inputs]) -> Iterator[Inputs]:
    """Yield the batches, until `stop` returns true."""
    for inputs in batches:
        if stop():
            raise StoppedError
        yield inputs


def optimiser_of(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run."""
    decay = config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, weight_decay=decay, momentum=0.9, fused=True
        )
    lr: float | Tensor = config.lr
    if config.graphs:  # graphs read the rate from its place in memory
        lr = torch.tensor(lr, device=parameters[0].device)
    return torch.optim.Adam(
        parameters, lr=lr, weight_decay=decay, fused=True, capturable=config.graphs
    )


def autocast_of(device: torch.device, precision: str) -> Callable[[], Any]:
    """The autocast context of a run: on only if its precision is bfloat16."""
    enabled = precision == "bfloat16"
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def resumed_step(scratch: Path) -> int:
    """Steps done by the state in `scratch`; 0 if there is none."""
    state = checkpoint.read_state(scratch)
    return int(state["step"]) if state else 0


def moved(scratch: Path, device: str) -> str | None:
    """A warning if the state in `scratch` was computed on another kind of chip, else None."""
    state, now = checkpoint.read_state(scratch), devices.hardware(device)
    if state is None or state["hardware"] == now:
        return None
    return (
        f"step {state['step']} was reached on {state['hardware']}, and this is {now}: the last "
        "bits may differ from those of a run on either alone"
    )


HINT = "lower train.lr, raise train.tau or lengthen train.warmup in params.yaml"


def _require_finite(value: float, step: int) -> None:
    if not math.isfinite(value):
        raise InputError(f"validation loss at step {step}", "a finite number", str(value), HINT)


def _not_finite(
    corpus: Corpus, config: TrainConfig, what: str, step: int, found: str
) -> InputError:
    """The error for numbers that are not finite, with the first such step and its batch."""
    batch = corpus.train.draw(config.seed, step, config.batch_size)
    rows = ", ".join(str(row) for row in batch.images)
    where = f"{what} step {step + 1}, on rows {rows} of records.parquet"
    return InputError(where, "finite numbers", found, HINT)


def _own(objective: Objective) -> dict[str, Tensor]:
    """What the encoders need of a state: what the optimiser trains, and the buffers."""
    frozen = {name for name, p in objective.named_parameters() if not p.requires_grad}
    return {name: value for name, value in objective.state_dict().items() if name not in frozen}


INFINITE = ("best_cost", "best_loss")  # until the first validation; JSON has no infinity


def _save(
    scratch: Path,
    objective: nn.Module,
    best: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    device = next(objective.parameters()).device.type
    state = {
        **asdict(progress),
        "processes": processes.count(),
        "hardware": devices.hardware(device),
    }
    for name in INFINITE:
        state[name] = state[name] if math.isfinite(state[name]) else None
    checkpoint.save_state(scratch, snapshot.tensors_of(objective, best, optimiser), state)


def _resume(
    scratch: Path | None,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    constant: frozenset[str],
) -> tuple[Progress, dict[str, Tensor]]:
    """Resume from the state in `scratch` if there is one; otherwise start at step 0."""
    found = checkpoint.load_state(scratch) if scratch is not None else None
    _require_same(found[1] if found else None, scratch)
    if found is None:
        return Progress(), snapshot.copied(objective, constant)
    tensors, state = found
    del state["processes"], state["hardware"]
    for name in INFINITE:
        state[name] = math.inf if state[name] is None else state[name]
    return Progress(**state), snapshot.restore(objective, optimiser, tensors, constant)


def _require_same(state: dict[str, Any] | None, scratch: Path | None) -> None:
    """Require that all processes resume from the same state, and that their number is unchanged.

    Another number of processes draws other dropout and normalises other parts: another run.
    """
    step = None if state is None else state["step"]
    first = processes.broadcast_object(step)
    if step != first:
        raise InputError(
            scratch or "",
            f"the resume state of the first process, step {first}",
            f"step {step}",
            "let all machines see the same folder: keep the checkout on a shared disk",
        )
    if state is not None and state["processes"] != processes.count():
        made, now = state["processes"], processes.count()
        hint = f"use {made} again, or start from the beginning: rm -r {quoted(scratch or '')}"
        raise InputError(scratch or "", f"{made} processes, as before", str(now), hint)
