"""What the laws' small cases do not reach in NumPy's convolution and pooling: many chunks and parts, several
threads, real layouts.
"""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy", reason="NumPy is not installed")

from tinygpt_core import backends, kernels  # noqa: E402
from tinygpt_core.buffer import Buffer  # noqa: E402
from tinygpt_core.random import Generator  # noqa: E402

CASES = [
    (19, 3, 4, (9, 7), (3, 3), {"padding": 1}),
    (16, 4, 6, (8, 8), (2, 3), {"stride": (2, 1), "groups": 2}),
    (9, 2, 2, (11, 10), (3, 2), {"dilation": (2, 3), "padding": (0, 2), "stride": 3}),
]


def near(first, second, scale):
    assert first.shape == second.shape and first.dtype is second.dtype
    return float(np.max(np.abs(first.array - second.array), initial=0.0)) <= 1e-6 * scale


@pytest.mark.parametrize("images, channels, out, size, kernel, options", CASES)
@pytest.mark.parametrize("column_bytes", [1, 5_000, 1 << 20])
def test_chunks_and_threads_change_nothing(
    monkeypatch, images, channels, out, size, kernel, options, column_bytes
):
    """Any size of the chunks gives what the textbook gives, and any number of threads the same bits."""
    with backends.use("numpy"):
        fused = kernels.lookup(kernels.Conv2d, backends.get("numpy"))
        threads = pytest.importorskip("tinygpt_accel.numpy_backend.threads")
        monkeypatch.setattr(fused, "column_bytes", column_bytes)
        generator = Generator(3)
        # As it lies between two layers
        x = Buffer.normal((channels, images, *size), generator=generator).transpose(0, 1)
        weight = Buffer.normal((out, channels // options.get("groups", 1), *kernel), generator=generator)
        bias = Buffer.normal((out,), generator=generator)
        expected, expected_saved = kernels.Conv2d.forward(x, weight, bias, **options)
        grad = Buffer.normal(expected.shape, generator=generator)
        wanted = [expected, *(gradient() for gradient in kernels.Conv2d.backward(expected_saved, grad))]
        runs = []
        for count in (1, 3):
            monkeypatch.setattr(threads, "_count", count)
            y, saved = fused.forward(x, weight, bias, **options)
            runs.append([y, *(gradient() for gradient in fused.backward(saved, grad))])
        for one, other, truth in zip(*runs, wanted, strict=True):
            assert np.array_equal(one.array, other.array)
            assert near(one, truth, 10 * float(np.max(np.abs(truth.array))))


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2, "stride": 3}],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_blocks_of_planes_change_nothing(monkeypatch, options, swapped):
    """Pooling of many planes in small blocks, on several threads, in both layouts; infinite gradients stay
    where they belong.
    """
    with backends.use("numpy"):
        fused = kernels.lookup(kernels.MaxPool2d, backends.get("numpy"))
        threads = pytest.importorskip("tinygpt_accel.numpy_backend.threads")
        module = pytest.importorskip("tinygpt_accel.numpy_backend.kernels.convolution")
        monkeypatch.setattr(module, "BLOCK", 200)
        monkeypatch.setattr(threads, "_count", 3)
        generator = Generator(4)
        x = Buffer.normal((5, 6, 9, 8), generator=generator).maximum(0.0)  # zeros: many ties
        x = x.transpose(0, 1) if swapped else x
        expected, expected_saved = kernels.MaxPool2d.forward(x, **options)
        y, saved = fused.forward(x, **options)
        grad = Buffer.normal(expected.shape, generator=generator)
        grad[0, 0, 0, 0] = float("inf")
        (wanted,), (got,) = kernels.MaxPool2d.backward(expected_saved, grad), fused.backward(saved, grad)
        assert np.array_equal(y.array, expected.array) and np.allclose(got.array, wanted.array, atol=1e-6)


def test_choosing_against_zero_keeps_every_bit():
    """The branch-free form of `where` with a zero: infinities and NaN pass where the condition holds and
    vanish elsewhere.
    """
    with backends.use("numpy"):
        x = Buffer([float("inf"), float("-inf"), float("nan"), -0.0, 1.5, float("inf"), float("nan"), 2.0])
        mask = Buffer([True, True, True, True, True, False, False, False])
        chosen = Buffer.where(mask, x, 0.0).array
        assert chosen[:5].tobytes() == x.array[:5].tobytes() and chosen[5:].tobytes() == bytes(12)
        assert np.signbit(Buffer.where(mask, x, -0.0).array[5:]).all()
