"""What every test stands on: strict JAX, one platform, a key, float64 when asked for.

Nothing from this repository is imported here: jaxtyping instruments a package when it is first
imported, and pytest loads this file before some of its plugins have settled.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

# Chosen before JAX is imported; `JAX_PLATFORMS=cuda make test ARGS="-m gpu"` still wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of what a test costs is compilation, and what it proves is arithmetic, not how fast that can
# be made. `.ci/run` repeats the tests of language models with programs as everybody has them:
# JAX_DISABLE_MOST_OPTIMIZATIONS=0.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax
import pytest

# A sum of [B, N] and [N] is a forgotten axis more often than an intended broadcast.
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline, because the first example of a property compiles it; derandomised, so that two runs
# of one commit agree. The fixtures of this file hold no state that one example could leave to the
# next, which is what the suppressed check is about.
hypothesis.settings.register_profile(
    "modeseek",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("modeseek")

SHARED = Path(__file__).resolve().parents[2] / "shared"
SLOW_TESTS_UNTIL = float(os.environ.get("SLOW_TESTS_UNTIL", "inf"))
"""Seconds since 1970 after which no slow test begins. `.ci/run` has an hour and a half at most."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `shared` where the folder is absent, and slow ones when time is up."""
    if item.get_closest_marker("slow") and time.time() > SLOW_TESTS_UNTIL:
        pytest.skip("no time was left for slow tests")
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the clone")


@pytest.fixture
def shared() -> Path:
    """The folder `shared` beside the clone; the test skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the clone")
    return SHARED


@pytest.fixture
def key() -> jax.Array:
    """A typed PRNG key; consume it once, or split it by name."""
    return jax.random.key(0)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test; the default stays float32, as in production."""
    with jax.enable_x64(True):
        yield
