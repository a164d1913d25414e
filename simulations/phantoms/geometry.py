"""Where a patient stands before the detector: centimetres of the body to pixels of the film.

Body frame: origin between the lungs, x to the patient's left (the viewer's right), y towards the feet, in cm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LEFT, RIGHT = 1, -1
"""Sign of x on the patient's left and right side."""


@dataclass(frozen=True)
class Canvas:
    """The film: its size in cm and in pixels."""

    width: float
    height: float
    longest: int
    """Pixels along the longer side."""

    @property
    def spacing(self) -> float:
        """Side of a (square) pixel in cm."""
        return max(self.width, self.height) / self.longest

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return round(self.height / self.spacing), round(self.width / self.spacing)


@dataclass(frozen=True)
class Positioning:
    """One exposure of a patient: stance, breath and technique. All offsets are zero for a perfect film."""

    view: str
    """PA or AP; on AP films the heart lies farther from the detector and looks larger."""
    tilt: float
    """Radians in the plane of the film, positive clockwise."""
    shift: tuple[float, float]
    """cm right and down."""
    turn: float
    """Radians about the long axis of the body; positive brings the front to the viewer's right."""
    breath: float
    """cm by which the diaphragm lies below its usual place."""
    density: float
    """cm of tissue by which the exposure moves the mid-grey."""
    latitude: float
    """Factor on the span of thickness that the film shows; 1 is the scanner's usual."""


def draw_positioning(rng: np.random.Generator, view: str) -> Positioning:
    """A stance as technicians reach it: slightly tilted, turned and off-centre, never exactly exposed."""
    return Positioning(
        view=view,
        tilt=float(rng.normal(0, 0.03)),
        shift=(float(np.clip(rng.normal(0, 0.7), -1.4, 1.4)), float(np.clip(rng.normal(0, 0.7), -1.4, 1.4))),
        turn=float(np.clip(rng.normal(0, 0.06), -0.13, 0.13)),
        breath=float(np.clip(rng.normal(0, 0.7), -1.5, 1.5)),
        density=float(rng.normal(0, 1.3)),
        latitude=float(np.exp(rng.normal(0, 0.12))),
    )


@dataclass(frozen=True)
class BodyGrid:
    """Body coordinates of every pixel of a film, H×W float32 each, and the way back."""

    x: Image
    y: Image
    canvas: Canvas
    positioning: Positioning

    @classmethod
    def of(cls, canvas: Canvas, positioning: Positioning) -> BodyGrid:
        """Grid of the pixel centres."""
        rows, columns = canvas.shape
        across = (np.arange(columns, dtype=np.float32) + 0.5) * canvas.spacing - canvas.width / 2
        down = (np.arange(rows, dtype=np.float32) + 0.5) * canvas.spacing - canvas.height / 2
        across, down = across - np.float32(positioning.shift[0]), down - np.float32(positioning.shift[1])
        cos, sin = np.float32(np.cos(positioning.tilt)), np.float32(np.sin(positioning.tilt))
        return cls(
            across[None, :] * cos + down[:, None] * sin,
            down[:, None] * cos - across[None, :] * sin,
            canvas,
            positioning,
        )

    def pixels(self, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[Image, Image]:
        """Row and column (fractional, pixel centres at integers) of points in the body frame."""
        cos, sin = np.cos(self.positioning.tilt), np.sin(self.positioning.tilt)
        across = x * cos - y * sin + self.positioning.shift[0] + self.canvas.width / 2
        down = x * sin + y * cos + self.positioning.shift[1] + self.canvas.height / 2
        spacing = self.canvas.spacing
        return (down / spacing - 0.5).astype(np.float32), (across / spacing - 0.5).astype(np.float32)

    def deposit(
        self,
        x: npt.NDArray[np.floating],
        y: npt.NDArray[np.floating],
        volume: npt.NDArray[np.floating],
    ) -> Image:
        """Path length (cm, H×W) of tissue given as points: each leaves its `volume` (cm³) on four pixels."""
        rows, columns = self.canvas.shape
        row, column = self.pixels(x.ravel(), y.ravel())
        inside = (row >= 0) & (row < rows - 1) & (column >= 0) & (column < columns - 1)
        row, column = row[inside], column[inside]
        top, left = row.astype(np.intp), column.astype(np.intp)
        below, beside = row - top, column - left
        amount = volume.ravel()[inside] / self.canvas.spacing**2
        corner = top * columns + left
        film = np.zeros(rows * columns)
        for offset, share in (
            (0, (1 - below) * (1 - beside)),
            (1, (1 - below) * beside),
            (columns, below * (1 - beside)),
            (columns + 1, below * beside),
        ):
            film += np.bincount(corner + offset, share * amount, minlength=film.size)
        return film.reshape(rows, columns).astype(np.float32)


def blurred(image: Image, deviation: float) -> Image:
    """The image under a Gaussian of the given standard deviation in pixels."""
    return np.asarray(gaussian_filter(image, deviation, truncate=3.0), np.float32)


def smoothstep(value: npt.NDArray[np.floating], low: float, high: float) -> Image:
    """0 below `low`, 1 above `high`, smooth between (elementwise)."""
    ramp = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
