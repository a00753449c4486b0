"""Checks that every objective has to pass, with tiny models: gradients, falling loss, resuming."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import tiny_models
import torch
from tiny_models import CONFIG, PAPER
from torch import Tensor, nn
from torch.nn.functional import normalize

from convirt.feed import Feed
from convirt.objectives.base import Inputs, Objective

NO_TEXT = Path("no text encoder")  # asking for it raises an InputError


@dataclass(frozen=True)
class Case:
    """An objective by name, with the settings that it is tested with."""

    name: str
    options: Mapping[str, Any]
    bert: Path = NO_TEXT
    layers: int = 2

    def settings(self) -> dict[str, Any]:
        """The settings, as `tiny_models.parts` takes them."""
        return {"options": dict(self.options), "layers": self.layers}

    def build(self) -> Any:
        """The objective in its initial state."""
        return tiny_models.objective(self.name, self.bert, tiny_models.corpus(), **self.settings())

    def inputs(self, count: int) -> tuple[Any, list[Inputs]]:
        """The objective, and the inputs of its first steps."""
        objective = self.build()
        feed = Feed(tiny_models.corpus(), PAPER, CONFIG, objective, torch.device("cpu"))
        return objective, [inputs for _, inputs, _ in islice(feed.steps(0, count), count)]


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def embeddings(n: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random unit vectors v and u, (n, dim) float64."""
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    return normalize(v, dim=-1), normalize(u, dim=-1)


def silent_parameters(case: Case) -> tuple[set[str], set[str]]:
    """Names of trainable parameters without a gradient, and of frozen ones that have one or moved.

    Takes two steps of Adam: a loss that compares with an earlier batch needs a second one.
    """
    objective, batches = case.inputs(2)
    before = state(objective)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.01)
    objective.train()
    for inputs in batches:
        optimiser.zero_grad()
        loss, _ = objective(inputs)
        loss.backward()
        optimiser.step()
    silent, moved = set(), set()
    for name, p in objective.named_parameters():
        if p.requires_grad:
            if p.grad is None or float(p.grad.abs().max()) < 1e-7:
                silent.add(name)
        elif p.grad is not None or not torch.equal(p, before[name]):
            moved.add(name)
    return silent, moved


def coloured(inputs: Inputs, seed: int) -> Inputs:
    """Give each film a colour of its own, with a little noise that differs between its views."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randn(len(inputs.views[0]), 3, 1, 1, generator=generator)
    views = (colours + 0.1 * torch.randn(x.shape, generator=generator) for x in inputs.views)
    return replace(inputs, views=tuple(views))


def losses_on(case: Case, batches: int, steps: int, lr: float = 0.01) -> list[float]:
    """Training losses over the same few batches, repeated, of films that are easy to tell apart."""
    objective, inputs = case.inputs(batches)
    inputs = [coloured(one, seed) for seed, one in enumerate(inputs)]
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=lr)
    objective.train()
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        loss, _ = objective(inputs[step % batches])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def assert_killed_is_unbroken(case: Case, scratch: Path) -> None:
    """A run that dies twice ends with the bits of one that never died."""
    whole = tiny_models.train(case.name, case.bert, **case.settings())
    model, result, taken_up = tiny_models.killed_and_resumed(
        case.name, case.bert, CONFIG, scratch, [5, 10], **case.settings()
    )
    assert taken_up == [3, 9]
    tiny_models.assert_same_run(whole, (model, result))


def saved(objective: Objective, folder: Path) -> dict[str, str]:
    """Digests of what `save` writes, by name."""
    folder.mkdir()
    objective.save(folder)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same_bytes(case: Case, folder: Path) -> dict[str, str]:
    """Two runs write the same bytes, another seed other weights; returns what is written."""

    def run(name: str, seed: int) -> dict[str, str]:
        config = replace(CONFIG, eval_every=4, evaluations=1, seed=seed)
        objective, _ = tiny_models.train(case.name, case.bert, config, **case.settings())
        return saved(objective, folder / name)

    one, two, other = run("one", 5), run("two", 5), run("other", 6)
    assert one == two
    assert one.keys() == other.keys()
    weights = {name for name in one if name.endswith(".safetensors")}
    assert {name for name in weights if one[name] == other[name]} == set()
    return one


def assert_evaluation_is_still(case: Case) -> None:
    """Evaluation draws nothing at random, changes nothing and gives the same loss each time."""
    objective, inputs = case.inputs(3)
    objective.train()
    for batch in inputs[:2]:
        objective(batch)
    objective.eval()
    before, drawn = state(objective), torch.get_rng_state()
    with torch.no_grad():
        one, two = (objective(inputs[2])[0] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(drawn, torch.get_rng_state())
    assert same(before, state(objective))


def assert_loss_in_full_precision(case: Case) -> None:
    """Under autocast, the loss of bfloat16 embeddings is itself computed in float32."""
    objective, inputs = case.inputs(3)
    objective.train()
    objective(inputs[0])
    objective.eval()
    plain = objective(inputs[2])[0].detach()
    seen: list[torch.dtype] = []
    with torch.autocast("cpu", dtype=torch.bfloat16), Products(seen):
        loss = objective(inputs[2])[0].detach()
    assert loss.dtype == torch.float32
    assert float(loss) == float(plain) or abs(float(loss) - float(plain)) < 0.05 * float(plain)
    assert seen == [torch.float32] * len(seen)


class Products(torch.overrides.TorchFunctionMode):
    """Notes the result types of `@` and of cross entropies, which losses take of embeddings."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and look at what comes out."""
        found = func(*args, **(kwargs or {}))
        names = {"matmul", "__matmul__", "cross_entropy", "softplus"}
        if getattr(func, "__name__", "") in names and isinstance(found, Tensor):
            self.seen.append(found.dtype)
        return found
