"""The computers that QEMU plays."""

from dataclasses import dataclass

# 128 MiB of translated code instead of 1 GiB. What was translated is forgotten only when that is full, and
# until then a store into memory that once held code is slow: a new kernel, which writes all of the memory
# anew, took up to minutes to come up.
_ACCELERATOR = ("-accel", "tcg,thread=multi,tb-size=128")


@dataclass(frozen=True)
class Hardware:
    """A computer with two processors, without its memory and its disks.

    Its console is QEMU's first serial port, and the agent's port is called `agent_port` in the guest.
    """

    program: str
    machine: str
    options: tuple[str, ...]
    agent_options: tuple[str, ...]  # connect the port to the character device `agent`
    agent_port: str
    memory_mib: int


AMD64 = Hardware(
    program="qemu-system-x86_64",
    machine="pc",
    # SSE 4.2 for crc32c, RDRAND so that no boot waits for randomness.
    options=(*_ACCELERATOR, "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+rdrand", "-smp", "2"),
    agent_options=("-serial", "chardev:agent"),
    agent_port="/dev/ttyS1",
    memory_mib=1536,
)

ARM64 = Hardware(
    program="qemu-system-aarch64",
    machine="virt",
    # Without pointer authentication, which takes much of the time when it is emulated.
    options=(*_ACCELERATOR, "-cpu", "cortex-a76", "-smp", "2"),
    agent_options=("-device", "pci-serial,chardev=agent"),
    agent_port="/dev/ttyS0",
    memory_mib=1536,
)
