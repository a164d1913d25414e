"""The classifier: torchvision's trunk and names, the head, the maps, the seed."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torchvision
from torch import nn

from acm_core.config.sections import ModelConfig
from acm_core.nn import build_classifier, finding_rows, unfilled_classifier
from acm_core.training.weights import blank_arrays, get_arrays, set_arrays

ARCHITECTURES = get_args(ModelConfig.model_fields["architecture"].annotation)
CONTEXTS = get_args(ModelConfig.model_fields["context"].annotation)
ACM = ModelConfig()
PLAIN = ModelConfig(context="none")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trunk_has_torchvisions_names_and_shapes(architecture: str) -> None:
    with torch.device("meta"):
        theirs = {
            name: value.shape
            for name, value in torchvision.models.get_model(architecture).state_dict().items()
        }
    ours = build_classifier(PLAIN.model_copy(update={"architecture": architecture}), 14).state_dict()
    del theirs["fc.weight"], theirs["fc.bias"]
    theirs["conv1.weight"] = torch.Size((64, 1, 7, 7))
    theirs["head.weight"] = torch.Size((14, ours["head.weight"].shape[1], 1, 1))
    theirs["head.bias"] = torch.Size((14,))
    assert {name: value.shape for name, value in ours.items()} == theirs


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_plain_trunk_computes_what_torchvisions_does(architecture: str, training: bool) -> None:
    model = build_classifier(PLAIN.model_copy(update={"architecture": architecture, "head": "average"}), 3)
    reference = torchvision.models.get_model(architecture, num_classes=3)
    reference.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    state = model.state_dict()
    reference.load_state_dict(
        {
            **{name: value for name, value in state.items() if not name.startswith("head.")},
            "fc.weight": state["head.weight"].flatten(1),
            "fc.bias": state["head.bias"],
        }
    )
    films = torch.randn(2, 1, 64, 64)
    got, expected = model.train(training)(films), reference.train(training)(films)
    torch.testing.assert_close(got.logits, expected, rtol=1e-4, atol=1e-5)
    assert not got.orthogonality.any()


def test_acm_sums_the_orthogonality_of_its_layers() -> None:
    model = build_classifier(ACM, 2).eval()
    layers: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("context"):
            module.register_forward_hook(lambda _module, _inputs, output: layers.append(output[1]))
    output = model(torch.randn(3, 1, 64, 64))
    assert len(layers) == 8
    assert output.orthogonality.shape == (3,)
    torch.testing.assert_close(output.orthogonality, torch.stack(layers).sum(0))
    assert output.orthogonality.abs().min() > 0


def test_acm_resnet50_has_sixteen_modules_and_the_authors_parameters_less_the_dead_ones() -> None:
    model = build_classifier(ModelConfig(architecture="resnet50"), 14)
    contexts = [module for name, module in model.named_modules() if name.endswith("context")]
    assert len(contexts) == 16
    dead_score_biases = 16 * 2 * 32
    assert (
        sum(value.numel() for module in contexts for value in module.parameters())
        == 682_624 - dead_score_biases
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_combination_trains_without_inplace_operations(context: str, norm: str) -> None:
    model = build_classifier(ModelConfig(context=context, norm=norm, initialisation="identity"), 2)
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    assert has_batch_norm == (norm == "batch")
    model = model.to(memory_format=torch.channels_last)
    films = torch.randn(2, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(films)
    assert output.logits.shape == (2, 2)
    assert output.logits.dtype is torch.float32
    assert output.orthogonality.shape == (2,)
    loss = nn.functional.binary_cross_entropy_with_logits(output.logits, torch.eye(2))
    (loss + 0.1 * output.orthogonality.mean().abs()).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_no_module_leaves_channels_last(context: str, architecture: str, autocast: bool) -> None:
    """Every map between modules, and its gradient on the way back: a silent change of layout is paid for twice."""
    settings = ModelConfig.model_validate({"context": context, "architecture": architecture})
    model = build_classifier(settings, 2).to(memory_format=torch.channels_last)
    left: list[str] = []
    watched: set[str] = set()

    def check(tensor: torch.Tensor, what: str) -> None:
        # With one position or one channel every layout is the same.
        if tensor.ndim == 4 and tensor.shape[1] > 1 and tensor.shape[2] * tensor.shape[3] > 1:
            watched.add(what)
            if not tensor.is_contiguous(memory_format=torch.channels_last):
                left.append(what)

    def watch(name: str, output: object) -> None:
        maps = output[0] if isinstance(output, tuple) else output
        assert isinstance(maps, torch.Tensor)
        check(maps, name)
        if maps.requires_grad:
            maps.register_hook(lambda gradient: check(gradient, f"gradient of {name}"))

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda _module, _inputs, output, _name=name: watch(_name, output))
    films = torch.randn(2, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(films)
    (output.logits.float().sum() + output.orthogonality.float().sum()).backward()
    assert {"conv1", "layer4.1", "gradient of conv1", "gradient of layer4.1.context"} <= watched
    assert left == []


@pytest.mark.parametrize(("head", "pool"), [("max", torch.amax), ("average", torch.mean)])
def test_logits_pool_the_score_maps(head: str, pool: object) -> None:
    model = build_classifier(ModelConfig(head=head), 3).eval()
    films = torch.randn(2, 1, 96, 64)
    maps = model.score_maps(films)
    assert maps.shape == (2, 3, 3, 2)
    torch.testing.assert_close(model(films).logits, pool(maps, (2, 3)))  # type: ignore[operator]


def test_first_logits_are_small() -> None:
    for architecture in ("resnet18", "resnet50"):
        logits = build_classifier(ModelConfig(architecture=architecture), 1)(torch.randn(4, 1, 64, 64)).logits
        assert logits.abs().max().item() < 2


def test_attention_maps_by_module_leave_model_and_statistics_alone() -> None:
    model = build_classifier(ACM, 2)
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    films = torch.randn(2, 1, 64, 96)
    maps = model.attention_maps(films)
    assert list(maps) == [f"layer{stage}.{block}.context" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert maps["layer1.0.context"].key.shape == (2, 32, 16, 24)
    assert maps["layer4.1.context"].query.shape == (2, 32, 2, 3)
    for pair in maps.values():
        for tensor in pair:
            torch.testing.assert_close(tensor.sum((2, 3)), torch.ones(2, 32))
            assert not tensor.requires_grad
    assert not [module for module in model.modules() if module._forward_pre_hooks]
    assert model.training
    assert model.layer4.training
    assert not model.layer1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = model.eval().attention_maps(films)
    torch.testing.assert_close(again["layer4.1.context"].key, maps["layer4.1.context"].key)
    assert build_classifier(PLAIN, 2).attention_maps(films) == {}


def test_the_seed_alone_decides_the_weights_and_the_global_stream_is_untouched() -> None:
    torch.manual_seed(1)
    expected_draw = torch.rand(1)
    torch.manual_seed(1)
    first = build_classifier(ACM, 2, seed=7).state_dict()
    assert torch.equal(torch.rand(1), expected_draw)
    second = build_classifier(ACM, 2, seed=7).state_dict()
    other = build_classifier(ACM, 2, seed=8).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["layer1.0.context.key_weight"], other["layer1.0.context.key_weight"])


def test_finding_rows_are_the_heads() -> None:
    model = build_classifier(ACM, 5)
    rows = finding_rows(model)
    assert rows == {"head.weight", "head.bias"}
    assert all(model.state_dict()[name].shape[0] == 5 for name in rows)


def test_refuses_wrong_films_findings_and_groups() -> None:
    model = build_classifier(PLAIN, 1)
    with pytest.raises(ValueError, match="B×1×H×W"):
        model(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="at least one finding"):
        build_classifier(PLAIN, 0)
    with pytest.raises(ValueError, match="divisible by 2·groups"):
        build_classifier(ModelConfig(groups=48), 1)


def test_acm_learns_which_side_is_brighter() -> None:
    """A comparison of two places, learnt in a few steps by the whole model."""
    torch.manual_seed(0)
    films = torch.randn(16, 1, 32, 32) * 0.1
    labels = (torch.arange(16) % 2).float()[:, None]
    films[labels[:, 0] == 1, :, 8:24, 2:12] += 1
    films[labels[:, 0] == 0, :, 8:24, 20:30] += 1
    model = build_classifier(ACM, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        output = model(films)
        loss = nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
        optimizer.zero_grad()
        (loss + 0.1 * output.orthogonality.mean().abs()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("norm", get_args(ModelConfig.model_fields["norm"].annotation))
def test_an_unfilled_model_computes_the_same_once_it_is_loaded(context: str, norm: str) -> None:
    config = ModelConfig.model_validate({"architecture": "resnet18", "context": context, "norm": norm})
    model = build_classifier(config, 2).eval()
    unfilled = unfilled_classifier(config, 2).eval()
    with torch.no_grad():
        for tensor in (*unfilled.parameters(), *unfilled.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 7)
    set_arrays(unfilled, get_arrays(model))
    films = torch.randn(2, 1, 64, 64)
    for got, expected in zip(unfilled(films), model(films), strict=True):
        assert torch.equal(got, expected)
    blank = blank_arrays(unfilled)
    assert {name: (a.shape, a.dtype) for name, a in blank.items()} == {
        name: (a.shape, a.dtype) for name, a in get_arrays(model).items()
    }
    assert not any(array.any() for array in blank.values())
