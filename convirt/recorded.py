"""A training step as one CUDA graph: forward, backward and update in a single launch.

The kernels of a step of 32 pairs run in less time than the host takes to launch them one by one, so
they are recorded once and launched together. Kernels and their order are those of a step that is
not recorded, and so are its bits. One graph is recorded for each shape of what a step is given:
sentences are padded to multiples of 16 tokens, which makes two or three.
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
    from convirt.training import TrainConfig

Step = tuple[Tensor, dict[str, Tensor]]  # the loss, and what the objective logs


@dataclass
class Recording:
    """A step that can be done again.

    Attributes:
        given: Where the step reads its inputs; they are copied there.
        made: Where it leaves the loss and the logged values, until the next one is done.
        replay: Does it.
    """

    given: tuple[Tensor, ...]
    made: Step
    replay: Callable[[], None]


class Recorder:
    """Steps of an objective, recorded as they come.

    The first step of a shape is taken as it is, which lets kernels be chosen, compiled and loaded;
    the second one is recorded, and from then on replayed.

    Args:
        objective: In training mode, on the GPU.
        optimiser: Of its parameters; rates are tensors on the GPU (`set_rate`).
        autocast: As in the loop.
        quiet: Returns as soon as no other thread asks anything of the GPU.
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
        self._camera = Camera()

    def step(self, inputs: Inputs) -> Step:
        """Forward, backward and update; torch is seeded, the rate is set.

        Returns:
            The loss, detached, and what the objective logs; both are overwritten by the next step.
        """
        more = self.objective.step_inputs(inputs.batch)
        given = (*inputs.views, *more)
        shapes = tuple(x.shape for x in given)
        if shapes not in self._known:
            self._known[shapes] = None
            with self._camera.aside(), warnings.catch_warnings():
                # that Adam could do with less where nothing is recorded: it soon is
                warnings.filterwarnings("ignore", message="This instance was constructed with cap")
                return self._step(replace(inputs, more=more))
        recording = self._known[shapes] or self._record(inputs, given)
        self._known[shapes] = recording
        for own, x in zip(recording.given, given, strict=True):
            own.copy_(x, non_blocking=True)
        recording.replay()
        return recording.made

    def _record(self, inputs: Inputs, given: tuple[Tensor, ...]) -> Recording:
        own, views = tuple(x.clone() for x in given), len(inputs.views)
        still = Inputs(own[:views], inputs.batch, own[views:])
        self.quiet()
        return Recording(own, *self._camera.take(lambda: self._step(still)))

    def _step(self, inputs: Inputs) -> Step:
        with self.autocast():
            loss, logs = self._forward(inputs)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    def _forward(self, inputs: Inputs) -> Step:
        """The objective's; what is embedded by networks of their own, side by side."""
        if not self.objective.in_halves():
            loss, logs = self.objective(inputs)
            return loss, logs
        embeddings = self._camera.side_by_side(self.objective.halves(inputs))
        return self.objective.compare(embeddings, inputs)


class Camera:
    """What is CUDA's part: streams beside the usual one, and memory that all graphs share.

    They may share it, since they are replayed one after the other and only what they return has to
    last.
    """

    def __init__(self) -> None:
        self.stream, self.beside = torch.cuda.Stream(), torch.cuda.Stream()
        self.memory = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do something on the other stream, where it will be recorded: autograd remembers it."""
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def side_by_side(self, halves: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, ...]:
        """The last half on a stream of its own: a branch of the graph, backward as well.

        The kernels of a half are too small for the whole GPU, and leave room for the other's.
        """
        here = torch.cuda.current_stream()
        self.beside.wait_stream(here)
        made = [half() for half in halves[:-1]]
        with torch.cuda.stream(self.beside):
            last = halves[-1]()
        here.wait_stream(self.beside)
        last.record_stream(here)
        return (*made, last)

    def take(self, step: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        """Record a step without doing it: where it leaves what it returns, and how to do it."""
        graph = torch.cuda.CUDAGraph()
        # the thread that loads may go on: nothing of this stream is its business
        with torch.cuda.graph(
            graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local"
        ):
            made = step()
        return made, graph.replay


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where it is a tensor, as graphs read it."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def obstacle(objective: Objective | type[Objective], config: TrainConfig) -> str | None:
    """Why its steps cannot be recorded: they are not the same sequence of kernels each time."""
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
    """Raise `InputError` where there is an `obstacle`."""
    if found := obstacle(objective, config):
        raise InputError(
            "graphs of TrainConfig",
            "false, or one process with Adam, whole batches and an objective of the GPU alone",
            found,
            "ask convirt.recorded.obstacle first, as the stage does",
        )
