"""The CUDA backend, on CuPy: `plugin` (found without importing CuPy), `buffer` and `cupy_buffer` (arrays on a
device), `kernels`, `attention` and `flash`, `step` (a training step as one CUDA graph), `sources` (the
kernels in `cu`, and how they are compiled).
"""
