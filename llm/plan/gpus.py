"""What the compiler has to be told of a GPU that is not there.

A GPU tells XLA what it is like when it is asked; here nobody can be asked. The figures are those of
the makers' data sheets and of the tables of compute capabilities in the CUDA C++ Programming Guide.
"""

from dataclasses import dataclass

from llm.devices import Device


@dataclass(frozen=True)
class Silicon:
    """A kind of GPU as its driver would describe it.

    Attributes:
        capability: of its instructions, major and minor.
        cores: streaming multiprocessors.
        units: for float32 numbers, of each.
        clock: GHz at its highest.
        cache: bytes of the second level, of all together.
        shared: bytes of each multiprocessor's shared memory.
    """

    capability: tuple[int, int]
    cores: int
    units: int
    clock: float
    cache: int
    shared: int


KIB, MIB = 2**10, 2**20
HOPPER = Silicon(
    capability=(9, 0), cores=132, units=128, clock=1.98, cache=50 * MIB, shared=228 * KIB
)
AMPERE = Silicon(
    capability=(8, 0), cores=108, units=64, clock=1.41, cache=40 * MIB, shared=164 * KIB
)
SILICON = {
    "A100 80 GB": AMPERE,
    "H100 SXM": HOPPER,
    "H200": HOPPER,
}
"""By name of the device."""

FOR_THE_SYSTEM = KIB
"""Bytes of shared memory that a block of threads cannot have."""


def target_config(device: Device) -> str:
    """A device as XLA's ``GpuTargetConfigProto`` describes it, as text."""
    made = SILICON[device.name]
    major, minor = made.capability
    return f"""
        platform_name: "CUDA"
        device_description_str: "{device.name}"
        dnn_version_info {{ major: 9 minor: 8 }}
        runtime_version {{ major: 12 minor: 8 patch: 0 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          core_count: {made.cores}
          fpus_per_core: {made.units}
          clock_rate_ghz: {made.clock}
          memory_bandwidth: {device.bandwidth:.0f}
          device_memory_size: {device.memory:.0f}
          l2_cache_size: {made.cache}
          shared_memory_per_core: {made.shared}
          shared_memory_per_block: {48 * KIB}
          shared_memory_per_block_optin: {made.shared - FOR_THE_SYSTEM}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_warp: 32
          threads_per_block_limit: 1024
          threads_per_core_limit: 2048
          block_dim_limit_x: {2**31 - 1}
          block_dim_limit_y: {2**16 - 1}
          block_dim_limit_z: {2**16 - 1}
        }}"""
