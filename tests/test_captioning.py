"""Captioning: reports as tokens, both decoders against slow references, decoding and training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import CONFIG, SIDE, KilledError, assert_same_run, killed_at
from torch import Tensor, nn
from torch.nn.functional import softmax

from convirt import captioning, report_tokens
from convirt.captioning import CaptionObjective, Decoder, greedy, require_map
from convirt.cider import CiderD
from convirt.errors import InputError
from convirt.feed import Feed
from convirt.image_encoder import ImageConfig, create_image_encoder
from convirt.objectives import base, caption_lstm, caption_transformer
from convirt.objectives.caption_lstm import LstmDecoder, unevenness
from convirt.objectives.caption_transformer import Attention, MeshedDecoder, sinusoids
from convirt.report_tokens import END, UNKNOWN, Reports, Vocabulary, until_end
from convirt.text_encoder import create_tokenizer

pytestmark = pytest.mark.usefixtures("deterministic")

OPTIONS: dict[str, dict[str, Any]] = {
    "caption_lstm": {"max_tokens": 14, "width": 8, "dropout": 0.2, "doubly_stochastic": 0.3},
    "caption_transformer": {
        "max_tokens": 14,
        "width": 8,
        "layers": 2,
        "heads": 2,
        "feed_forward": 12,
        "memory": 3,
        "dropout": 0.2,
    },
}
BOTH = pytest.mark.parametrize("name", sorted(OPTIONS))
C, V = 6, 7


def objective(name: str, bert: Path, **changes: Any) -> CaptionObjective:
    options = {**OPTIONS[name], **changes}
    made = tiny_models.objective(name, bert, tiny_models.corpus(), options=options)
    assert isinstance(made, CaptionObjective)
    return made


def decoder(name: str, **changes: Any) -> Decoder:
    """A decoder of C channels and V tokens in evaluation mode."""
    torch.manual_seed(3)
    options = {**OPTIONS[name], **changes}
    if name == "caption_lstm":
        return LstmDecoder(C, V, caption_lstm.Options(**options)).eval()
    return MeshedDecoder(C, V, caption_transformer.Options(**options)).eval()


def some(n: int = 3, regions: int = 4, length: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Regions, a decoder's input and its mask, of falling lengths."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, V, (n, length), generator=generator)
    tokens[:, 0] = V
    mask = torch.arange(length) < length - torch.arange(n)[:, None]
    return torch.randn(n, regions, C, generator=generator), tokens, mask


def inputs_of(made: CaptionObjective) -> base.Inputs:
    """The first validation batch."""
    feed = Feed(tiny_models.corpus(), tiny_models.PAPER, CONFIG, made, torch.device("cpu"))
    return next(iter(feed.validation()))


# ------------------------------------------------------------------------------ reports
TEXTS = ["no effusion .", "the heart is large", "small opacity , left", "acute finding ."]


@pytest.fixture(scope="module")
def reports(bert: Path) -> Reports:
    """Sentences 0, 1 and 3 occur in train reports, sentence 2 in others."""
    tokenizer = create_tokenizer(f"file:{bert}", 24)
    return Reports.of(TEXTS, [np.array([1, 0]), np.array([3, 0])], tokenizer, 8)


def test_vocabulary_is_what_train_reports_say_in_the_tokenizers_order(reports: Reports) -> None:
    said = {word for row in (0, 1, 3) for word in TEXTS[row].split()}
    words = [word for word in tiny_models.VOCABULARY if word in said]
    assert reports.vocabulary.pieces == ("[END]", "[UNKNOWN]", *words)
    assert reports.vocabulary.begin == len(words) + 2


def test_sentences_are_tokenized_a_few_at_a_time(
    bert: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenized all together, they would take gigabytes at the paper's size."""
    monkeypatch.setattr(report_tokens, "CHUNK", 3)
    tokenizer = create_tokenizer(f"file:{bert}", 24)
    few = Reports.of(TEXTS, [np.array([1, 0]), np.array([3, 0])], tokenizer, 8)
    assert few.vocabulary == reports.vocabulary
    assert np.array_equal(few.tokens, reports.tokens)
    assert np.array_equal(few.starts, reports.starts)


def test_report_is_its_sentences_in_order_and_an_end(reports: Reports) -> None:
    numbers = reports.report(np.array([3, 0])).tolist()
    assert numbers[-1] == END
    assert reports.vocabulary.text(numbers[:-1]) == "acute finding . no effusion ."
    other = reports.report(np.array([0, 3])).tolist()
    assert reports.vocabulary.text(until_end(other)) == "no effusion . acute finding ."


def test_long_report_is_cut_and_has_no_end(reports: Reports) -> None:
    numbers = reports.report(np.array([1, 0, 3])).tolist()
    assert len(numbers) == 8 and END not in numbers
    assert reports.vocabulary.text(numbers) == "the heart is large no effusion . acute"
    exact = reports.report(np.array([1, 0])).tolist()
    assert len(exact) == 8 and exact[-1] == END


def test_words_of_no_train_report_are_unknown(reports: Reports) -> None:
    assert reports.report(np.array([2])).tolist() == [UNKNOWN] * 4 + [END]


def test_batch_is_padded_and_masked(reports: Reports) -> None:
    tokens, mask = reports.batch([np.array([0]), np.array([3, 0])])
    assert tokens.shape == mask.shape == (2, 7)
    assert mask.sum(dim=1).tolist() == [4, 7]
    assert tokens[0].tolist() == [*reports.report(np.array([0])).tolist(), END, END, END]


def test_pieces_join_to_words() -> None:
    assert Vocabulary(("[END]", "[UNKNOWN]", "pneumo", "##thorax", "no")).text([4, 2, 3]) == (
        "no pneumothorax"
    )


def test_tokenizer_alone_is_that_of_the_encoder(bert: Path) -> None:
    alone = create_tokenizer(f"file:{bert}", 24)
    with_encoder = tiny_models.text_encoder(bert)[1]
    for one, other in zip(alone(TEXTS), with_encoder(TEXTS), strict=True):
        assert one.tolist() == other.tolist()
    long = " ".join(["no"] * 50)
    assert len(alone.pieces([long])[0]) == 50  # the token limit of sentences does not apply
    assert alone.pieces(["no ."]) == [[tiny_models.VOCABULARY.index(w) for w in ("no", ".")]]


# ------------------------------------------------------------------------------ the feature map
class AttentionPooled(tiny_models.TinyImageEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).amax(dim=(2, 3))


class Flat(tiny_models.TinyImageEncoder):
    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean(dim=1)


@pytest.mark.parametrize(
    ("encoder", "found"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8)), "without forward_features"),
        (AttentionPooled(), "not the mean"),
        (Flat(), "gives (1, 16, 8)"),
    ],
)
def test_encoder_without_a_pooled_map_is_refused(encoder: nn.Module, found: str) -> None:
    config = ImageConfig("odd", SIDE, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(InputError, match="feature map") as caught:
        require_map(encoder, config)
    assert found in caught.value.found


def test_looking_for_the_map_changes_nothing() -> None:
    encoder = tiny_models.TinyImageEncoder().train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    require_map(encoder, ImageConfig("tiny", SIDE, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    assert encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "resnet50"])
def test_encoders_of_the_profiles_have_a_map(architecture: str) -> None:
    encoder, config = create_image_encoder(architecture, "random", 64, 0)
    require_map(encoder, config)
    regions = captioning.feature_map(encoder.eval(), torch.zeros(1, 3, 64, 64))
    assert regions.shape == (1, 4, config.width)


def test_regions_are_read_row_by_row() -> None:
    encoder = tiny_models.TinyImageEncoder().eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    features = encoder.forward_features(x)
    regions = captioning.feature_map(encoder, x)
    assert torch.equal(regions[1, 1], features[1, :, 0, 1])


# ------------------------------------------------------------------------------ decoders
@BOTH
def test_step_by_step_is_teacher_forcing(name: str) -> None:
    """So the cache of the transformer and the state of the LSTM hold what they have to."""
    made = decoder(name)
    regions, tokens, mask = some()
    logits, _ = made(regions, tokens, mask)
    state = made.start(regions)
    for t in range(tokens.shape[1]):
        one, state = made.step(state, tokens[:, t])
        torch.testing.assert_close(one, logits[:, t], rtol=1e-4, atol=1e-5)


@BOTH
def test_later_tokens_and_other_reports_do_not_leak(name: str) -> None:
    made = decoder(name)
    regions, tokens, mask = some()
    logits, _ = made(regions, tokens, mask)
    changed = tokens.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % V
    changed[0] = V - 1 - changed[0] % V
    again, _ = made(regions, changed, mask)
    torch.testing.assert_close(again[1:, :3], logits[1:, :3])
    assert not torch.allclose(again[1:, 3:], logits[1:, 3:])


@BOTH
def test_image_matters_but_not_the_order_of_its_regions(name: str) -> None:
    made = decoder(name)
    regions, tokens, mask = some()
    logits, _ = made(regions, tokens, mask)
    torch.testing.assert_close(made(regions.flip(1), tokens, mask)[0], logits, rtol=1e-4, atol=1e-5)
    other = regions.clone()
    other[:, 0] += 1
    assert not torch.allclose(made(other, tokens, mask)[0], logits)


def test_lstm_is_that_of_the_paper() -> None:
    """Xu 2015, equations 1 to 7, one report and one token at a time, from the raw regions."""
    made = decoder("caption_lstm")
    assert isinstance(made, LstmDecoder)
    regions, tokens, mask = some()
    logits, _ = made(regions, tokens, mask)
    width = made.width
    for n, a in enumerate(regions):
        initial = torch.tanh(made.initial(a.mean(dim=0)))
        h, c = initial[:width], initial[width:]
        for t, token in enumerate(tokens[n]):
            y = made.embedding.weight[token]
            of_h = made.recurrent.weight @ h + made.recurrent.bias
            query, beta, gates = of_h[:width], of_h[width].sigmoid(), of_h[width + 1 :]
            e = torch.stack(
                [made.score.weight[0] @ torch.tanh(made.region_key(r) + query) for r in a]
            )
            alpha = softmax(e, dim=0)
            z = beta * sum(weight * region for weight, region in zip(alpha, a, strict=True))
            gates = gates + made.token_gates(y) + made.region_gates.weight @ z
            i, f, o = gates[: 3 * width].sigmoid().split(width)
            c = f * c + i * torch.tanh(gates[3 * width :])
            h = o * torch.tanh(c)
            deep = y + made.state_output(h) + made.region_output.weight @ z
            torch.testing.assert_close(logits[n, t], made.output(deep), rtol=1e-4, atol=1e-5)


class FirstGone(nn.Module):
    """A dropout that drops everything in its first call, and nothing after that."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 0 * x if self.calls == 1 else x


def test_lstm_puts_out_no_token_that_was_dropped_when_read() -> None:
    regions, tokens, mask = some()
    found = []
    for told in (tokens, tokens.flip(1)):
        made = decoder("caption_lstm")
        made.dropout = FirstGone()
        found.append(made(regions, told, mask)[0])
    assert torch.equal(*found)


def test_unevenness_is_that_of_xu_up_to_a_constant() -> None:
    """Their sum_i (1 - sum_t alpha_ti)^2 has another value and the same gradient."""
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    alphas = raw.softmax(dim=-1)
    seen = (alphas * mask[..., None]).sum(dim=1)
    theirs = (1 - seen).square().sum()
    (expected,) = torch.autograd.grad(theirs, raw, retain_graph=True)
    (found,) = torch.autograd.grad(unevenness(alphas, mask), raw)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # lengths 5 and 3 over 3 regions: sum (1 - s)^2 - sum (T / R - s)^2 = R (T / R - 1)^2
    constant = 3 * (5 / 3 - 1) ** 2
    assert float((theirs - unevenness(alphas, mask)).detach()) == pytest.approx(constant, abs=1e-5)


def test_even_attention_costs_nothing() -> None:
    even = torch.full((2, 5, 4), 0.25)
    assert float(unevenness(even, torch.ones(2, 5, dtype=torch.bool))) == pytest.approx(0.0)
    one = torch.zeros(1, 2, 2)
    one[..., 0] = 1  # seen (2, 0) where (1, 1) is even
    assert float(unevenness(one, torch.ones(1, 2, dtype=torch.bool))) == pytest.approx(2.0)


def test_weight_of_the_penalty() -> None:
    regions, tokens, mask = some()
    penalties = [
        float(decoder("caption_lstm", doubly_stochastic=w)(regions, tokens, mask)[1].detach())
        for w in (0.0, 1.0, 2.0)
    ]
    assert penalties[0] == 0.0 < penalties[1]
    assert penalties[2] == pytest.approx(2 * penalties[1])


@pytest.mark.parametrize("memory", [0, 3])
def test_attention_reads_memory_beside_the_regions(memory: int) -> None:
    """Against loops over heads and positions (section 3.1 of Cornia 2020)."""
    torch.manual_seed(0)
    made, x = Attention(6, 2, memory), torch.randn(2, 4, 6)
    found = made(x, *made.read(x))
    for n in range(2):
        keys, values = (made.key_value(x[n])[:, part] for part in (slice(6), slice(6, 12)))
        if memory:
            keys = torch.cat([keys, made.memories[0]])
            values = torch.cat([values, made.memories[1]])
        query, heads = made.query(x[n]), []
        for head in (slice(0, 3), slice(3, 6)):
            weights = softmax(query[:, head] @ keys[:, head].T / math.sqrt(3), dim=-1)
            heads.append(weights @ values[:, head])
        expected = made.output(torch.cat(heads, dim=-1))
        torch.testing.assert_close(found[n], expected, rtol=1e-4, atol=1e-5)


def test_decoder_is_meshed_with_every_layer_of_the_encoder() -> None:
    """What is read from each layer passes a gate; the sum is divided by sqrt(number of layers)."""
    made = decoder("caption_transformer")
    assert isinstance(made, MeshedDecoder)
    layer: Any = made.decoder[0]
    regions, tokens, _ = some()
    y, images = made.embedding(tokens), made.start(regions).images[0]
    found, _ = layer(y, images)
    own = layer.one(y, layer.own(y, *layer.own.read(y), causal=True))
    meshed = torch.zeros_like(own)
    for gate, image in zip(layer.gates, images, strict=True):
        seen = layer.cross(own, *image)
        meshed += torch.sigmoid(torch.cat([own, seen], -1) @ gate.weight.T + gate.bias) * seen
    y = layer.two(own, meshed / math.sqrt(2))
    torch.testing.assert_close(found, layer.three(y, layer.feed_forward(y)), rtol=1e-4, atol=1e-5)
    assert not torch.equal(images[0][0], images[1][0])


def test_positions_are_told_apart() -> None:
    table = sinusoids(5, 4)
    assert table[0].tolist() == [0.0, 0.0, 1.0, 1.0]
    expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    assert table[3].tolist() == pytest.approx(expected)


# ------------------------------------------------------------------------------ decoding
class Script(Decoder):
    """Writes the n-th line for report n, whatever it reads, and notes what it reads."""

    def __init__(self, lines: list[list[int]]) -> None:
        super().__init__()
        self.lines = lines
        self.heard: list[list[int]] = []

    def start(self, regions: Tensor) -> int:
        return 0

    def step(self, state: int, tokens: Tensor) -> tuple[Tensor, int]:
        self.heard.append(tokens.tolist())
        logits = torch.zeros(len(self.lines), V)
        for row, line in zip(logits, self.lines, strict=True):
            row[line[min(state, len(line) - 1)]] = 1
        return logits, state + 1


def test_greedy_reads_what_it_wrote_and_stops_at_the_end() -> None:
    script = Script([[2, 3, END, 5], [4, END, 6], [END]])
    assert greedy(script, torch.zeros(3, 1, 1), begin=V, max_tokens=9) == [[2, 3], [4], []]
    assert script.heard == [[V, V, V], [2, 4, END], [3, END, END]]


def test_greedy_is_cut() -> None:
    assert greedy(Script([[2]]), torch.zeros(1, 1, 1), begin=V, max_tokens=3) == [[2, 2, 2]]


@BOTH
def test_greedy_takes_the_likeliest_of_the_whole_prefix(name: str) -> None:
    made, (regions, *_) = decoder(name), some()
    written = greedy(made, regions, V, 14)
    for n, report in enumerate(written):
        read = [V]
        for _ in range(14):
            logits, _ = made(regions[n : n + 1], torch.tensor([read]), torch.ones(1, len(read)) > 0)
            read.append(int(logits[0, -1].argmax()))
            if read[-1] == END:
                break
        assert until_end(read[1:]) == report


# ------------------------------------------------------------------------------ objectives
@BOTH
def test_loss_is_the_cross_entropy_per_token(name: str, bert: Path) -> None:
    made = objective(name, bert).eval()
    inputs = inputs_of(made)
    regions = captioning.feature_map(made.image_encoder, inputs.views[0])
    total, count, penalty = 0.0, 0, 0.0
    for n, rows in enumerate(inputs.batch.reports()):
        truth = torch.from_numpy(made.reports.report(rows))
        begin = torch.tensor([made.reports.vocabulary.begin])
        read, mask = torch.cat([begin, truth[:-1]])[None], torch.ones(1, len(truth)) > 0
        logits, extra = made.decoder(regions[n : n + 1], read, mask)
        chance = softmax(logits[0], dim=-1)
        total -= sum(math.log(float(chance[t, token])) for t, token in enumerate(truth))
        count, penalty = count + len(truth), penalty + float(extra)
    loss, logs = made(inputs)
    assert float(loss) == pytest.approx((total + penalty) / count, rel=1e-4)
    assert float(logs["penalty"]) == pytest.approx(penalty / count, rel=1e-4)
    assert (penalty > 0) == (name == "caption_lstm")


@BOTH
def test_gradients_reach_every_parameter(name: str, bert: Path) -> None:
    made = objective(name, bert).train()
    made(inputs_of(made))[0].backward()
    for key, parameter in made.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), key


@BOTH
def test_loss_falls_on_one_batch_until_it_is_known_by_heart(name: str, bert: Path) -> None:
    made = objective(name, bert, dropout=0.0, width=32).train()
    inputs = inputs_of(made)
    optimiser = torch.optim.Adam(made.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        loss, _ = made(inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(made.chance(), rel=0.4)
    assert losses[-1] < 0.05 * losses[0]
    regions = captioning.feature_map(made.image_encoder, inputs.views[0])
    truth = [until_end(made.reports.report(r).tolist()) for r in inputs.batch.reports()]
    assert made.write(regions) == truth


@BOTH
def test_validation(name: str, bert: Path) -> None:
    """Tokens of all batches weigh alike, and CIDEr is over all reports at once."""
    made = objective(name, bert).eval()
    feed = Feed(tiny_models.corpus(), tiny_models.PAPER, CONFIG, made, torch.device("cpu"))
    batches = list(feed.validation())
    assert len(batches) == 2
    with torch.no_grad():
        found = made.validate(iter(batches))
        losses = [float(made(inputs)[0]) for inputs in batches]
    counts = [int(made.reports.batch(i.batch.reports())[1].sum()) for i in batches]
    assert found["val_loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-5)
    written = [
        report
        for i in batches
        for report in made.write(captioning.feature_map(made.image_encoder, i.views[0]))
    ]
    truth = [
        until_end(made.reports.report(rows).tolist()) for i in batches for rows in i.batch.reports()
    ]
    assert found["cider"] == pytest.approx(CiderD(truth)(written))
    assert made.criterion == "cider" and made.larger_is_better
    assert made.chance() == pytest.approx(math.log(len(made.reports.vocabulary)))


@BOTH
def test_half_precision_is_close(name: str, bert: Path) -> None:
    made = objective(name, bert).eval()
    inputs = inputs_of(made)
    with torch.no_grad():
        full = made(inputs)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = made(inputs)[0]
            values = made.validate([inputs])
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(full), rel=0.02)
    assert values["val_loss"] == pytest.approx(float(full), rel=0.02)


def test_cell_of_the_lstm_adds_up_in_full_precision() -> None:
    made, (regions, tokens, _) = decoder("caption_lstm"), some()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = made.start(regions)
        assert state.keys.dtype == torch.bfloat16 and state.c.dtype == torch.float32
        assert made.step(state, tokens[:, 0])[1].c.dtype == torch.float32


@BOTH
def test_validation_draws_nothing(name: str, bert: Path) -> None:
    made = objective(name, bert).eval()
    inputs = inputs_of(made)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert made.validate([inputs]) == made.validate([inputs])
    assert torch.equal(before, torch.random.get_rng_state())


@BOTH
@pytest.mark.parametrize("step", [5, 8])
def test_killed_and_resumed_is_as_never_killed(
    name: str, step: int, bert: Path, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    whole = tiny_models.train(name, bert, options=options)
    with pytest.raises(KilledError):
        tiny_models.train(name, bert, scratch=tmp_path, report=killed_at(step), options=options)
    resumed = tiny_models.train(name, bert, scratch=tmp_path, options=options)
    assert_same_run(resumed, whole)


@BOTH
def test_runs_repeat_and_depend_on_the_seed(name: str, bert: Path) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        config = replace(CONFIG, seed=seed, evaluations=1)
        return tiny_models.train(name, bert, config, options=OPTIONS[name])[0].state_dict()

    one, same, other = run(1), run(1), run(2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one if key.startswith("decoder."))


@BOTH
def test_saved_decoder_writes_the_same(name: str, bert: Path, tmp_path: Path) -> None:
    made = objective(name, bert).eval()
    made.save(tmp_path)
    module: Any = {"caption_lstm": caption_lstm, "caption_transformer": caption_transformer}[name]
    read, vocabulary = module.load_decoder(tmp_path)
    assert vocabulary == made.reports.vocabulary
    regions = captioning.feature_map(made.image_encoder, inputs_of(made).views[0]).detach()
    assert greedy(read, regions, vocabulary.begin, 14) == made.write(regions)
    assert json.loads((tmp_path / "config.json").read_text())["image"]["width"] == 8
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(InputError, match="no decoder"):
        module.load_decoder(tmp_path)


@BOTH
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_tokens": 1}, "max_tokens"),
        ({"width": 0}, "width"),
        ({"width": 2.5}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"depth": 3}, "depth"),
    ],
)
def test_odd_options(name: str, changes: dict[str, Any], told: str, bert: Path) -> None:
    with pytest.raises(InputError, match=told):
        objective(name, bert, **changes)


def test_heads_have_to_divide_the_width(bert: Path) -> None:
    with pytest.raises(InputError, match="multiple of 2 x heads"):
        objective("caption_transformer", bert, heads=3)


@BOTH
def test_dropout_is_that_of_the_options(name: str) -> None:
    made = decoder(name, dropout=0.25)
    assert {m.p for m in made.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_transformer_knows_the_order_of_what_it_has_read() -> None:
    """With a single layer, attention alone would see the earlier tokens as a set."""
    made, (regions, *_) = decoder("caption_transformer", layers=1), some()
    mask = torch.ones(1, 4, dtype=torch.bool)
    last = [
        made(regions[:1], torch.tensor([[V, *told]]), mask)[0][0, -1].detach()
        for told in ([2, 3, 4], [3, 2, 4])
    ]
    assert float((last[0] - last[1]).abs().max()) > 1e-3
