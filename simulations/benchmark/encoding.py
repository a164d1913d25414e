"""A model's message after a local epoch: bytes, time and error of each encoding, against the arrays as they are."""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from acm_core.arrays import Arrays
from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from acm_core.federated.encoding import Encoding, decode, encode
from acm_core.nn import build_classifier
from acm_core.training.local import Schedule, make_optimizer, train
from acm_core.training.weights import get_arrays
from simulations.benchmark.measurement import Timing, machine, take_turns
from simulations.phantoms import HospitalSpec, write_hospital

_FINDINGS = ("Lung Opacity", "Pleural Effusion")
_SIDE = 64
_PLAIN, _DEFLATED, _WHOLE = "np.savez", "np.savez, zlib", "whole values"
_PARTS = ("all", "last_stage", "norm", "head")
_MEGABYTE = 10**6


def run(rounds: int, patients: int = 100) -> dict[str, Any]:
    """Train an epoch on phantoms of so many patients, then measure; returns a JSON-ready document, see `table`."""
    models = _before_and_after_an_epoch(patients)
    base, arrays = models["all"]
    works: dict[str, tuple[Callable[[], Any], Callable[[Any], Arrays]]] = {
        _PLAIN: (partial(_saved, arrays), _loaded),
        _DEFLATED: (lambda: zlib.compress(_saved(arrays)), lambda message: _loaded(zlib.decompress(message))),
        _WHOLE: (lambda: encode(arrays, {}, "float32").payload, lambda message: decode(message, base)),
    }
    for encoding in get_args(Encoding):
        works[encoding] = (
            lambda encoding=encoding: encode(arrays, base, encoding).payload,  # type: ignore[misc]
            lambda message: decode(message, base),
        )
    messages = {name: make() for name, (make, _) in works.items()}
    encoded = take_turns({name: make for name, (make, _) in works.items()}, rounds, warm_up=1)
    decoded = take_turns(
        {name: partial(read, messages[name]) for name, (_, read) in works.items()}, rounds, warm_up=1
    )
    rows = [
        {
            "message": name,
            "bytes": len(message) if isinstance(message, bytes) else message["encoded"].nbytes,
            "encode_seconds": encoded[name].seconds,
            "decode_seconds": decoded[name].seconds,
            "error": _distance(works[name][1](message), arrays) / _distance(base, arrays),
        }
        for name, message in messages.items()
    ]
    return {
        "benchmark": "encoding",
        "machine": machine(torch.device("cpu")),
        "model_bytes": sum(array.nbytes for array in arrays.values()),
        "rows": rows,
        "parts": [
            {"trainable": trainable, "encoding": encoding, **_bytes_of_a_part(*models[trainable], encoding)}
            for trainable in models
            for encoding in get_args(Encoding)
        ],
    }


def _bytes_of_a_part(base: Arrays, arrays: Arrays, encoding: Encoding) -> dict[str, int]:
    """Of the difference of what changed, as it travels, and of that of the whole model, most of which is zeros."""
    part = {name: array for name, array in arrays.items() if not np.array_equal(array, base[name])}
    return {
        "bytes": encode(part, {name: base[name] for name in part}, encoding).payload["encoded"].nbytes,
        "whole_bytes": encode(arrays, base, encoding).payload["encoded"].nbytes,
    }


def table(document: dict[str, Any]) -> str:
    """The document as text. Error: of the model received, in lengths of the epoch's change."""
    size = document["model_bytes"]
    lines = [
        f"{document['machine']['device']}, one thread, ResNet-18 with attend-and-compare, {size / _MEGABYTE:.1f} MB, "
        "after an epoch of AdamW on phantoms",
        f"{'message':16}{'MB':>8}{'share':>8}{'encode s':>10}{'decode s':>10}{'encode MB/s':>13}{'decode MB/s':>13}"
        f"{'error':>10}",
    ]
    for row in document["rows"]:
        encode_seconds = Timing(tuple(row["encode_seconds"])).median
        decode_seconds = Timing(tuple(row["decode_seconds"])).median
        lines.append(
            f"{row['message']:16}{row['bytes'] / _MEGABYTE:8.2f}{row['bytes'] / size:8.3f}"
            f"{encode_seconds:10.3f}{decode_seconds:10.3f}{size / encode_seconds / _MEGABYTE:13.0f}"
            f"{size / decode_seconds / _MEGABYTE:13.0f}{row['error']:10.1e}"
        )
    lines.append(f"{'trains':16}{'encoding':>10}{'MB':>10}{'share':>9}{'MB with the rest as zeros':>27}")
    lines += [
        f"{row['trainable']:16}{row['encoding']:>10}{row['bytes'] / _MEGABYTE:10.4f}{row['bytes'] / size:9.5f}"
        f"{row['whole_bytes'] / _MEGABYTE:27.4f}"
        for row in document["parts"]
    ]
    return "\n".join(lines) + "\n"


def _before_and_after_an_epoch(patients: int) -> dict[str, tuple[Arrays, Arrays]]:
    """By what trains."""
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        films = Path(folder) / "site"
        hospital = {
            "name": "site",
            "patients": patients,
            "scanner": "dx_mono2_14bit_window",
            "image_size": _SIDE,
        }
        write_hospital(HospitalSpec.model_validate({**hospital, "labels": list(_FINDINGS)}), films, 0)
        state = Path(folder) / "state"
        site = {"site": "site", "films": films, "labels": films / "labels.csv", "state": state}
        training_films = load_site(SiteConfig.model_validate(site), list(_FINDINGS), _SIDE).train
        config = TrainingConfig(batch_size=16, precision="float32")
        for trainable in _PARTS:
            settings = {"architecture": "resnet18", "context": "acm", "trainable": trainable}
            model = build_classifier(ModelConfig.model_validate(settings), len(_FINDINGS))
            base = get_arrays(model)
            train(
                model,
                make_optimizer(model, config),
                training_films,
                config,
                Schedule(0, 1, 10),
                seeds=lambda _: 0,
                device=torch.device("cpu"),
            )
            models[trainable] = base, get_arrays(model)
    return models


def _saved(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its `allow_pickle` could be the name of an array
    return file.getvalue()


def _loaded(message: bytes) -> Arrays:
    with np.load(io.BytesIO(message)) as file:
        return dict(file)


def _distance(left: Arrays, right: Arrays) -> float:
    squares = (
        np.square(left[name].astype(np.float64) - array).sum()
        for name, array in right.items()
        if array.dtype.kind == "f"
    )
    return float(np.sqrt(sum(squares)))
