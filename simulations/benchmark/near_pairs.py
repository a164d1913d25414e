"""How long the search for look-alikes takes among many films, and what it misses that comparing all pairs finds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acm_core.data.intake.duplicates import ALIKE
from acm_core.data.intake.near_pairs import near_pairs
from acm_core.data.intake.signature import SIGNATURE_SIDE
from acm_core.randomness import stream
from simulations.benchmark.measurement import machine

_COUNTS = (5_000, 50_000, 500_000)
_COMPARED_UP_TO = 50_000
"""Vectors of which all pairs are compared as well."""
_COPIES = 100
"""One vector in so many is a changed copy of another."""
_MEAN, _GRAIN = 0.28, 1.0
"""Product of two films' signatures on average, and width in cells of what differs: as in 1,122 films of four hospitals
(0.27; a standard deviation of the product of 0.15, here 0.13)."""
_CHANGE = (0.05, 0.38)
"""Length of what is added to a copy, least and most: down to a correlation of about 0.92."""
_STEPS = 300.0
_BLOCK = 4096
_SEED = 9


def run() -> dict[str, Any]:
    """Measure on signatures that are drawn at random; returns a JSON-ready document, see `table`."""
    return {
        "benchmark": "near_pairs",
        "machine": machine(torch.device("cpu")),
        "searches": [_searched(count) for count in _COUNTS],
    }


def table(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    lines = [
        f"{document['machine']['device']}, one thread",
        "",
        "| signatures | search | CPU time | pairs found | all pairs compared | missed |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["searches"]:
        compared = "–" if row["compared"] is None else f"{row['compared']:.1f} s"
        missed = "–" if row["missed"] is None else f"{row['missed']} of {row['pairs']}"
        lines.append(
            f"| {row['signatures']:,} | {row['seconds']:.1f} s | {row['cpu']:.1f} s | {row['found']} | {compared} | "
            f"{missed} |"
        )
    return "\n".join(lines)


def _searched(count: int) -> dict[str, Any]:
    vectors, everything = _signatures(count), np.arange(count)
    start, cpu = time.perf_counter(), time.process_time()
    found = near_pairs(vectors, everything, ALIKE)
    row: dict[str, Any] = {
        "signatures": count,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "found": len(found),
        "compared": None,
        "pairs": None,
        "missed": None,
    }
    if count <= _COMPARED_UP_TO:
        start = time.perf_counter()
        pairs = near_pairs(vectors, everything, ALIKE, bucket=count)
        row["compared"] = time.perf_counter() - start
        row["pairs"] = len(pairs)
        row["missed"] = len({*map(tuple, pairs.tolist())} - {*map(tuple, found.tolist())})
    return row


def _signatures(count: int) -> NDArray[np.int8]:
    """N×K, of which one in a hundred is a changed copy of another."""
    draw = stream(_SEED, "signatures", count)
    common = _fields(draw, 1, _GRAIN)
    vectors = np.empty((count, SIGNATURE_SIDE**2), np.int8)
    for start in range(0, count, _BLOCK):
        own = _fields(draw, min(_BLOCK, count - start), _GRAIN)
        vectors[start : start + len(own)] = _in_steps(np.sqrt(_MEAN) * common + np.sqrt(1 - _MEAN) * own)
    order = draw.permutation(count)[: 2 * (count // _COPIES)]
    originals, copies = order[::2], order[1::2]
    change = draw.uniform(*_CHANGE, (len(originals), 1)) * _fields(draw, len(originals), _GRAIN)
    vectors[copies] = _in_steps(vectors[originals] / np.float32(_STEPS) + change)
    return vectors


def _fields(draw: np.random.Generator, count: int, grain: float) -> NDArray[np.float32]:
    """N×K: smooth noise of no mean and unit length."""
    noise = draw.standard_normal((count, SIGNATURE_SIDE, SIGNATURE_SIDE), np.float32)
    fields: NDArray[np.float32] = gaussian_filter(noise, (0, grain, grain)).reshape(count, -1)
    fields -= fields.mean(axis=1, keepdims=True)
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    return fields


def _in_steps(units: NDArray[np.floating]) -> NDArray[np.int8]:
    steps: NDArray[np.int8] = np.clip(np.rint(units * _STEPS), -127, 127).astype(np.int8)
    return steps
