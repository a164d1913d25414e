"""Area averaging without a framework is MONAI's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Resize

from acm_core.data.shrink import shrink, square_film

SIDES = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=st.integers(0, 2**32 - 1))
def test_shrinking_is_monais_area_mode(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    film = np.random.default_rng(seed).random((height, width), np.float32)
    expected = np.asarray(Resize((rows, columns), mode="area")(torch.from_numpy(film)[None]))[0]
    np.testing.assert_allclose(shrink(film, rows, columns), expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(rows=SIDES, columns=SIDES, size=st.integers(1, 64))
def test_a_film_keeps_its_shape_amid_black(rows: int, columns: int, size: int) -> None:
    film = square_film(np.ones((rows, columns), np.float32), size)
    assert film.shape == (size, size)
    shown = film > 0
    height, width = (max(1, round(side * size / max(rows, columns))) for side in (rows, columns))
    assert shown.any(axis=1).sum() == height
    assert shown.any(axis=0).sum() == width
    assert shown.sum() == height * width
    above, below = shown.any(axis=1).argmax(), shown.any(axis=1)[::-1].argmax()
    assert 0 <= below - above <= 1
