"""Floor 4: what is on a disk: files that are whole or not there, JSON objects and safetensors."""

from .atomic import Path, Written, atomic_write, held, sync_directory, write_durably
