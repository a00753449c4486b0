"""Caption-LSTM: an LSTM with attention to the image's regions writes the report (Xu 2015).

"Show, Attend and Tell" with its deterministic, soft attention (sections 3.1.2, 4.2 and 4.2.1). The
LSTM reads a weighted mean of regions. The attention's keys and the regions' contributions to the
gates and to the output are linear in a region, so they are computed once per image, before the loop
over the tokens. The function stays that of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convirt.captioning import CaptionObjective, CaptionOptions, Decoder, read_decoder, within
from convirt.objectives import base
from convirt.report_tokens import Vocabulary


@dataclass(frozen=True)
class Options(CaptionOptions):
    """Settings; the defaults are for the paper's scale (about 200,000 reports, 7 x 7 regions).

    Attributes:
        width: Of the LSTM's state, the attention's hidden layer and the token embeddings.
        dropout: Of the input embeddings and before the output layer.
        doubly_stochastic: Weight of the penalty on attention that is spread unevenly over the
            regions of an image (lambda of section 4.2.1); 0 turns it off.
    """

    width: int = 512
    dropout: float = 0.5
    doubly_stochastic: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within("width", self.width, 1)
        within("dropout", self.dropout, 0.0, 0.99)
        within("doubly_stochastic", self.doubly_stochastic, 0.0)


class State(NamedTuple):
    """Of N reports: linear maps of the regions, (N, R, .), and the LSTM's h and c, (N, width)."""

    keys: Tensor
    gates: Tensor
    output: Tensor
    h: Tensor
    c: Tensor


class LstmDecoder(Decoder):
    """The LSTM with attention.

    Args:
        channels: C of the regions.
        vocabulary: V, the number of tokens that can be written.
        options: All other settings.
    """

    def __init__(self, channels: int, vocabulary: int, options: Options) -> None:
        super().__init__()
        self.width, self.weight = options.width, options.doubly_stochastic
        width = options.width
        self.embedding = nn.Embedding(vocabulary + 1, width)
        self.initial = nn.Linear(channels, 2 * width)  # f_init,h and f_init,c
        self.region_key = nn.Linear(channels, width)
        self.region_gates = nn.Linear(channels, 4 * width, bias=False)
        self.region_output = nn.Linear(channels, width, bias=False)  # L_z
        self.score = nn.Linear(width, 1, bias=False)  # a bias would cancel in the softmax
        self.token_gates = nn.Linear(width, 4 * width)
        # maps h to the attention's query, beta's logit and the gates, in one product
        self.recurrent = nn.Linear(width, width + 1 + 4 * width)
        self.state_output = nn.Linear(width, width)  # L_h
        self.output = nn.Linear(width, vocabulary)  # L_o
        self.dropout = nn.Dropout(options.dropout)

    def start(self, regions: Tensor) -> State:
        """The linear maps of the regions, and h and c from their mean."""
        # float32 even under autocast: c accumulates over the report
        initial = torch.tanh(self.initial(regions.mean(dim=1)).float())
        h, c = initial.split(self.width, dim=-1)
        return State(
            self.region_key(regions), self.region_gates(regions), self.region_output(regions), h, c
        )

    def _advance(self, state: State, token_gates: Tensor) -> tuple[State, Tensor, Tensor]:
        """One step of the LSTM: the new state, the attention (N, R) and beta (N, 1)."""
        width = self.width
        query, beta, gates = self.recurrent(state.h).split([width, 1, 4 * width], dim=-1)
        scores = self.score(torch.tanh(state.keys + query.unsqueeze(1))).squeeze(-1)
        alpha, beta = scores.softmax(dim=-1), torch.sigmoid(beta)
        gates = gates + token_gates + beta * _mean(alpha, state.gates)
        i, f, o, g = gates.split(width, dim=-1)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return state._replace(h=h, c=c), alpha, beta

    def _logits(self, embedded: Tensor, h: Tensor, seen: Tensor) -> Tensor:
        """The deep output layer (eq. 7): L_o (E y + L_h h + L_z z)."""
        logits: Tensor = self.output(self.dropout(embedded + self.state_output(h) + seen))
        return logits

    def forward(self, regions: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predict by teacher forcing; the penalty is that of doubly stochastic attention."""
        state = self.start(regions)
        embedded = self.dropout(self.embedding(tokens))
        token_gates = self.token_gates(embedded)
        steps = []
        for gates in token_gates.unbind(dim=1):
            state, alpha, beta = self._advance(state, gates)
            steps.append((state.h, alpha, beta))
        h, alphas, betas = (torch.stack(values, dim=1) for values in zip(*steps, strict=True))
        logits = self._logits(embedded, h, betas * (alphas @ state.output))
        return logits, self.weight * unevenness(alphas, mask)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Read one token per report."""
        embedded = self.embedding(tokens)
        state, alpha, beta = self._advance(state, self.token_gates(embedded))
        return self._logits(embedded, state.h, beta * _mean(alpha, state.output)), state


def _mean(alpha: Tensor, values: Tensor) -> Tensor:
    """Weighted mean of values: (N, R) and (N, R, D) to (N, D)."""
    return torch.bmm(alpha.unsqueeze(1), values).squeeze(1)


def unevenness(alphas: Tensor, mask: Tensor) -> Tensor:
    """How unevenly attention is spread over the regions of an image, summed over the images.

    Xu et al. add sum_i (1 - sum_t alpha_ti)^2 over the R regions. The attention of a report of T
    tokens sums to T, so with T / R in place of 1 the gradient is the same, and even attention costs
    nothing, whatever the length.

    Args:
        alphas: (N, T, R), which sum to 1 over R.
        mask: (N, T) bool, which tokens count.
    """
    with base.full_precision(alphas):
        seen = (alphas.float() * mask.unsqueeze(-1)).sum(dim=1)
        return (seen - seen.mean(dim=1, keepdim=True)).square().sum()


class Objective(CaptionObjective):
    """The image encoder and the LSTM with attention."""

    def __init__(self, parts: base.Parts) -> None:
        options = base.options_of(Options, parts.options)
        super().__init__(parts, options)
        words = len(self.reports.vocabulary)
        self.decoder = LstmDecoder(parts.image_config.width, words, options)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """Read the decoder and its vocabulary back from an encoder's folder.

    Raises:
        InputError: A file is missing or a weight does not fit.
    """
    return read_decoder(
        folder, lambda channels, words, told: LstmDecoder(channels, words, Options(**told))
    )
