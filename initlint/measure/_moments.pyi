"""The compiled sums of `initlint.measure.moments`; absent where there was no compiler."""

from typing import Any

Sums = tuple[int, float, float, float, float, float, float, int, int, int, int]

def sums(data: Any, dtype: str, tiny: float, /) -> Sums:
    """Sums over the finite elements of a contiguous, aligned buffer of stored elements.

    Args:
        data: the buffer.
        dtype: ``float32``, ``float64``, ``float16``, ``bfloat16``, ``int8`` or ``uint8``.
        tiny: the smallest normal number of the storage dtype; 0 for integers.

    Returns:
        Finite elements; their mean; sums of the second, third and fourth powers about it; smallest
        and largest; zeros, subnormals, NaNs and infinities.

    Raises:
        ValueError: unknown dtype, a part of an element, or unaligned elements.
    """

def sums_of_file(descriptor: int, offset: int, count: int, dtype: str, tiny: float, /) -> Sums:
    """As `sums`, the same bits, of ``count`` elements from a byte of a file on.

    They are read in pieces that are summed while they are in a core's own cache.

    Raises:
        EOFError: the file ends before the elements do.
        OSError: it cannot be read.
        ValueError: unknown dtype, or a negative offset or count.
    """

def use_vectors(widest: int, /) -> int:
    """Choose vector instructions: 0 the common ones, 1 AVX2, 2 AVX-512, or the widest below.

    For tests: the results are the same bits.

    Returns:
        What is used from now on.
    """
