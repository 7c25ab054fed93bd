"""Files larger than memory: sparse, so that they cost no disk."""

import numpy as np
import pytest
from faults import BOX, PARTICLES, PIXEL_SIZE, accepted, good_particles

from taigs.io.mrc import _new_header

BYTES = 20 * 2**30
SECTION = 4 * BOX * BOX
SECTIONS = (BYTES - 1024) // SECTION


@pytest.fixture
def star(tmp_path):
    """Particles spread over a stack of 20 GiB, the rest of which is a hole."""
    sections = np.linspace(0, SECTIONS - 1, PARTICLES).astype(int)
    star = good_particles(tmp_path, rlnImageName=[f"{section + 1}@p.mrcs" for section in sections])
    images = (tmp_path / "p.mrcs").read_bytes()[1024:]
    with open(tmp_path / "p.mrcs", "wb") as file:
        file.write(_new_header((SECTIONS, BOX, BOX), PIXEL_SIZE, None, 0).tobytes())
        for i, section in enumerate(sections.tolist()):
            file.seek(1024 + section * SECTION)
            file.write(images[i * SECTION : (i + 1) * SECTION])
        file.truncate(1024 + SECTIONS * SECTION)
    if (tmp_path / "p.mrcs").stat().st_blocks * 512 > 10**8:
        pytest.fail("this file system keeps no holes: the test would need 20 GB")
    return star


def test_a_stack_of_20_gb_is_described_by_a_sample_that_is_called_one(star):
    outcome = accepted(["info", "p.mrcs"], star.parent, rf"shape +{SECTIONS} x 16 x 16", r"of a sample: 1\.\d\d% of")
    assert outcome.peak_bytes < 150e6 and outcome.seconds < 10


def test_particles_of_a_stack_of_20_gb_are_reconstructed_in_1_gb(star):
    outcome = accepted(["spa", star, "-o", "out"], star.parent, timeout=300)
    assert outcome.peak_bytes < 1e9
    assert (star.parent / "out/map.mrc").stat().st_size == 1024 + 4 * BOX**3
