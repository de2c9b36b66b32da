"""The CUDA backend, on CuPy: `plugin` (found without importing CuPy), `buffer` and `cupy_buffer` (arrays on a
device), `kernels`, `step` (a training step as one CUDA graph), `sources` (the CUDA C++ in `cu`, and which
instances of it are compiled).
"""
