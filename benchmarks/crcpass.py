"""One bulk CRC-32C pass, the yardstick of saves and loads: `python -m benchmarks.crcpass BYTES`.

Over memory that is already there, by one thread. The printed seconds are the median of three
passes: on this machine nothing that looks at every byte once can be cheaper.
"""

import mmap
import random
import statistics
import sys
import time

import crc32c

PASSES = 3
PIECE_BYTES = 1 << 20


def main() -> None:
    """Fill so many bytes, pass over them, print the seconds."""
    memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    piece = random.Random(0).randbytes(PIECE_BYTES)
    for _ in range(len(memory) // PIECE_BYTES):
        memory.write(piece)
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        crc32c.crc32c(memory)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds))


if __name__ == "__main__":
    main()
