"""NVRTC through ctypes: it compiles for a GPU on any machine."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any


def libraries() -> list[str]:
    """The NVRTC libraries to compile with: those in the folders that TINYGPT_NVRTC names, or else the
    installed one.
    """
    named = os.environ.get("TINYGPT_NVRTC", "")
    folders = [Path(part) for part in named.split(os.pathsep) if part]
    if not folders and (found := importlib.util.find_spec("nvidia")) is not None:
        folders = [Path(part) for part in found.submodule_search_locations or ()]
    return sorted(str(path) for folder in folders for path in folder.rglob("libnvrtc.so.*"))


class Nvrtc:
    """NVRTC through ctypes: as much of it as a test needs."""

    def __init__(self, path: str) -> None:
        for part in Path(path).parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(part))  # which it looks for by name only
        self.library = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        assert self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
        self.version = major.value, minor.value

    def text(self, program: Any, name: str) -> bytes:
        """What one of the pairs of functions `nvrtcGetXSize`, `nvrtcGetX` says of a program."""
        size = ctypes.c_size_t()
        assert getattr(self.library, f"{name}Size")(program, ctypes.byref(size)) == 0
        room = ctypes.create_string_buffer(size.value)
        assert getattr(self.library, name)(program, room) == 0
        return room.raw

    def compile(self, source: str, file: str, names: list[str], options: list[str]) -> tuple[int, str, bytes]:
        """The status, the log and the machine code, in which each of the names was found."""
        program = ctypes.c_void_p()
        create = self.library.nvrtcCreateProgram
        assert create(ctypes.byref(program), source.encode(), file.encode(), 0, None, None) == 0
        for name in names:
            assert self.library.nvrtcAddNameExpression(program, name.encode()) == 0
        texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = self.library.nvrtcCompileProgram(program, len(options), texts)
        log = self.text(program, "nvrtcGetProgramLog").decode()
        code = b"" if status else self.text(program, "nvrtcGetCUBIN")
        for name in [] if status else names:
            lowered = ctypes.c_char_p()
            assert self.library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0
            assert lowered.value and lowered.value in code
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return status, log.rstrip("\0"), code
