"""NumPy and CuPy backends for tinygpt: the same scripts, at the speed of BLAS and of a GPU.

`array_buffer`, `convolution` and `philox` are what the two share; `numpy_backend` and `cuda_backend` are
theirs alone. The core finds them through entry points: `train` uses the fastest that can run, and
`tinygpt_core.backends.use("numpy")` chooses one.
"""

from tinygpt_core.moved import OldNames

__version__ = "0.1.0"

# Compatibility: modules that stood elsewhere before can still be imported by their old names.
OldNames(
    __name__,
    {
        "chains": ("numpy_backend.chains",),
        "compiled": ("numpy_backend.compiled",),
        "cuda_attention": (
            "cuda_backend.kernels.attention",
            "cuda_backend.kernels.batched_attention",
            "cuda_backend.kernels.common",
            "cuda_backend.kernels.softmax",
        ),
        "cuda_buffer": ("cuda_backend.buffer",),
        "cuda_flash": ("cuda_backend.kernels.flash_attention",),
        "cuda_kernels": (
            "cuda_backend.kernels",
            "cuda_backend.kernels.common",
            "cuda_backend.kernels.dense",
            "cuda_backend.kernels.optimizer_steps",
            "cuda_backend.kernels.products",
        ),
        "cuda_sources": ("cuda_backend.sources",),
        "cuda_step": ("cuda_backend.step",),
        "cupy_backend": ("cuda_backend.cupy_buffer",),
        "cupy_plugin": ("cuda_backend.plugin",),
        "encoding": ("tiktoken_encoder",),
        "loops": ("numpy_backend.loops",),
        "memory": ("numpy_backend.memory",),
        "numpy_convolution": ("numpy_backend.kernels.convolution",),
        "numpy_kernels": (
            "numpy_backend.kernels",
            "numpy_backend.kernels.attention",
            "numpy_backend.kernels.normalization",
            "numpy_backend.kernels.optimizer_steps",
        ),
        "numpy_plugin": ("numpy_backend.plugin",),
        "tensorboard_logger": ("loggers.tensorboard",),
        "threads": ("numpy_backend.threads",),
        "wandb_logger": ("loggers.wandb",),
    },
).install()
