"""The text encoder f_u: a BERT whose lower half is frozen, and its tokenizer.

A saved folder can be read without this repository::

    transformers.AutoModel.from_pretrained("text_encoder")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt.devices import sent
from convirt.errors import InputError
from convirt.image_encoder import package_folder

Move = Callable[[Tensor], Tensor]


def text_folder(weights: str) -> str:
    """What transformers loads for "package:<module>", "file:<folder>" or a hub name."""
    source, _, name = weights.partition(":")
    if source == "file":
        if not (Path(name) / "config.json").is_file():
            raise InputError(
                name, "a folder saved by transformers", "no config.json", "check the path"
            )
        return name
    if source != "package":
        return weights
    found = sorted(package_folder(name).rglob("model.safetensors"))
    if len(found) != 1:
        raise InputError(name, "one model.safetensors", f"{len(found)}", "reinstall the package")
    return str(found[0].parent)


@dataclass(frozen=True)
class Packing:
    """The places of T tokens of N sentences, stored back to back, in a batch padded to length L.

    Sentences of reports differ in length: padding is 40% of a padded batch on the demo, and more in
    real reports. Layers work token by token, so they get the tokens alone; only attention has to
    know which sentence a token belongs to.

    Attributes:
        mask: (N, L) bool, true where there is a token.
        index: (T,) int64, places in range(N L), ascending; None if the padding stays in, so that
            T is N L.
        number: (N L,) int64, which token is at each place; T where there is none. None likewise.
    """

    mask: Tensor
    index: Tensor | None
    number: Tensor | None

    @classmethod
    def of(cls, mask: Tensor, whole: bool = False) -> Packing:
        """The packing of a mask; with `whole` the padding stays in, so that T is always N L."""
        if whole:
            return cls(mask, None, None)
        there = mask.flatten()
        index = there.nonzero().squeeze(1)
        return cls(mask, index, torch.where(there, there.cumsum(0) - 1, len(index)))

    def to(self, device: torch.device) -> Packing:
        """The same packing on another device."""
        if self.index is None or self.number is None:
            return Packing(sent(self.mask, device), None, None)
        return Packing(*(sent(x, device) for x in (self.mask, self.index, self.number)))

    def pack(self, x: Tensor) -> Tensor:
        """Padded (N, L, ...) to (T, ...)."""
        if self.index is None:
            return x.flatten(0, 1)
        packed: Tensor = _Moved.apply(x, self._packed, self._padded)
        return packed

    def spread(self, x: Tensor) -> Tensor:
        """Tokens (T, ...) to padded (N, L, ...), with zeros for padding that was left out."""
        if self.index is None:
            return x.view(*self.mask.shape, *x.shape[1:])
        padded: Tensor = _Moved.apply(x, self._padded, self._packed)
        return padded

    def _packed(self, x: Tensor) -> Tensor:
        assert self.index is not None
        return x.flatten(0, 1).index_select(0, self.index)

    def _padded(self, x: Tensor) -> Tensor:
        assert self.number is not None
        with_none = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return with_none.index_select(0, self.number).view(*self.mask.shape, *x.shape[1:])


class _Moved(torch.autograd.Function):
    """Tokens moved by `there`, and their gradient moved back by `back`; both only gather.

    Torch's own gradient adds into zeros, for which a deterministic GPU first sorts the places.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Move, back: Move) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention within each sentence, with the signature that transformers requires.

    Args:
        module: The attention's own module.
        query: (1, heads, T, d), of tokens stored back to back; likewise key and value.
        key: See query.
        value: See query.
        attention_mask: None; `packing` replaces it.
        dropout: Of the attention's weights.
        scaling: Of the products; None is d to the power of -1/2.
        packing: Which sentence each token belongs to.
        more: Not used.

    Returns:
        (1, T, heads, d), and None for the weights.
    """
    if packing is None:
        raise ValueError("packed tokens need their packing")
    q, k, v = (packing.spread(x[0].transpose(0, 1)).transpose(1, 2) for x in (query, key, value))
    own = packing.mask[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=own, dropout_p=dropout, scale=scaling)
    return packing.pack(out.transpose(1, 2)).unsqueeze(0), None


class TextEncoder(nn.Module):
    """A BERT whose embeddings and first layers are frozen (section 4.1, appendix A).

    The frozen part always runs in evaluation mode, without dropout, so that its output for a
    sentence is constant and may be cached. Dropout acts in the trained layers only.
    """

    def __init__(self, bert: Any, frozen_layers: int) -> None:
        from transformers import AttentionInterface

        super().__init__()
        self.bert: Any = bert
        self.frozen_layers = frozen_layers
        layers = bert.encoder.layer
        if not 0 <= frozen_layers <= len(layers):
            raise InputError(
                "params.yaml: model.text.frozen_layers",
                f"0 to {len(layers)}",
                str(frozen_layers),
                "lower it",
            )
        AttentionInterface.register("packed", packed_attention)
        bert.set_attn_implementation("packed")
        if hasattr(bert, "pooler"):
            bert.pooler = None  # its output is not used: the paper max-pools all tokens
        self._frozen: list[nn.Module] = [bert.embeddings, *layers[:frozen_layers]]
        for module in self._frozen:
            module.requires_grad_(False)

    @property
    def width(self) -> int:
        """Length of h_u."""
        return int(self.bert.config.hidden_size)

    def train(self, mode: bool = True) -> TextEncoder:
        """Switch the trained layers; the frozen part stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @torch.no_grad()
    def lower(self, tokens: Tensor, packing: Packing) -> Tensor:
        """The frozen part: tokens (N, L) int64 to (T, width), the padding left out."""
        hidden: Tensor = self.bert.embeddings(input_ids=tokens)
        return self._layers(packing.pack(hidden), packing, 0, self.frozen_layers)

    def upper(self, hidden: Tensor, packing: Packing) -> Tensor:
        """The trained part and the pooling: (T, width) to h_u (N, width).

        h_u is the maximum over all output vectors of the last layer, padding excluded.
        """
        hidden = self._layers(hidden, packing, self.frozen_layers, len(self.bert.encoder.layer))
        padding = ~packing.mask.unsqueeze(-1)
        return packing.spread(hidden).masked_fill(padding, float("-inf")).amax(dim=1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encode sentences: tokens (N, L) int64 and mask (N, L) bool to h_u (N, width)."""
        packing = Packing.of(mask)
        return self.upper(self.lower(tokens, packing), packing)

    def _layers(self, hidden: Tensor, packing: Packing, first: int, last: int) -> Tensor:
        hidden = hidden.unsqueeze(0)  # as one long sentence, which `packed_attention` splits again
        for layer in self.bert.encoder.layer[first:last]:
            output = layer(hidden, None, packing=packing)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden.squeeze(0)


def save_text_encoder(encoder: TextEncoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the weights and the tokenizer in the format of transformers."""
    encoder.bert.save_pretrained(folder)
    backend = getattr(tokenizer.inner, "backend_tokenizer", None)
    if backend is not None:  # else the file would keep the truncation and padding of the last call
        backend.no_truncation()
        backend.no_padding()
    tokenizer.inner.save_pretrained(folder)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and the length at which sentences are cut.

    Args of the call: a list of sentences. Returns tokens (N, L) int64 and mask (N, L) bool,
    padded to the longest.
    """

    inner: Any
    max_tokens: int

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize sentences."""
        batch = self.inner(
            list(sentences),
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            return_tensors="pt",
        )
        return batch["input_ids"], batch["attention_mask"].bool()

    def pieces(self, sentences: Sequence[str]) -> list[list[int]]:
        """Word pieces of sentences in the tokenizer's numbers: uncut, without [CLS] and [SEP]."""
        batch = self.inner(
            list(sentences), add_special_tokens=False, truncation=False, padding=False
        )
        return list(batch["input_ids"])

    def names(self, pieces: Sequence[int]) -> list[str]:
        """Word pieces as texts."""
        return list(self.inner.convert_ids_to_tokens(list(pieces)))


def create_tokenizer(weights: str, max_tokens: int) -> Tokenizer:
    """Load the tokenizer of a text encoder without the encoder's weights.

    Raises:
        InputError: It cannot be loaded.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(text_folder(weights))
    except (OSError, ValueError) as error:
        raise _unusable(weights, str(error).splitlines()[0][:200]) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _unusable(weights, "no vocabulary (tokenizer.json or vocab.txt)")
    return Tokenizer(tokenizer, max_tokens)


def create_text_encoder(
    weights: str, frozen_layers: int, max_tokens: int
) -> tuple[TextEncoder, Tokenizer]:
    """Build a text encoder f_u from a package, a folder or a hub name.

    Raises:
        InputError: The weights cannot be loaded, or have fewer positions than `max_tokens`.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = text_folder(weights)
    try:
        bert, told = AutoModel.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(weights, str(error).splitlines()[0][:200]) from error
    if told["mismatched_keys"]:
        name, found, wanted = min(told["mismatched_keys"])
        raise _unusable(weights, f"{name} {list(found)} instead of {list(wanted)}")
    # transformers silently fills what a file lacks with random numbers or an empty vocabulary
    missing = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise _unusable(weights, f"{len(missing)} tensors missing, such as {missing[0]}")
    has_parts = hasattr(bert, "embeddings") and hasattr(getattr(bert, "encoder", None), "layer")
    # other models compute positions or attention in their own way, outside of these layers
    if not has_parts or not getattr(bert, "_supports_attention_backend", False):
        raise _unusable(weights, f"a {type(bert).__name__}")
    positions = _positions(bert)
    # else a run would fail at the first such sentence, perhaps days after its start
    if max_tokens > positions:
        where = "params.yaml: model.text.max_tokens"
        raise InputError(
            where,
            f"at most {positions}, the limit of {weights}",
            str(max_tokens),
            f"set it to {positions}",
        )
    return TextEncoder(bert.float(), frozen_layers), create_tokenizer(weights, max_tokens)


def _positions(bert: nn.Module) -> int:
    """How long a sentence may be; RoBERTa and its kin count positions from after the padding's."""
    config: Any = bert.config
    table = getattr(bert.embeddings, "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return int(config.max_position_embeddings) - (0 if padding is None else int(padding) + 1)


def _unusable(weights: str, found: str) -> InputError:
    source, _, folder = weights.partition(":")
    if source == "file":
        hint = "make or fetch the folder again: dvc repro, dvc checkout, or a new download"
        return InputError(folder, "a complete BERT that transformers can load", found, hint)
    return InputError(
        "params.yaml: model.text.weights",
        f"a complete BERT that transformers can load from {weights!r}",
        found,
        "set it to file:<folder> of a downloaded model",
    )
