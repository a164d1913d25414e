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
from acm_core.files import file_sha256
from acm_core.nn import Classifier, Origin, WeightsError, build_classifier, load_weights, normalised
from acm_core.training.weights import get_arrays, save_arrays

CONFIG = ModelConfig(groups=32)
FINDINGS = ("Mass", "Effusion")
MEAN, SPREAD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]


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
    report = load_weights(model, save(imagenet, tmp_path / f"weights{suffix}"), FINDINGS)
    assert report.folded == ("bn1.running_mean", "conv1.weight")
    assert report.unexpected == ("fc.bias", "fc.weight")
    assert report.mismatched == ()
    assert set(report.missing) == {name for name in before if ".context." in name}
    assert set(report.loaded) == imagenet.keys() - {"fc.weight", "fc.bias"}
    assert (report.rows, report.new_rows, report.unnamed_head) == ((), FINDINGS, False)
    for text in ("three colours folded", "head: new", "not taken: fc.bias, fc.weight", report.sha256[:12]):
        assert text in report.summary
    state = model.state_dict()
    for name in set(report.loaded) - set(report.folded):
        assert torch.equal(state[name], imagenet[name]), name
    for name in (*report.missing, "head.weight", "head.bias"):
        assert torch.equal(state[name], before[name]), name


@pytest.mark.parametrize("training", [False, True])
def test_a_grey_film_passes_the_stem_as_it_passes_torchvisions_in_three_colours(
    training: bool, imagenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Random weights with kernels of a mean and statistics of their own: nothing cancels by chance."""
    theirs = torchvision.models.resnet18()
    random = torch.Generator().manual_seed(4)
    state = {**imagenet, "conv1.weight": imagenet["conv1.weight"] + 0.05}
    for name in ("bn1.running_mean", "bn1.running_var", "bn1.weight", "bn1.bias"):
        state[name] = torch.rand(64, generator=random) + 0.5
    theirs.load_state_dict(state)
    ours = build_classifier(ModelConfig(context="none"), 2)
    load_weights(ours, save(state, tmp_path / "colours.pth"), FINDINGS)
    film = torch.rand(4, 1, 64, 64, generator=random)
    theirs.train(training)
    ours.train(training)
    shown = theirs.bn1(theirs.conv1((film.expand(4, 3, 64, 64) - MEAN) / SPREAD))
    found = ours.bn1(ours.conv1(normalised(film)))
    inside = (..., slice(2, 31), slice(2, 31))
    if training:  # the edges are in a batch's statistics
        shown, found = (_standardised(maps[inside]) for maps in (shown, found))
        torch.testing.assert_close(found, shown, rtol=1e-3, atol=1e-4)
    else:
        torch.testing.assert_close(found[inside], shown[inside], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, shown, rtol=1e-2, atol=1e-2)  # what is documented of the edges


def _standardised(maps: torch.Tensor) -> torch.Tensor:
    return (maps - maps.mean((0, 2, 3), keepdim=True)) / maps.std((0, 2, 3), keepdim=True)


def test_behind_the_stem_the_trunk_computes_what_torchvisions_does(
    imagenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(imagenet)
    ours = build_classifier(ModelConfig(context="none"), 2).eval()
    load_weights(ours, save(imagenet, tmp_path / "colours.pth"), FINDINGS)
    stem = torch.rand(2, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = found = stem
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        expected = getattr(theirs, stage)(expected)
        for block in getattr(ours, stage):
            found, _ = block(found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_kernel_is_folded_where_group_norm_has_no_running_mean(
    imagenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = build_classifier(ModelConfig(norm="group"), 2)
    report = load_weights(model, save(imagenet, tmp_path / "colours.pth"), FINDINGS)
    assert report.folded == ("conv1.weight",)
    assert "bn1.running_mean" in report.unexpected


def test_another_architectures_trunk_is_no_start(
    model: Classifier, imagenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deeper = build_classifier(ModelConfig(architecture="resnet34"), 2).state_dict()
    with pytest.raises(WeightsError, match=r"another architecture \(layer1\.2\.conv1"):
        load_weights(model, save(deeper, tmp_path / "deeper.pt"), FINDINGS)
    with pytest.raises(WeightsError, match="another architecture"):
        load_weights(
            build_classifier(ModelConfig(architecture="resnet34"), 2),
            save(imagenet, tmp_path / "shallow.pt"),
            FINDINGS,
        )
    wider = {**imagenet, "layer1.0.conv1.weight": torch.zeros(128, 64, 3, 3)}
    with pytest.raises(WeightsError, match=r"\(layer1\.0\.conv1\.weight\)"):
        load_weights(model, save(wider, tmp_path / "wider.pt"), FINDINGS)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def start(path: Path, findings: tuple[str, ...], seed: int = 1, **model: object) -> Classifier:
    """A model of this project, saved with what it says of itself."""
    config = ModelConfig.model_validate({"groups": 32, **model})
    saved = build_classifier(config, max(len(findings), 1), seed=seed)
    torch.nn.init.normal_(saved.head.bias, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    arrays = get_arrays(saved, without=() if findings else ("head.weight", "head.bias"))
    origin = Origin(findings=findings, model=config, made_from="run before")
    save_arrays(path, arrays, origin.metadata())
    return saved


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    theirs=st.lists(st.sampled_from(["Mass", "Effusion", "Nodule", "My Own", "Fibrosis"]), unique=True),
    ours=st.lists(
        st.sampled_from(["Mass", "Pleural Effusion", "nodule", "my_own", "Hernia"]), min_size=1, unique=True
    ),
)
def test_rows_of_the_head_follow_the_findings_names(
    theirs: list[str], ours: list[str], tmp_path: Path
) -> None:
    same = {"Mass": "Mass", "Pleural Effusion": "Effusion", "nodule": "Nodule", "my_own": "My Own"}
    saved = start(tmp_path / "start.safetensors", tuple(theirs))
    model = build_classifier(CONFIG, len(ours), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, tmp_path / "start.safetensors", ours)
    both = [finding for finding in ours if same.get(finding) in theirs]
    assert report.rows == tuple(both)
    assert report.new_rows == tuple(finding for finding in ours if finding not in both)
    for row, finding in enumerate(ours):
        for name in ("head.weight", "head.bias"):
            given = (
                saved.state_dict()[name][theirs.index(same[finding])]
                if finding in both
                else before[name][row]
            )
            assert torch.equal(model.state_dict()[name][row], given), (finding, name)
    assert torch.equal(model.state_dict()["conv1.weight"], saved.state_dict()["conv1.weight"])


def test_two_rows_of_one_meaning_give_neither_unless_the_name_is_exact(tmp_path: Path) -> None:
    saved = start(tmp_path / "start.safetensors", ("Effusion", "pleural effusions"))
    model = build_classifier(CONFIG, 2)
    report = load_weights(model, tmp_path / "start.safetensors", ("Pleural Effusion", "pleural effusions"))
    assert report.rows == ("pleural effusions",)
    assert torch.equal(model.head.weight[1], saved.head.weight[1])


def test_the_summary_says_what_came_from_the_start_and_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    start(path, ("Nodule", "Effusion"), context="none")
    report = load_weights(build_classifier(CONFIG, 2), path, FINDINGS, file_sha256(path))
    assert report.sha256 == file_sha256(path)
    assert "start.safetensors (sha256 " in report.summary
    for text in ("made from run before", "head: Effusion from the start, Mass new", "context none, here acm"):
        assert text in report.summary
    start(path, ())
    assert "head: new" in load_weights(build_classifier(CONFIG, 2), path, FINDINGS).summary


def test_a_start_is_the_same_bytes_each_time_it_is_written(tmp_path: Path) -> None:
    for name in ("one", "other"):
        start(tmp_path / f"{name}.safetensors", FINDINGS)
    assert file_sha256(tmp_path / "one.safetensors") == file_sha256(tmp_path / "other.safetensors")


def test_another_content_than_the_pinned_one_is_refused(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    start(path, FINDINGS)
    pinned = file_sha256(path)
    start(path, FINDINGS, seed=2)
    with pytest.raises(
        WeightsError, match=f"start.safetensors with SHA-256 {pinned}, got {file_sha256(path)}"
    ):
        load_weights(model, path, FINDINGS, pinned)


def test_a_file_that_does_not_fit_what_it_says_of_itself_is_refused(
    model: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "start.safetensors"
    origin = Origin(findings=FINDINGS, model=CONFIG, made_from="run before")
    save_arrays(path, get_arrays(build_classifier(CONFIG, 3)), origin.metadata())
    with pytest.raises(WeightsError, match="of 2 findings in start"):
        load_weights(model, path, FINDINGS)
    save_arrays(path, get_arrays(model), {"acm-fed": '{"format": "acm-fed.weights/9"}'})
    with pytest.raises(WeightsError, match="later version"):
        load_weights(model, path, FINDINGS)


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "module", "both"])
def test_a_sites_own_checkpoint_gives_its_trunk(wrapping: str, model: Classifier, tmp_path: Path) -> None:
    own = build_classifier(CONFIG, 2, seed=1).state_dict()
    saved: dict[str, object] = dict(own)
    if wrapping in ("module", "both"):
        saved = {f"module.{name}": value for name, value in saved.items()}
    if wrapping in ("state_dict", "both"):
        saved = {"epoch": 3, "state_dict": saved}
    head = model.head.weight.detach().clone()
    report = load_weights(model, save(saved, tmp_path / "site.pt"), FINDINGS)
    assert (report.missing, report.unexpected, report.mismatched, report.folded) == ((), (), (), ())
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], own[name]), name
    # Of as many findings, but nobody says which.
    assert report.unnamed_head
    assert "does not say whose findings" in report.summary
    assert torch.equal(model.head.weight, head)


AUTHORS = {
    "key_weight": "add_mod.map_gen.0.weight",
    "query_weight": "sub_mod.map_gen.0.weight",
    "gate1_weight": "mul_mod.feature_gen.0.weight",
    "gate1_bias": "mul_mod.feature_gen.0.bias",
    "gate2_weight": "mul_mod.feature_gen.2.weight",
    "gate2_bias": "mul_mod.feature_gen.2.bias",
}


def authors_checkpoint(model: Classifier) -> dict[str, object]:
    """As the attend-and-compare authors' training script saves it: a ResNet behind DataParallel, 14 findings."""
    state = {"classifier_conv.weight": torch.randn(14, 2048, 1, 1), "classifier_conv.bias": torch.zeros(14)}
    for name, tensor in model.state_dict().items():
        block, _, parameter = name.partition(".context.")
        if parameter:
            state[f"{block}.module.{AUTHORS[parameter]}"] = (
                tensor[..., None, None] if tensor.ndim > 1 else tensor
            )
            state[f"{block}.module.add_mod.map_gen.0.bias"] = torch.ones(32)
            state[f"{block}.module.sub_mod.map_gen.0.bias"] = torch.ones(32)
        elif not name.startswith("head."):
            state[name] = tensor.repeat(1, 3, 1, 1) if name == "conv1.weight" else tensor
    return {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "epoch": 7,
        "LR": 0.01,
    }


def test_the_authors_checkpoint_gives_its_trunk_and_attend_and_compare_modules(tmp_path: Path) -> None:
    theirs = build_classifier(ModelConfig(architecture="resnet50"), 2, seed=5)
    model = build_classifier(ModelConfig(architecture="resnet50"), 2, seed=6)
    report = load_weights(model, save(authors_checkpoint(theirs), tmp_path / "checkpoint.pth"), FINDINGS)
    assert (report.missing, report.mismatched) == ((), ())
    assert report.unexpected == ("classifier_conv.bias", "classifier_conv.weight")
    assert report.new_rows == FINDINGS
    state = model.state_dict()
    for name, tensor in theirs.state_dict().items():
        if not name.startswith(("head.", "conv1.", "bn1.running_mean")):
            assert torch.equal(state[name], tensor), name


def test_other_shapes_and_kinds_of_number_are_reported_and_left(model: Classifier, tmp_path: Path) -> None:
    state = build_classifier(CONFIG, 5, seed=1).state_dict()
    state["bn1.weight"] = state["bn1.weight"].to(torch.int64)
    before = model.head.weight.detach().clone()
    report = load_weights(model, save(state, tmp_path / "five.safetensors"), FINDINGS)
    assert report.mismatched == ("bn1.weight",)
    assert " arrays, not bn1.weight; head: new" in report.summary
    assert torch.equal(model.head.weight, before)


def test_numbers_take_the_models_dtype(model: Classifier, tmp_path: Path) -> None:
    state = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
    load_weights(model, save(state, tmp_path / "double.safetensors"), FINDINGS)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_files_that_hold_no_weights_are_refused_in_plain_words(model: Classifier, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"absent\.pt, found none"):
        load_weights(model, tmp_path / "absent.pt", FINDINGS)
    with pytest.raises(WeightsError, match=r"tensors only.*UnpicklingError"):
        load_weights(
            model, save({"conv1.weight": torch.zeros(1), "code": print}, tmp_path / "code.pt"), FINDINGS
        )
    with pytest.raises(WeightsError, match=r"int under 'epoch'"):
        load_weights(model, save({"epoch": 3}, tmp_path / "epoch.pt"), FINDINGS)
    with pytest.raises(WeightsError, match=r"expected a state_dict in list\.pt, got list"):
        load_weights(model, save([torch.zeros(1)], tmp_path / "list.pt"), FINDINGS)
    with pytest.raises(WeightsError, match=r"such as conv1\.weight.*got other.*nothing fits"):
        load_weights(model, save({"other": torch.zeros(1)}, tmp_path / "other.safetensors"), FINDINGS)
    with pytest.raises(WeightsError, match="got none"):
        load_weights(model, save({}, tmp_path / "empty.pt"), FINDINGS)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_numbers_that_are_not_finite_are_refused_by_their_name(
    model: Classifier, imagenet: dict[str, torch.Tensor], tmp_path: Path, suffix: str, value: float
) -> None:
    before = {name: array.clone() for name, array in model.state_dict().items()}
    damaged = {name: array.clone() for name, array in imagenet.items()}
    damaged["layer3.1.bn2.running_var"][7] = value
    with pytest.raises(WeightsError, match=r"NaN or infinity in layer3\.1\.bn2\.running_var"):
        load_weights(model, save(damaged, tmp_path / f"start{suffix}"), FINDINGS)
    assert all(torch.equal(array, before[name]) for name, array in model.state_dict().items())


def test_a_refusal_never_advises_to_run_the_files_code(model: Classifier, tmp_path: Path) -> None:
    path = save({"code": print}, tmp_path / "code.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path, FINDINGS)
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
        load_weights(model, path, FINDINGS)


def start_with_axes(path: Path, axes: int = 6, **model: object) -> dict[str, torch.Tensor]:
    """A start as `simulations.pretrain` writes it: average head, and a projection of its films' features."""
    config = ModelConfig.model_validate({"head": "average", **model})
    made = build_classifier(config, len(FINDINGS), seed=1)
    arrays = get_arrays(made)
    generator = torch.Generator().manual_seed(5)
    projection = {
        "projection.centre": torch.rand(made.channels, generator=generator),
        "projection.axes": torch.rand(axes, made.channels, generator=generator),
    }
    arrays |= {name: values.numpy() for name, values in projection.items()}
    origin = Origin(findings=FINDINGS, model=config, made_from="films")
    save_arrays(path, arrays, origin.metadata())
    return projection


def test_a_projected_head_takes_centre_and_first_axes_and_no_rows_of_another_head(tmp_path: Path) -> None:
    there = start_with_axes(tmp_path / "start.safetensors")
    model = build_classifier(ModelConfig(head="projected", dimensions=4), 2, seed=0)
    before = model.head.weight.detach().clone()
    report = load_weights(model, tmp_path / "start.safetensors", FINDINGS)
    assert model.projection is not None
    assert torch.equal(model.projection.centre, there["projection.centre"])
    assert torch.equal(model.projection.axes, there["projection.axes"][:4])
    assert torch.equal(model.head.weight, before)
    assert (report.rows, report.missing, report.mismatched) == ((), (), ())


def test_a_pooling_head_leaves_the_starts_projection(tmp_path: Path) -> None:
    start_with_axes(tmp_path / "start.safetensors")
    model = build_classifier(ModelConfig(head="average"), 2, seed=0)
    report = load_weights(model, tmp_path / "start.safetensors", FINDINGS)
    assert (report.rows, report.unexpected) == (FINDINGS, ())


@pytest.mark.parametrize("axes", [None, 3])
def test_a_start_without_axes_enough_is_refused_with_what_to_do(tmp_path: Path, axes: int | None) -> None:
    path = tmp_path / "start.safetensors"
    if axes is None:
        start(path, FINDINGS)
    else:
        start_with_axes(path, axes)
    model = build_classifier(ModelConfig(head="projected", dimensions=4), 2, seed=0)
    before = get_arrays(model)
    with pytest.raises(WeightsError, match=rf"at least 4 axes .* got {axes or 'none'}: make the start with"):
        load_weights(model, path, FINDINGS)
    assert all((values == before[name]).all() for name, values in get_arrays(model).items())
