"""Floor 4: what is on a disk.

Reading order: `atomic` (files that are whole or not there), `reading` (files from anywhere, up to a limit),
`json_objects` and `safetensors` (values and tensors in them).
"""

from .atomic import Path, Written, atomic_write, lock_directory, sync_directory, write_durably
from .json_objects import SerializationError, json_bytes, parse_json_object, read_json_object, write_json
from .reading import FileTooLargeError, read_limited
from .safetensors import load_safetensors, read_safetensors_header, safetensors_chunks, save_safetensors
