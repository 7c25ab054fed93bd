"""What RELION 3.1.3 made of the half maps of data/relion_postprocess.npz; see data/make_relion_fixtures.py."""

import functools
import re
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent / "data" / "relion_postprocess.npz"
DRAWS = 6
PARITIES = ("even", "odd")  # boxes of 40 and 33 voxels
UNMASKED = "rlnFourierShellCorrelationUnmaskedMaps"
MASKED = "rlnFourierShellCorrelationMaskedMaps"
CORRECTED = "rlnFourierShellCorrelationCorrected"
RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"
SOLVENT = "rlnFourierShellCorrelationParticleMaskFraction"


@functools.cache
def fixture():
    with np.load(FIXTURE) as archive:
        return dict(archive)


def half_maps(parity):
    """(half 1, half 2, mask, voxel size)."""
    inside = slice(None) if parity == "even" else slice(2, 35)
    volumes = [fixture()[name][inside, inside, inside].astype(np.float32) for name in ("half1", "half2", "mask")]
    return *volumes, float(fixture()["voxel_size"])


def star_text(parity, run):
    """postprocess.star of a run: the seed of the random phases, "without_mask" or "given_bfactor"."""
    return str(fixture()[f"{parity}_star_{run}"])


def loop(text, name):
    """{label: column} of a loop, in the file's order."""
    block = text.split(f"data_{name}\n")[1].split("data_")[0]
    rows = [line.split() for line in block.splitlines() if re.match(r"\s*-?\d", line)]
    return dict(zip(re.findall(r"_(rln\S+) #\d+", block), np.array(rows, float).T, strict=True))


def pairs(text, name="general"):
    """{label: text} of a block without a loop, in the file's order."""
    block = text.split(f"data_{name}\n")[1].split("data_")[0]
    return dict(re.findall(r"^_(rln\S+)\s+(\S+)", block, re.MULTILINE))


def curves(parity, label):
    """(DRAWS, S): one column of the table fsc in every draw of random phases."""
    return np.array([loop(star_text(parity, seed), "fsc")[label] for seed in range(DRAWS)])
