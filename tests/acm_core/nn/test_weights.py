"""Starting weights from files of every kind that is met, and from files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from acm_core.config.sections import ModelConfig
from acm_core.nn import Classifier, WeightsError, build_classifier, load_weights

CONFIG = ModelConfig(groups=32)


@pytest.fixture
def model() -> Classifier:
    return build_classifier(CONFIG, 2, seed=0)


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    """A state_dict with torchvision's names and shapes, 1000 classes and three input channels."""
    torch.manual_seed(3)
    return torchvision.models.resnet18().state_dict()


def save(state: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)  # type: ignore[arg-type]
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_imagenet_weights_load_with_three_channels_folded(
    suffix: str, model: Classifier, imagenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, save(imagenet, tmp_path / f"weights{suffix}"))
    assert report.folded == ("conv1.weight",)
    assert report.unexpected == ("fc.bias", "fc.weight")
    assert report.mismatched == ()
    assert set(report.missing) == {name for name in before if name.startswith("head.") or ".context." in name}
    assert set(report.loaded) == imagenet.keys() - {"fc.weight", "fc.bias"}
    state = model.state_dict()
    for name in report.loaded:
        if name != "conv1.weight":
            assert torch.equal(state[name], imagenet[name]), name
    for name in report.missing:
        assert torch.equal(state[name], before[name]), name
    film = torch.randn(1, 1, 32, 32)
    repeated = torch.nn.functional.conv2d(
        film.expand(1, 3, 32, 32), imagenet["conv1.weight"], stride=2, padding=3
    )
    torch.testing.assert_close(model.conv1(film), repeated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "module", "both"])
def test_a_sites_own_checkpoint_loads_whole(wrapping: str, model: Classifier, tmp_path: Path) -> None:
    own = build_classifier(CONFIG, 2, seed=1).state_dict()
    saved: dict[str, object] = dict(own)
    if wrapping in ("module", "both"):
        saved = {f"module.{name}": value for name, value in saved.items()}
    if wrapping in ("state_dict", "both"):
        saved = {"epoch": 3, "state_dict": saved}
    report = load_weights(model, save(saved, tmp_path / "site.pt"))
    assert (report.missing, report.unexpected, report.mismatched, report.folded) == ((), (), (), ())
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]), name


def test_other_shapes_and_kinds_of_number_are_reported_and_left(model: Classifier, tmp_path: Path) -> None:
    state = build_classifier(CONFIG, 5, seed=1).state_dict()
    state["bn1.weight"] = state["bn1.weight"].to(torch.int64)
    before = model.head.weight.detach().clone()
    report = load_weights(model, save(state, tmp_path / "five.safetensors"))
    assert report.mismatched == ("bn1.weight", "head.bias", "head.weight")
    assert report.summary.endswith(" arrays; not bn1.weight, head.bias, head.weight")
    assert torch.equal(model.head.weight, before)


def test_numbers_take_the_models_dtype(model: Classifier, tmp_path: Path) -> None:
    state = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
    load_weights(model, save(state, tmp_path / "double.safetensors"))
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_files_that_hold_no_weights_are_refused_in_plain_words(model: Classifier, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"absent\.pt, found none"):
        load_weights(model, tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match=r"tensors only.*UnpicklingError"):
        load_weights(model, save({"conv1.weight": torch.zeros(1), "code": print}, tmp_path / "code.pt"))
    with pytest.raises(WeightsError, match=r"int under 'epoch'"):
        load_weights(model, save({"epoch": 3}, tmp_path / "epoch.pt"))
    with pytest.raises(WeightsError, match=r"expected a state_dict in list\.pt, got list"):
        load_weights(model, save([torch.zeros(1)], tmp_path / "list.pt"))
    with pytest.raises(WeightsError, match=r"such as conv1\.weight.*got other.*nothing fits"):
        load_weights(model, save({"other": torch.zeros(1)}, tmp_path / "other.safetensors"))
    with pytest.raises(WeightsError, match="got none"):
        load_weights(model, save({}, tmp_path / "empty.pt"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_refusal_never_advises_to_run_the_files_code(model: Classifier, tmp_path: Path) -> None:
    path = save({"code": print}, tmp_path / "code.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path)
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), cut=st.integers(0, 400), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_damaged_files_are_refused_by_name(
    data: bytes, cut: int, suffix: str, model: Classifier, tmp_path: Path
) -> None:
    path = save({"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / f"damaged{suffix}")
    path.write_bytes(path.read_bytes()[:cut] + data)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(model, path)
