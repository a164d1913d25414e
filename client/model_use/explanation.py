"""What a trained model looked at on a film: key and query maps, their difference, and the findings' score maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier, normalised
from client.model_use import overlay

Floats = NDArray[np.float32]
Verdict = Literal[
    "present, scored highest", "present, scored lowest", "absent, scored highest", "absent, scored lowest"
]

_SIDE = 480
_GROUPS_SHOWN = 2


class Looked(NamedTuple):
    """One group of a module, or the mean over its groups: maps h×w whose sums are 1."""

    name: str
    key: Floats
    query: Floats


class Panel(NamedTuple):
    """A map to lay over the film, PNG in base64, and what its colours mean: the value at full colour, in words."""

    title: str
    png: str
    scale: str


@dataclass(frozen=True)
class Case:
    """A film on the page: a square PNG in base64, as wide as the model's maps reach."""

    title: str
    probabilities: dict[str, float]
    film: str
    scores: list[Panel]
    rows: list[list[Panel]] = field(default_factory=list)


@torch.no_grad()
def explain(
    network: Classifier,
    prepared: Floats,
    shown: Floats,
    findings: Sequence[str],
    of: Sequence[str],
    modules: Sequence[str],
    groups: Sequence[int],
    title: str,
) -> Case:
    """A case of a film.

    Args:
        prepared: S×S as the model takes it.
        shown: the same film T×T as it is drawn, padded alike: the maps cover the padding too.
        findings: F, the model's outputs.
        of: findings whose score maps are drawn.
        modules: names of attend-and-compare modules, such as `layer4.1.context`.
        groups: of each module, besides the mean; where there is none, those whose K and Q lie furthest apart.

    Raises:
        KeyError: a module that the model does not have.
    """
    film = overlay.scaled(shown, _SIDE)
    images = normalised(torch.from_numpy(prepared.astype(np.float32))[None, None])
    images = images.to(next(network.parameters()).device)
    scores = network.score_maps(images)
    probabilities = torch.sigmoid(network.pooled(scores))[0].tolist()
    drawn = {
        finding: scores[0, index].cpu().numpy() for index, finding in enumerate(findings) if finding in of
    }
    limit = max((float(np.abs(map_).max()) for map_ in drawn.values()), default=1.0)
    panels = [
        Panel(
            f"{finding}: score map",
            overlay.png(overlay.tint(map_, limit, "both")),
            f"orange: speaks for it, blue: against; full colour ±{limit:.2g} (logit)",
        )
        for finding, map_ in drawn.items()
    ]
    maps = network.attention_maps(images) if modules else {}
    rows = [_row(looked) for name in modules for looked in _groups(name, *maps[name], groups)]
    return Case(
        title,
        dict(zip(findings, probabilities, strict=True)),
        overlay.png(overlay.grey(film)),
        panels,
        rows,
    )


def chosen_modules(network: Classifier, wanted: Sequence[str]) -> list[str]:
    """The modules asked for, or the last one of every stage; none where the model has no attend-and-compare.

    Raises:
        ValueError: the model lacks one that was asked for; the message names those that it has.
    """
    there = network.attention_modules()
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(
            f"expected some of {', '.join(there) or 'none, the model has no such module'}, got {unknown[0]}"
        )
    if wanted:
        return list(wanted)
    last = {name.partition(".")[0]: name for name in there}
    return list(last.values())


def telling_cases(
    scores: NDArray[np.floating], films: FilmSet, finding: int, each: int
) -> Iterator[tuple[Verdict, int]]:
    """(verdict, row) of the films of either label that the model scored highest and lowest, no film twice."""
    labels = films.labels[:, finding]
    seen: set[int] = set()
    for label, word in ((1, "present"), (0, "absent")):
        rows = np.flatnonzero(labels == label)
        falling = rows[np.argsort(-scores[rows, finding], kind="stable")]
        for end, which in ((falling, "highest"), (falling[::-1], "lowest")):
            for row in end[:each]:
                if int(row) not in seen:
                    seen.add(int(row))
                    yield f"{word}, scored {which}", int(row)  # type: ignore[misc]  # one of the four


def chosen_groups(count: int, wanted: Sequence[int]) -> list[int]:
    """The groups asked for, each once, of a model whose modules have `count`.

    Raises:
        ValueError: there is no such group.
    """
    if unknown := [group for group in wanted if not 0 <= group < count]:
        raise ValueError(f"--group: expected some of 0 to {count - 1}, got {unknown[0]}")
    return sorted(set(wanted))


def _groups(module: str, key: torch.Tensor, query: torch.Tensor, wanted: Sequence[int]) -> list[Looked]:
    """The mean over groups, then single ones. key, query: 1×G×h×w."""
    keys, queries = key[0].float().cpu().numpy(), query[0].float().cpu().numpy()
    apart = np.abs(keys - queries).sum((1, 2))
    shown = wanted or np.argsort(-apart, kind="stable")[:_GROUPS_SHOWN]
    return [
        Looked(f"{module}, mean of {len(keys)} groups", keys.mean(0), queries.mean(0)),
        *(Looked(f"{module}, group {group}", keys[group], queries[group]) for group in shown),
    ]


def _row(looked: Looked) -> list[Panel]:
    evenly = 1 / looked.key.size
    key, query = (np.maximum(map_ - evenly, 0) for map_ in (looked.key, looked.query))
    limit = float(max(key.max(), query.max()))
    difference = looked.key - looked.query
    widest = float(np.abs(difference).max())
    scale = f"no colour: no more than if it looked everywhere alike; full colour: {limit / evenly + 1:.3g} times that"
    return [
        Panel(f"{looked.name}: K, where it looked", overlay.png(overlay.tint(key, limit, "above")), scale),
        Panel("Q, what it compared that with", overlay.png(overlay.tint(query, limit, "below")), scale),
        Panel(
            "K − Q",
            overlay.png(overlay.tint(difference, widest, "both")),
            f"orange: more K, blue: more Q; K and Q have {np.minimum(looked.key, looked.query).sum():.0%} in common",
        ),
    ]
