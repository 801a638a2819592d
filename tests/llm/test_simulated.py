"""A CPU that passes for several devices has a thread for each, and some for whatever else comes."""

import os

import pytest

from llm.simulated import THREADS, give_threads, simulated


@pytest.fixture
def about(monkeypatch) -> pytest.MonkeyPatch:
    for name in (THREADS, "XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "64"),
        ("XLA_FLAGS", "--xla_dump_to=x --xla_force_host_platform_device_count=64"),
    ],
)
def test_however_devices_are_asked_for_there_are_two_threads_for_each(about, name, value):
    about.setenv(name, value)
    give_threads()
    assert int(os.environ[THREADS]) == max(128, os.cpu_count() or 1)
    assert os.environ[THREADS] == simulated(64)[THREADS]


def test_what_is_set_stays_and_one_device_is_left_alone(about):
    give_threads()
    about.setenv("JAX_NUM_CPU_DEVICES", "1")
    give_threads()
    assert THREADS not in os.environ
    about.setenv("JAX_NUM_CPU_DEVICES", "8")
    about.setenv(THREADS, "3")
    give_threads()
    assert os.environ[THREADS] == "3"
