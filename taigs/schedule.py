"""The stages of a fit, its rates, and where in them a fit stands."""

import math
from dataclasses import asdict, dataclass

from taigs.checkpoint import storable
from taigs.cloud import GaussianCloud
from taigs.errors import InputError

SHARE_OF_VOXELS = 0.2  # of the bytes of a map: the budget of its model unless one is given
# Of a tomogram: floors of the stages (the later one is kept only if the held-out views gain by it), voxels for each
# Gaussian of the first, fewest and most of these, and the growth of the cloud from stage to stage.
TILT_FLOORS_PX = (0.65, 0.46)
VOXELS_PER_GAUSSIAN = 60
GAUSSIANS = (2000, 400_000)
GROWTH = 1.4


@storable
@dataclass(frozen=True)
class Stage:
    """One level of a coarse-to-fine fit.

    Parameters
    ----------
    floor_px : float
        Smallest sigma in pixels: the main regulariser.
    n_gaussians : int
        Size to which the cloud is densified when the stage begins.
    steps : int
        Most steps; the held-out score usually ends the stage earlier.
    rate : float
        Factor on the rates of all parameters.
    last_rate : float, optional
        To which that falls along a cosine during the stage.
    """

    floor_px: float
    n_gaussians: int
    steps: int
    rate: float = 1.0
    last_rate: float | None = None

    def rate_at(self, taken):
        """Factor after so many steps of the stage."""
        if self.last_rate is None:
            return self.rate
        return self.last_rate + (self.rate - self.last_rate) * (1 + math.cos(math.pi * taken / self.steps)) / 2


def tilt_stages(shape, steps):
    """Stages of a tomogram of (nz, ny, nx) voxels, of so many steps at most each."""
    n = int(min(max(math.prod(shape) / VOXELS_PER_GAUSSIAN, GAUSSIANS[0]), GAUSSIANS[1]))
    return [Stage(floor, int(n * GROWTH**i), steps) for i, floor in enumerate(TILT_FLOORS_PX)]


@dataclass(frozen=True)
class FitConfig:
    """Rates are per step; a stage may end before its last step, never after it."""

    rate_position_px: float = 0.03  # pixels
    rate_log_sigma: float = 0.01
    rate_quaternion: float = 0.01
    rate_mass: float = 0.2  # raw mass
    beta1: float = 0.9
    beta2: float = 0.99
    batch: int = 8  # views
    check_every: int = 5  # steps between held-out scores
    patience: int = 3  # checks without a better score that end a stage
    ceiling_px: float = 6.0  # largest sigma, pixels
    mass_min: float = 0.01  # of the mean mass: lighter Gaussians are pruned

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}; expected a positive number")
        if not max(self.beta1, self.beta2) < 1:
            raise InputError(f"beta1 {self.beta1}, beta2 {self.beta2}; expected less than 1")


@storable
@dataclass
class FitResult:
    """The cloud with the best held-out score, that score, and the stages with the steps they took to reach it."""

    cloud: GaussianCloud
    score: float
    stages: list


@storable
@dataclass
class Place:
    """Where a fit stands in its stages, and how its loss has behaved."""

    step: int = 0
    stage: int = 0
    entered: bool = False  # the cloud has the size of the stage
    taken: int = 0  # steps of the stage
    since: int = 0  # checks since its best score
    stage_best: float = math.inf
    improved: bool = False  # on all stages before
    steps_to_best: int = 0
    slowed: float = 1.0  # factor on all rates
    loss: float = math.inf
    first_loss: float = 0.0  # largest size of the first steps'
    rises: int = 0
