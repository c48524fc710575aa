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

def use_vectors(widest: int, /) -> int:
    """Choose vector instructions: 0 the common ones, 1 AVX2, 2 AVX-512, or the widest below.

    For tests: the results are the same bits.

    Returns:
        What is used from now on.
    """
