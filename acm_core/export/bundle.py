"""The model as a MONAI bundle: a folder that MONAI's tools read (MONAI Bundle Specification, metadata of version 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from acm_core.deployment import Deployment
from acm_core.files import write_text_atomically

BUNDLE_PROGRAM = "models/model.pt2"
"""Where the bundle has the model, which `write_program` wrote."""


def write_bundle(folder: Path, card: str, deployment: Deployment) -> None:
    """Write the bundle's configs and documentation.

    Args:
        card: the model card's text.
    """
    write_text_atomically(folder / "docs" / "README.md", card)
    for name, content in {"metadata": _metadata(deployment), "inference": _inference(deployment)}.items():
        write_text_atomically(folder / "configs" / f"{name}.json", json.dumps(content, indent=1) + "\n")


def _metadata(deployment: Deployment) -> Mapping[str, Any]:
    side, findings = deployment.model.image_size, deployment.findings
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": deployment.name},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {},
        "name": f"Chest X-ray findings, {deployment.name}",
        "task": "Classification of frontal chest X-rays",
        "description": f"{deployment.model.architecture} with {deployment.model.context} context, trained by federated "
        f"learning; {deployment.summary}; learnt from: {deployment.about['learnt_from']}",
        "authors": "the sites of the run",
        "copyright": "see the run's owner",
        "intended_use": deployment.about["notice"],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "DX",
                    "num_channels": 1,
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": deployment.input},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(findings),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(index): finding for index, finding in enumerate(findings)},
                }
            },
        },
    }


def _inference(deployment: Deployment) -> Mapping[str, Any]:
    """Reads PNG films of 8 bits: of DICOM, `client.predict` reads what MONAI's reader does not."""
    side = deployment.model.image_size
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "films",
        "films": "$sorted(glob.glob(@dataset_dir + '/*.png'))",
        "network": f"$torch.export.load(@bundle_root + '/{BUNDLE_PROGRAM}').module()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImage",
                    "image_only": True,
                    "reader": "PILReader",
                    "reverse_indexing": False,
                },
                {"_target_": "EnsureChannelFirst"},
                {"_target_": "ScaleIntensityRange", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1},
                {"_target_": "Resize", "spatial_size": side, "size_mode": "longest", "mode": "area"},
                {"_target_": "SpatialPad", "spatial_size": [side, side], "method": "symmetric"},
            ],
        },
        "predictions": "$[(film, @network(@preprocessing(film).as_tensor()[None])[0].tolist()) for film in @films]",
        "run": ["$[print(film, *row) for film, row in @predictions]"],
    }
