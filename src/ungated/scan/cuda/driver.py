"""The CUDA driver as Python calls it: load machine code, ask how much of it fits, launch it on torch's stream."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

from ungated.scan.cpu.compiler import Unavailable

# Numbers of cuda.h.
_LOCAL_SIZE_BYTES, _NUM_REGS, _MAX_DYNAMIC_SHARED, _NON_PORTABLE_CLUSTER = 3, 4, 8, 14
_LAUNCH_COOPERATIVE, _LAUNCH_CLUSTER = 2, 4
_SHARED_PER_BLOCK_OPTIN = 97


class LaunchError(RuntimeError):
    """A kernel could not be launched, or stopped before its end."""


class _Value(ctypes.Union):
    _fields_ = [("cooperative", ctypes.c_int), ("cluster", ctypes.c_uint * 3), ("room", ctypes.c_char * 64)]


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_char * 4), ("value", _Value)]


class _Configuration(ctypes.Structure):
    _fields_ = [
        *((f"{what}_{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


class Driver:
    """The driver's library; every call that fails raises with the driver's own words."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: object, failure: type[Exception] = LaunchError) -> None:
        """Raises `failure`."""
        try:
            status = self._library[name](*arguments)
        except AttributeError as error:
            raise failure(f"the CUDA driver is too old: it has no {name}") from error
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise failure(f"{name} failed: {(text.value or b'unknown error').decode()} ({status})")

    def shared_bytes(self, device: int) -> int:
        """What a block may have of shared memory if its kernel asks for it. Raises Unavailable."""
        value, handle = ctypes.c_int(), ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), device, failure=Unavailable)
        self.call("cuDeviceGetAttribute", ctypes.byref(value), _SHARED_PER_BLOCK_OPTIN, handle, failure=Unavailable)
        return value.value


class Function:
    """A kernel on a device, ready to be launched."""

    def __init__(self, code: bytes, name: str, device: int, threads: int, shared_bytes: int) -> None:
        """Raises Unavailable if this device or its driver cannot take the kernel."""
        self._driver, self.device, self.threads, self.shared_bytes = driver(), device, threads, shared_bytes
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            self._in_context()
            self._ask("cuModuleLoadData", ctypes.byref(self._module), code)
            self._ask("cuModuleGetFunction", ctypes.byref(self._function), self._module, name.encode())
            self._ask("cuFuncSetAttribute", self._function, _MAX_DYNAMIC_SHARED, shared_bytes)
            blocks = ctypes.c_int()
            query = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
            self._ask(query, ctypes.byref(blocks), self._function, threads, ctypes.c_size_t(shared_bytes))
        self.resident = blocks.value * torch.cuda.get_device_properties(device).multi_processor_count

    def attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._driver.call("cuFuncGetAttribute", ctypes.byref(value), number, self._function)
        return value.value

    @property
    def registers(self) -> int:
        """Of each thread."""
        return self.attribute(_NUM_REGS)

    @property
    def local_bytes(self) -> int:
        """Of each thread: what did not fit into registers."""
        return self.attribute(_LOCAL_SIZE_BYTES)

    def launch(self, blocks: int, arguments: ctypes.Structure, *, cooperative: bool = True, cluster: int = 1) -> None:
        """Start the kernel on torch's current stream of its device.

        cooperative: all blocks run at once, or nothing is started. cluster: blocks that share a cluster.
        Raises LaunchError.
        """
        if cooperative and blocks > self.resident:
            raise LaunchError(f"{blocks} blocks should run at once, of which the device holds {self.resident}")
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self.device):
            self._in_context()
            stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
            sizes = [ctypes.c_uint(size) for size in (blocks, 1, 1, self.threads, 1, 1, self.shared_bytes)]
            if cluster > 1:
                self._launch_clusters(blocks, pointers, stream, cooperative, cluster)
            elif cooperative:
                self._driver.call("cuLaunchCooperativeKernel", self._function, *sizes, stream, pointers)
            else:
                self._driver.call("cuLaunchKernel", self._function, *sizes, stream, pointers, None)

    def _launch_clusters(
        self, blocks: int, pointers: object, stream: ctypes.c_void_p, cooperative: bool, cluster: int
    ) -> None:
        if cluster > 8:
            self._driver.call("cuFuncSetAttribute", self._function, _NON_PORTABLE_CLUSTER, 1)
        attributes = (_Attribute * 2)()
        attributes[0].id, attributes[0].value.cluster = _LAUNCH_CLUSTER, (ctypes.c_uint * 3)(cluster, 1, 1)
        attributes[1].id, attributes[1].value.cooperative = _LAUNCH_COOPERATIVE, 1
        shape = (blocks, 1, 1, self.threads, 1, 1, self.shared_bytes)
        configuration = _Configuration(*shape, stream, attributes, 2 if cooperative else 1)
        self._driver.call("cuLaunchKernelEx", ctypes.byref(configuration), self._function, pointers, None)

    def _ask(self, name: str, *arguments: object) -> None:
        self._driver.call(name, *arguments, failure=Unavailable)

    def _in_context(self) -> None:
        """Make torch's context current in this thread: autograd's own threads may not have met it yet."""
        context = ctypes.c_void_p()
        self._ask("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
            self._ask("cuCtxSetCurrent", context)


@cache
def driver() -> Driver:
    """The driver, found once. Raises Unavailable."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        found = Driver(ctypes.CDLL(name))
    except OSError as error:
        raise Unavailable(f"there is no CUDA driver ({error})") from error
    found.call("cuInit", 0, failure=Unavailable)
    return found
