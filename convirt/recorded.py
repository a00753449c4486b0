"""A training step as one CUDA graph: forward, backward and update in a single launch.

The kernels of a step of 32 pairs run in less time than the host takes to launch them one by one, so
they are recorded once and launched together. A replay runs the kernels of the same step launched
one by one, in their order, and gives the same bits. (A run with `compute.graphs` still has other
last bits than one without: padding stays in, and the learning rate is in single precision.) One
graph is recorded for each shape of a step's inputs: sentences are padded to multiples of 16 tokens,
which gives two or three shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convirt import processes
from convirt.errors import InputError
from convirt.objectives.base import Inputs, Objective

if TYPE_CHECKING:
    from convirt.schedule import TrainConfig

Step = tuple[Tensor, dict[str, Tensor]]  # the loss, and what the objective logs


@dataclass
class Recording:
    """A step that can be replayed.

    Attributes:
        inputs: Tensors from which the step reads; a batch is copied into them.
        outputs: Where it leaves the loss and the logged values; the next step overwrites them.
        replay: Runs the step.
    """

    inputs: tuple[Tensor, ...]
    outputs: Step
    replay: Callable[[], None]


class Recorder:
    """Steps of an objective, recorded as they come.

    The first step of each shape runs unrecorded, so that kernels are chosen, compiled and loaded;
    the second one is recorded, and from then on replayed. A new shape drops all recordings.

    Args:
        objective: In training mode, on the GPU.
        optimiser: Of its parameters; learning rates are tensors on the GPU (`set_rate`).
        autocast: As in the loop.
        quiet: Returns as soon as no other thread uses the GPU.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: torch.optim.Optimizer,
        autocast: Callable[[], AbstractContextManager[object]],
        quiet: Callable[[], None],
    ) -> None:
        self.objective, self.optimiser = objective, optimiser
        self.autocast, self.quiet = autocast, quiet
        self._known: dict[Any, Recording | None] = {}
        self._capture = Capture()

    def step(self, inputs: Inputs) -> Step:
        """Forward, backward and update; torch has to be seeded and the learning rate set.

        Returns:
            The loss, detached, and what the objective logs; both are overwritten by the next step.
        """
        more = self.objective.step_inputs(inputs.batch)
        given = (*inputs.views, *more)
        shapes = tuple(x.shape for x in given)
        if shapes not in self._known:
            self._forget()
            self._known[shapes] = None
            with self._capture.aside(), warnings.catch_warnings():
                # it warns that capturable Adam is slow unless recorded: recording follows
                warnings.filterwarnings("ignore", message="This instance was constructed with cap")
                return self._step(replace(inputs, more=more))
        recording = self._known[shapes] or self._record(inputs, given)
        self._known[shapes] = recording
        for own, x in zip(recording.inputs, given, strict=True):
            own.copy_(x, non_blocking=True)
        recording.replay()
        return recording.outputs

    def _forget(self) -> None:
        """Drop the recordings, and with them the memory that graphs hold between steps.

        The next step runs unrecorded and needs as much memory again. Known shapes are recorded
        again at their next step.
        """
        self._known = dict.fromkeys(self._known)
        self._capture.new_pool()

    def _record(self, inputs: Inputs, given: tuple[Tensor, ...]) -> Recording:
        own, views = tuple(x.clone() for x in given), len(inputs.views)
        still = Inputs(own[:views], inputs.batch, own[views:])
        self.quiet()
        return Recording(own, *self._capture.record(lambda: self._step(still)))

    def _step(self, inputs: Inputs) -> Step:
        with self.autocast():
            loss, logs = self._forward(inputs)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    def _forward(self, inputs: Inputs) -> Step:
        """The objective's forward pass; halves, if it has them, run in parallel."""
        if not self.objective.in_halves():
            loss, logs = self.objective(inputs)
            return loss, logs
        embeddings = self._capture.side_by_side(self.objective.halves(inputs))
        return self.objective.compare(embeddings, inputs)


class Capture:
    """The CUDA side: streams beside the usual one, and memory that all graphs share.

    Graphs may share it, since they are replayed one after the other and only what they return has
    to last.
    """

    def __init__(self) -> None:
        self.stream, self.beside = torch.cuda.Stream(), torch.cuda.Stream()
        self.new_pool()

    def new_pool(self) -> None:
        """Use new memory from now on: torch refuses the memory of graphs that no longer exist."""
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work on the stream that will be recorded, since autograd remembers the stream."""
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def side_by_side(self, halves: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, ...]:
        """Run the last half on a stream of its own: a branch of the graph, in the backward too.

        The kernels of a half are too small to fill the GPU, and leave room for the other's.
        """
        here = torch.cuda.current_stream()
        self.beside.wait_stream(here)
        made = [half() for half in halves[:-1]]
        with torch.cuda.stream(self.beside):
            last = halves[-1]()
        here.wait_stream(self.beside)
        last.record_stream(here)
        return (*made, last)

    def record(self, step: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        """Record a step without running it; returns where its results go, and its replay."""
        graph = torch.cuda.CUDAGraph()
        # lets the loading thread continue: it does not use this stream
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            made = step()
        return made, graph.replay


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place if it is a tensor, since graphs read it there."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def obstacle(objective: Objective | type[Objective], config: TrainConfig) -> str | None:
    """Why steps cannot be recorded (they would not be the same kernels each time), else None."""
    reasons = {
        "the objective draws or looks up something on the CPU in each step": (
            not objective.recordable
        ),
        f"train.optimiser is {config.optimiser}": config.optimiser != "adam",
        f"train.chunk is {config.chunk}": config.chunk > 0,
        f"there are {processes.count()} processes": processes.count() > 1,
    }
    return next((reason for reason, there in reasons.items() if there), None)


def require_recordable(objective: Objective, config: TrainConfig) -> None:
    """Raise `InputError` if there is an `obstacle`."""
    if found := obstacle(objective, config):
        raise InputError(
            "graphs of TrainConfig",
            "false, or one process with Adam, whole batches and an objective on the GPU alone",
            found,
            "ask convirt.recorded.obstacle first, as the stage does",
        )
