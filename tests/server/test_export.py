"""What a run's model is handed on as computes what the model does, without this project's code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hospitals import FINDINGS, federation
from PIL import Image
from reports import estimate, model, report
from runs import finished_run

from acm_core.data.shrink import square_film
from acm_core.deployment import DeploymentError, read_deployment
from acm_core.histograms import thresholds
from acm_core.nn import Classifier, build_classifier, normalised
from acm_core.nn.weight_file import read_weight_file
from acm_core.training.weights import get_arrays, save_arrays
from server.export.__main__ import main
from server.export.folder import export
from server.round.run_folder import RunFolder

pytestmark = pytest.mark.slow

# The project's packages cannot be imported here.
_ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"acm_core", "server", "client", "simulations"}:
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
import numpy as np, onnxruntime, torch
folder, films, out = sys.argv[1:]
films = np.load(films)
outputs = [onnxruntime.InferenceSession(f"{folder}/model.onnx").run(["probabilities"], {"films": films})[0]]
for program in ("model.pt2", "monai_bundle/models/model.pt2"):
    given = torch.export.load(f"{folder}/{program}").module()(torch.from_numpy(films))
    outputs.append((given if isinstance(given, torch.Tensor) else given[0]).numpy())
np.save(out, np.stack(outputs))
"""


@pytest.fixture(scope="module")
def trained() -> Classifier:
    """A model whose probabilities differ from film to film."""
    network = build_classifier(federation().model, len(FINDINGS), seed=5)
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(normalised(torch.rand(8, 1, 32, 32)))
        network.head.weight.mul_(30)
    return network.eval()


@pytest.fixture(scope="module")
def run(trained: Classifier, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    site = {**report(federated=model(estimate(0.8))), "invented": True}
    run = finished_run(tmp_path_factory.mktemp("runs"), {"A": site})
    save_arrays(run.model, get_arrays(trained))
    assert main([str(run.folder), "--attention-maps"]) == 0
    return run


@pytest.fixture(scope="module")
def films() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).random((5, 1, 32, 32), np.float32)


def probabilities(
    trained: Classifier, films: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> torch.Tensor:
    with torch.no_grad():
        return torch.sigmoid(trained(normalised(torch.from_numpy(films))).logits)


def test_without_this_project_the_outputs_are_the_models(
    run: RunFolder,
    trained: Classifier,
    films: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "films.npy", films)
    arguments = [str(run.folder / "export"), str(tmp_path / "films.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", _ALONE, *arguments], check=True, cwd=tmp_path)
    expected = probabilities(trained, films).numpy()
    assert expected.std() > 0.01
    for given in np.load(tmp_path / "out.npy"):
        np.testing.assert_allclose(given, expected, atol=1e-4)


def test_every_form_says_that_the_films_were_invented(run: RunFolder) -> None:
    folder = run.folder / "export"
    deployment, _ = read_deployment(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map == deployment.about
    for program in ("model.pt2", "monai_bundle/models/model.pt2"):
        found = dict.fromkeys(deployment.about, "")
        torch.export.load(folder / program, extra_files=found)
        assert found == deployment.about
    assert deployment.about["notice"].startswith("Trained on invented films.")
    metadata = json.loads((folder / "monai_bundle/configs/metadata.json").read_text(encoding="utf-8"))
    assert metadata["intended_use"] == deployment.about["notice"]
    origin = read_weight_file(folder / "model.safetensors").origin
    assert origin is not None
    assert origin.made_from == "run test (invented films)"
    assert "**Trained on invented films." in (folder / "model_card.md").read_text(encoding="utf-8")


def test_onnx_gives_the_maps_by_name(
    run: RunFolder, trained: Classifier, films: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    session = onnxruntime.InferenceSession(run.folder / "export" / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(None, {"films": films}), strict=True))
    normal = normalised(torch.from_numpy(films))
    maps = trained.attention_maps(normal)
    assert set(names) == {"probabilities", "score_maps"} | {
        f"{name}.{which}" for name in maps for which in ("key", "query")
    }
    for name, both in maps.items():
        np.testing.assert_allclose(given[f"{name}.key"], both.key, atol=1e-4)
        np.testing.assert_allclose(given[f"{name}.query"], both.query, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(given["score_maps"], trained.score_maps(normal), atol=1e-3)


def test_a_mirrored_query_is_exported_with_its_maps(
    films: np.ndarray[tuple[int, ...], np.dtype[np.float32]], tmp_path: Path
) -> None:
    config = federation(model={"context": "acm_mirrored"})
    mirrored = build_classifier(config.model, len(FINDINGS), seed=5).eval()
    site = report(federated=model(estimate(0.8)))
    run = finished_run(tmp_path, {"A": site}, config)
    save_arrays(run.model, get_arrays(mirrored))
    assert main([str(run.folder), "--attention-maps"]) == 0
    session = onnxruntime.InferenceSession(run.folder / "export" / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(None, {"films": films}), strict=True))
    np.testing.assert_allclose(given["probabilities"], probabilities(mirrored, films).numpy(), atol=1e-4)
    for name, both in mirrored.attention_maps(normalised(torch.from_numpy(films))).items():
        np.testing.assert_allclose(given[f"{name}.query"], both.query, atol=1e-4)


def test_a_projected_head_is_exported_with_score_maps_that_add_up(
    films: np.ndarray[tuple[int, ...], np.dtype[np.float32]], tmp_path: Path
) -> None:
    config = federation(model={"head": "projected", "dimensions": 8, "weights_sha256": "a" * 64})
    projected = build_classifier(config.model, len(FINDINGS), seed=5).eval()
    with torch.no_grad():
        projected.head.weight.mul_(100)
    site = report(federated=model(estimate(0.8)))
    run = finished_run(tmp_path, {"A": site}, config)
    save_arrays(run.model, get_arrays(projected))
    assert main([str(run.folder), "--attention-maps"]) == 0
    session = onnxruntime.InferenceSession(run.folder / "export" / "model.onnx")
    given, scores = session.run(["probabilities", "score_maps"], {"films": films})
    expected = probabilities(projected, films).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(given, expected, atol=1e-4)
    np.testing.assert_allclose(torch.sigmoid(torch.from_numpy(scores).mean((2, 3))), expected, atol=1e-4)


def test_monai_runs_the_bundle(run: RunFolder, trained: Classifier, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    shapes = {"tall.png": (48, 40), "wide.png": (37, 64), "small.png": (20, 17)}
    films = {name: random.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    for name, pixels in films.items():
        Image.fromarray(pixels).save(tmp_path / name)
    bundle = run.folder / "export" / "monai_bundle"
    settings = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
        "dataset_dir": str(tmp_path),
    }
    code = f"from monai.bundle import run; run(**{settings})"  # its command line needs one more package
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    for name, pixels in films.items():
        (line,) = [line for line in done.stdout.splitlines() if name in line]
        film = square_film(pixels.astype(np.float32) / 255, 32)[None, None]
        expected = probabilities(trained, film.astype(np.float32))[0]
        assert [float(text) for text in line.split()[-len(FINDINGS) :]] == pytest.approx(
            expected.tolist(), abs=1e-3
        )


def test_the_folder_says_what_is_needed_to_use_it(run: RunFolder) -> None:
    deployment, (arrays,) = read_deployment(run.folder / "export")
    assert deployment.findings == tuple(FINDINGS)
    assert set(arrays) == set(build_classifier(deployment.model, len(FINDINGS)).state_dict())
    # By hand: of the 7 negative films 6 lie in bin 400 and 1 in 700, the 5 positives in 600.
    first, *_ = deployment.operating_points[FINDINGS[0]]
    assert (first.specificity, first.sensitivity) == (0.8, 1.0)
    assert first.threshold == thresholds()[401]
    assert "For research only" in deployment.notice
    assert (run.folder / "export" / "model_card.md").read_text(encoding="utf-8").startswith("# Model card")


def test_nothing_of_an_earlier_models_export_is_left_beside_this_ones_weights(
    trained: Classifier, tmp_path: Path
) -> None:
    run = finished_run(tmp_path, {"A": report(federated=model(estimate(0.8)))})
    save_arrays(run.model, get_arrays(trained))
    earlier = [
        run.folder / "export" / name for name in ("model.onnx", "model.pt2", "monai_bundle/models/model.pt2")
    ]
    for path in earlier:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"another model's")
    written = next(export(run, attention_maps=False))  # and it is stopped
    assert written.name == "config.json"
    assert not any(path.exists() for path in earlier)


def test_a_damaged_folder_is_named(run: RunFolder, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run.folder / "export" / name).read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(DeploymentError, match=r"expected the weights that config.json names"):
        read_deployment(tmp_path)
    later = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | {"format": "acm-fed.model/2"}
    (tmp_path / "config.json").write_text(json.dumps(later), encoding="utf-8")
    with pytest.raises(DeploymentError, match=r"server.export wrote.*format: .*'acm-fed.model/1'"):
        read_deployment(tmp_path)
    elsewhere = json.loads((run.folder / "export" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**elsewhere, "run": "../elsewhere"}), encoding="utf-8")
    with pytest.raises(DeploymentError, match=r"server.export wrote.*run: "):
        read_deployment(tmp_path)
    with pytest.raises(DeploymentError, match=r"expected a folder that server.export wrote"):
        read_deployment(tmp_path / "none")


def test_an_unfinished_run_cannot_be_handed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path, {"A": report(federated=model(estimate(0.8)))}, federation())
    run.metrics.unlink()
    assert main([str(run.folder)]) == 1
    assert "expected a finished run" in capsys.readouterr().err
