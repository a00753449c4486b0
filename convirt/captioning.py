"""Captioning as a pretraining objective: write the report that belongs to a film.

The image encoder's feature map before pooling becomes R regions; a decoder reads them and predicts
the report, token by token. The decoders are in `objectives/caption_lstm.py` and
`objectives/caption_transformer.py`. The loss, greedy decoding and the CIDEr-D that chooses the best
state are here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt import checkpoint, files, processes
from convirt.cider import CiderD
from convirt.devices import sent
from convirt.errors import InputError
from convirt.image_encoder import ImageConfig, read_config, save_image_encoder
from convirt.objectives import base
from convirt.report_tokens import END, Reports, Vocabulary, until_end

IGNORED = -100  # a target that adds nothing to the loss


@dataclass(frozen=True)
class CaptionOptions:
    """Settings of both captioners.

    Attributes:
        max_tokens: A report is cut after this many word pieces, its end included.
    """

    max_tokens: int = 128

    def __post_init__(self) -> None:
        within("max_tokens", self.max_tokens, 2)


def within(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check an option.

    Raises:
        ValueError: It is out of bounds; `options_of` turns this into an InputError.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} has to be between {low} and {high}")


class Decoder(nn.Module):
    """Writes reports about regions; `forward` and `step` agree on what follows a prefix."""

    def forward(self, regions: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predict by teacher forcing what follows each token, given the true tokens before.

        Args:
            regions: (N, R, C) from the image encoder.
            tokens: (N, T) int64, the first of each row `Vocabulary.begin`.
            mask: (N, T) bool, whether the next token counts.

        Returns:
            Logits (N, T, V) of the next token, and a penalty to add to the summed cross-entropy,
            a scalar.
        """
        raise NotImplementedError

    def start(self, regions: Tensor) -> Any:
        """The initial decoding state of N reports; (N, R, C) is not needed afterwards."""
        raise NotImplementedError

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read one token per report, (N,) int64: logits (N, V) of the next, and the new state."""
        raise NotImplementedError


@torch.no_grad()
def greedy(decoder: Decoder, regions: Tensor, begin: int, max_tokens: int) -> list[list[int]]:
    """Take the likeliest next token again and again, for all reports together.

    Args:
        decoder: In evaluation mode.
        regions: (N, R, C).
        begin: `Vocabulary.begin`.
        max_tokens: Reports are cut after this many.

    Returns:
        N reports without their END.
    """
    state = decoder.start(regions)
    latest = torch.full((len(regions),), begin, device=regions.device)
    ended = torch.zeros_like(latest, dtype=torch.bool)
    written = []
    for _ in range(max_tokens):
        logits, state = decoder.step(state, latest)
        latest = logits.argmax(dim=-1)
        written.append(latest)
        ended |= latest == END
        if bool(ended.all()):  # a sync point on the GPU
            break
    return [until_end(row) for row in torch.stack(written, dim=1).tolist()]


def feature_map(encoder: nn.Module, images: Tensor) -> Tensor:
    """Regions (N, R, C), row by row, of the feature map just before the encoder's pooling."""
    features: Tensor = encoder.forward_features(images)  # type: ignore[operator]
    return features.flatten(2).transpose(1, 2)


@torch.no_grad()
def require_map(encoder: nn.Module, config: ImageConfig) -> None:
    """Check that an encoder has a map (N, C, h, w) whose mean over h and w is its output.

    Raises:
        InputError: It has none, or pools in another way (with attention, or a norm afterwards).
    """
    hint = "choose a network with global average pooling, such as resnet50"

    def refuse(found: str) -> InputError:
        where = f"params.yaml: model.image.architecture {config.architecture}"
        wanted = f"for captioning, a feature map (N, {config.width}, h, w) whose mean is the output"
        return InputError(where, wanted, found, hint)

    if not callable(getattr(encoder, "forward_features", None)):
        raise refuse("a model without forward_features")
    training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    x = torch.linspace(-1, 1, 3 * config.size**2, device=device)
    x = x.view(1, 3, config.size, config.size)
    features = encoder.forward_features(x)  # type: ignore[operator]
    pooled = encoder(x)
    encoder.train(training)
    if features.dim() != 4 or features.shape[1] != config.width:
        raise refuse(f"forward_features gives {tuple(features.shape)}")
    if not torch.allclose(features.mean(dim=(2, 3)), pooled, rtol=1e-3, atol=1e-4):
        raise refuse("an output that is not the mean of forward_features")


class CaptionObjective(base.Objective):
    """Base of both captioners: image encoder and decoder, trained end to end.

    The loss is the cross-entropy per token (the end of a report is one), plus the decoder's
    penalty. The state with the best CIDEr-D by greedy decoding is chosen.

    Attributes:
        options: The subclass's settings.
        reports: The corpus as token numbers.
        decoder: Writes the reports.
    """

    criterion: ClassVar[str] = "cider"
    larger_is_better: ClassVar[bool] = True
    decoder: Decoder

    def __init__(self, parts: base.Parts, options: CaptionOptions) -> None:
        super().__init__(parts)
        self.options = options
        require_map(parts.image, parts.image_config)
        self.image_encoder = parts.image
        self.reports = Reports.of(
            parts.texts, parts.train.reports(), parts.tokenizer(), options.max_tokens
        )
        # seeded again, so that the decoder does not depend on what the encoder drew
        torch.manual_seed(parts.config.seed)

    def compile_with(self, mode: str) -> None:
        """Compile the part of the image encoder that is called here: up to its pooling."""
        encoder: Any = self.image_encoder
        encoder.forward_features = torch.compile(encoder.forward_features, mode=mode, dynamic=False)

    def forward(self, inputs: base.Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token, and the penalty's share of it."""
        total, penalty, count = self._losses(
            feature_map(self.image_encoder, inputs.views[0]), inputs
        )
        tokens: float | Tensor = count
        if processes.count() > 1:  # processes differ in their number of tokens
            counts = processes.gather(sent(torch.tensor([count]), total.device))
            tokens = counts.float().mean()
        return (total + penalty) / tokens, {"penalty": penalty.detach() / tokens}

    def _losses(self, regions: Tensor, inputs: base.Inputs) -> tuple[Tensor, Tensor, int]:
        """Summed cross-entropy, penalty, and the number of tokens."""
        targets, mask = self.reports.batch(inputs.batch.reports())
        begin = torch.full((len(targets), 1), self.reports.vocabulary.begin)
        tokens = torch.cat([begin, targets[:, :-1]], dim=1)
        count = int(mask.sum())
        place = regions.device
        tokens, targets, mask = (sent(t, place) for t in (tokens, targets, mask))
        logits, penalty = self.decoder(regions, tokens, mask)
        with base.full_precision(logits):
            scores, wanted = logits.float().flatten(0, 1), targets.masked_fill(~mask, IGNORED)
            total = F.cross_entropy(scores, wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        return total, penalty, count

    def validate(self, batches: Iterable[base.Inputs]) -> dict[str, float]:
        """Loss per token, and CIDEr-D of greedily decoded reports against the cut true ones."""
        losses, tokens = 0.0, 0
        written: list[list[int]] = []
        truth: list[list[int]] = []
        for inputs in batches:
            regions = feature_map(self.image_encoder, inputs.views[0])
            total, penalty, count = self._losses(regions, inputs)
            losses, tokens = losses + float(total + penalty), tokens + count
            written += self.write(regions)
            truth += [until_end(self.reports.report(r).tolist()) for r in inputs.batch.reports()]
        return {"val_loss": losses / tokens, "cider": CiderD(truth)(written)}

    def write(self, regions: Tensor) -> list[list[int]]:
        """Reports about regions (N, R, C), by greedy decoding, as numbers of the vocabulary."""
        begin, longest = self.reports.vocabulary.begin, self.reports.max_tokens
        return greedy(self.decoder, regions, begin, longest)

    def chance(self) -> float:
        """Loss of a uniform guess among all V tokens: ln V."""
        return math.log(len(self.reports.vocabulary))

    def save(self, folder: Path) -> None:
        """Write the image encoder, and the decoder with its vocabulary and options beside it."""
        about = {"decoder": asdict(self.options)}
        save_image_encoder(self.image_encoder, self.image_config, folder, about)
        checkpoint.save_safetensors(folder / "decoder.safetensors", self.decoder.state_dict())
        files.write_json(folder / "vocabulary.json", list(self.reports.vocabulary.pieces))


def read_decoder(
    folder: Path, make: Callable[[int, int, dict[str, Any]], Decoder]
) -> tuple[Decoder, Vocabulary]:
    """Read what `CaptionObjective.save` wrote beside the image encoder.

    Args:
        folder: An encoder's folder.
        make: Builds a decoder from C channels, V tokens and the options as written.

    Raises:
        InputError: A file is missing or a weight does not fit.
    """
    config = read_config(folder)
    path = folder / "vocabulary.json"
    if "decoder" not in config or not path.is_file():
        raise InputError(folder, "a captioner", "no decoder", "dvc repro pretrain")
    vocabulary = Vocabulary(tuple(json.loads(path.read_text(encoding="utf-8"))))
    decoder = make(config["image"]["width"], len(vocabulary), config["decoder"])
    checkpoint.load_into(decoder, folder / "decoder.safetensors")
    return decoder.eval(), vocabulary
