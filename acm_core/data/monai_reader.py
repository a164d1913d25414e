"""Films for MONAI's transforms, read by this project's rules: `LoadImaged(keys="image", reader=FilmReader)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys
from monai.utils.misc import ensure_tuple
from numpy.typing import NDArray

from acm_core.data.film import read_film


class FilmReader(ImageReader):
    """Reads DICOM, PNG and JPEG films as `read_film` does.

    Axis order: H×W, row 0 the top of the film, as `read_film` and pydicom's `pixel_array` have it. MONAI's own readers
    give W×H, a film on its side; transforms that name an axis mean the other one after them.

    A film that is set aside raises FilmSetAside; `Compose` and `Dataset` wrap it in a RuntimeError and keep it as
    `__cause__`. The reader's metadata name nobody, but `LoadImage` itself adds the path as `filename_or_obj`, which
    `prune_meta_pattern="filename_or_obj"` takes away, and `Compose(log_stats=True)` logs it when a transform fails.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:  # noqa: ARG002
        """True: content decides what a file is, never its name."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **_options: Any) -> tuple[PathLike, ...]:
        """The paths themselves; `get_data` opens them.

        `LoadImage` answers an exception from here with MONAI's own readers, which would take in what was refused.
        """
        return tuple(ensure_tuple(data))

    def get_data(self, img: tuple[PathLike, ...]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Pixels float32 H×W in [0, 1], and metadata: their shape, and that there is no channel axis.

        Raises:
            FilmSetAside: the film cannot be used.
            ValueError: several files at once.
        """
        if len(img) != 1:
            raise ValueError(f"expected the path of one film, got {len(img)} paths; load films one by one")
        pixels = read_film(Path(img[0])).pixels
        return pixels, {
            MetaKeys.SPATIAL_SHAPE: np.array(pixels.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
        }
