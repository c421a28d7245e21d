"""A pretended CUDA device, to check on a machine without a GPU how torch code uses one.

Inside `PretendCuda()`, tensors on `cuda:N` lie in ordinary CPU memory and carry a mark. They hold
real numbers, so whole pictures can be drawn and compared with those of the CPU. As a real GPU does:

- an operation on tensors of two devices raises (a single number on the CPU is allowed);
- `.numpy()` of a device tensor raises;
- a non-blocking copy from the device to pinned memory arrives when an event or the device is waited
  for; until then the host reads garbage;
- host memory that an asynchronous copy still reads must not change before the next wait.

It counts operations on device tensors that are no views (an upper bound for kernel launches),
copies in both directions with their bytes and whether the host waits for them, other waits of the
host (`.item()`, `nonzero`, boolean masks, `synchronize`), and events.

It does not model time, kernels, rounding, memory, hazards between streams, Triton, CUDA graphs, or
other threads than the one that entered it.
"""

import contextlib
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CPU = torch.device("cpu")

#: Operations that make the host wait for the device: they return a number or a shape to the host.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::histc",
    "aten::repeat_interleave",
    "aten::allclose",
    "aten::nonzero_numpy",
}

#: Operations that may read tensors of the CPU beside those of the device.
MIXES = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::index_put_"}

#: Where frames are cut when a waiting place is named.
_OURS = ("pretended_cuda.py", "/torch/", "unittest/mock")


@dataclass
class Taken:
    """What was counted in one stretch of the program."""

    #: Device operations by name, views left out; and how many views there were beside them.
    ops: Counter[str] = field(default_factory=Counter)
    views: int = 0
    #: Copies: (direction, "pinned" or "pageable", "async" or "blocking") → how many, and bytes.
    copies: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    copied_bytes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: Places where the host waits for the device → how often.
    waits: Counter[str] = field(default_factory=Counter)
    events: int = 0
    #: What was wrong, in words.
    faults: list[str] = field(default_factory=list)

    @property
    def launches(self) -> int:
        return sum(self.ops.values())

    def copied(self, direction: str) -> tuple[int, int]:
        """Return how many copies went "h2d" or "d2h", and their bytes."""
        keys = [key for key in self.copies if key[0] == direction]
        return sum(self.copies[k] for k in keys), sum(self.copied_bytes[k] for k in keys)

    @property
    def host_waits(self) -> int:
        """How often the host waits for the device, blocking copies included."""
        blocking = sum(count for key, count in self.copies.items() if key[2] == "blocking")
        return sum(self.waits.values()) + blocking

    def summary(self) -> dict[str, Any]:
        h2d, d2h = self.copied("h2d"), self.copied("d2h")
        return {
            "launches": self.launches,
            "views": self.views,
            "host_waits": self.host_waits,
            "h2d": h2d[0],
            "h2d_bytes": h2d[1],
            "d2h": d2h[0],
            "d2h_bytes": d2h[1],
            "events": self.events,
            "blocking": {"/".join(k[:2]): n for k, n in self.copies.items() if k[2] == "blocking"},
            "waits": dict(self.waits),
            "faults": self.faults,
        }


class PretendCuda(contextlib.AbstractContextManager["PretendCuda"]):
    """Devices `cuda:N` in the CPU's memory; see the module.

    Args:
        count: How many devices there are.
        memory_bytes: What each of them says that it has in total, and free.
        strict: Whether mixing devices raises, as on a GPU; else it is only noted.
    """

    def __init__(
        self,
        count: int = 2,
        memory_bytes: tuple[int, int] = (80 << 30, 79 << 30),
        strict: bool = True,
    ) -> None:
        self.count, self.memory_bytes, self.strict = count, memory_bytes, strict
        self.now = Taken()
        self.current = 0
        #: Devices on which a context was created, in that order: by `set_device` or by pinning.
        self.contexts: list[int] = []
        #: Raised by all that the device is asked from now on, as after an illegal access.
        self.broken: BaseException | None = None
        #: Called before each device operation with its name and tensors; it may raise.
        self.before: Callable[[str, list[torch.Tensor]], None] | None = None
        self._quiet = 0
        self._registered: dict[int, int] = {}
        self._pinned: weakref.WeakSet[Any] = weakref.WeakSet()
        #: Copies that are still queued, each with its number; and the latest number.
        self._pending: list[tuple[int, Callable[[], Any]]] = []
        self._told = 0
        self._stack = contextlib.ExitStack()

    # Marks

    def place(self, tensor: torch.Tensor) -> torch.device:
        """Return where a tensor claims to be."""
        if tensor.device.type != "cpu":
            return tensor.device
        return getattr(tensor.untyped_storage(), "pretended", CPU)

    def mark(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Say where a tensor's memory is."""
        if tensor.device.type == "cpu" and device.type in ("cpu", "cuda"):
            tensor.untyped_storage().pretended = device
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        if self.place(tensor).type != "cpu" or tensor.device.type != "cpu":
            return False
        if getattr(tensor.untyped_storage(), "is_pretended_pinned", False):
            return True
        at = tensor.untyped_storage().data_ptr()
        return any(a <= at < a + size for a, size in self._registered.items())

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor.untyped_storage().is_pretended_pinned = True
        if self.current not in self.contexts:
            self.contexts.append(self.current)
        return tensor

    def device(self, told: Any) -> torch.device | None:
        """Return the pretended device of an argument; None for other devices."""
        if isinstance(told, int) and not isinstance(told, bool):
            return torch.device("cuda", told)
        if isinstance(told, str | torch.device) and str(told).startswith("cuda"):
            index = torch.device(told).index
            found = torch.device("cuda", self.current if index is None else index)
            if found.index >= self.count:
                raise RuntimeError("CUDA error: invalid device ordinal")
            return found
        return None

    # Counting

    def taken(self) -> Taken:
        """Return what was counted since the last call, and begin anew."""
        found, self.now = self.now, Taken()
        return found

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Count nothing meanwhile."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def waited(self, why: str) -> None:
        """Note that the host waits until the device has finished everything queued."""
        if not self._quiet:
            self.now.waits[f"{why} at {_where()}"] += 1
        self.arrive(self._told)

    def fault(self, what: str) -> None:
        self.now.faults.append(f"{what} at {_where()}")

    def arrive(self, number: int) -> None:
        """Carry out all copies up to a number."""
        ready = [each for each in self._pending if each[0] <= number]
        self._pending = [each for each in self._pending if each[0] > number]
        with self.quiet(), torch._C.DisableTorchFunction():
            for _, do in ready:
                do()

    def copied(
        self,
        to: torch.Tensor,
        source: torch.Tensor,
        places: tuple[torch.device, torch.device],
        *,
        asks: bool,
    ) -> None:
        """Note a copy between host and device whose numbers are already in `to`.

        Args:
            to: Where the numbers go.
            source: Where they come from.
            places: Where both claim to be.
            asks: Whether the caller wants not to wait for it.
        """
        onto, out_of = places
        if onto == out_of or self._quiet:
            return
        if onto.type == out_of.type == "cuda":
            self.now.ops["copy between devices"] += 1
            return
        direction, host = ("h2d", source) if onto.type == "cuda" else ("d2h", to)
        kind = "pinned" if self.is_pinned(host) else "pageable"
        is_async = asks and kind == "pinned"
        key = direction, kind, "async" if is_async else "blocking"
        self.now.copies[key] += 1
        self.now.copied_bytes[key] += to.numel() * to.element_size()
        if not is_async:
            self.arrive(self._told)
            return
        self._told += 1
        if direction == "h2d":
            before, where = host.detach().clone(), _where()

            def check() -> None:
                if not torch.equal(
                    before.reshape(-1).view(torch.uint8),
                    host.detach().contiguous().reshape(-1).view(torch.uint8),
                ):
                    self.now.faults.append(f"host memory changed while a copy read it, of {where}")

            self._pending.append((self._told, check))
            return
        true, bare = to.detach().clone(), to.detach()
        bare.reshape(-1).view(torch.uint8).fill_(0xAB) if bare.is_contiguous() else bare.zero_()
        self._pending.append((self._told, lambda: bare.copy_(true)))

    # Coming and going

    def __enter__(self) -> Self:
        for target, value in self._stubs().items():
            self._stack.enter_context(mock.patch.object(torch.cuda, target, value, create=True))
        self._stack.enter_context(_Dispatch(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self.arrive(self._told)
        self._stack.close()

    def _stubs(self) -> dict[str, Any]:  # noqa: C901
        pretence = self

        class Event:
            def __init__(self, *args: Any, **options: Any) -> None:
                self._at = -1

            def record(self, stream: Any = None) -> None:
                pretence.now.events += 1
                self._at = pretence._told

            def synchronize(self) -> None:
                if pretence.broken is not None:
                    raise pretence.broken
                # The loop's own wait, one step behind: it is counted apart from hidden ones.
                pretence.arrive(self._at)

            def query(self) -> bool:
                return all(number > self._at for number, _ in pretence._pending)

            def wait(self, stream: Any = None) -> None:
                pass

            def elapsed_time(self, other: Any) -> float:
                return 1.0

        class Stream:
            def __init__(self, device: Any = None, **options: Any) -> None:
                self.device = device

            def wait_stream(self, other: Any) -> None: ...
            def wait_event(self, event: Any) -> None: ...
            def record_event(self, event: Any = None) -> Any:
                event = event or Event()
                event.record(self)
                return event

            def synchronize(self) -> None:
                pretence.waited("stream.synchronize")

        class Runtime:
            def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
                pretence._registered[int(address)] = int(size)
                if pretence.current not in pretence.contexts:
                    pretence.contexts.append(pretence.current)
                return 0

            def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
                pretence._registered.pop(int(address), None)
                return 0

        def set_device(device: Any) -> None:
            pretence.current = (
                torch.device(device).index or 0 if not isinstance(device, int) else device
            )
            pretence.contexts.append(pretence.current)

        properties = mock.Mock(
            total_memory=self.memory_bytes[0], major=9, minor=0, multi_processor_count=132
        )
        properties.name = "Pretended GPU"
        return {
            "Event": Event,
            "Stream": Stream,
            "cudart": Runtime,
            "check_error": lambda code: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": set_device,
            "current_stream": lambda device=None: Stream(device),
            "default_stream": lambda device=None: Stream(device),
            "stream": lambda stream: contextlib.nullcontext(),
            "synchronize": lambda device=None: self.waited("torch.cuda.synchronize"),
            "mem_get_info": lambda device=None: (self.memory_bytes[1], self.memory_bytes[0]),
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_name": lambda device=None: "Pretended GPU",
            "get_device_properties": lambda device=None: properties,
            "empty_cache": lambda: None,
            "ipc_collect": lambda: None,
            "memory_allocated": lambda device=None: 0,
            "memory_reserved": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "is_bf16_supported": lambda *a, **k: True,
        }


def _where() -> str:
    """Return the innermost line of the program that is neither torch's nor this file's."""
    for frame in reversed(traceback.extract_stack()):
        if not any(each in frame.filename for each in _OURS):
            name = frame.filename.replace("\\", "/")
            for root in ("/site-packages/", "/src/"):
                name = name.rpartition(root)[2]
            return f"{name}:{frame.lineno}"
    return "?"


class _Functions(TorchFunctionMode):
    """Answers Python questions about devices, and copies between them."""

    def __init__(self, pretence: PretendCuda) -> None:
        super().__init__()
        self.it = pretence

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: C901
        kwargs, it = dict(kwargs or {}), self.it
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._asked(func, args)
        if name in _TENSOR and args and isinstance(args[0], torch.Tensor):
            return getattr(self, f"_{name}")(func, *args, **kwargs)
        if name == "_parse_to":  # of `Module.to`: it only sorts arguments
            return func(*args, **kwargs)
        device = it.device(kwargs["device"]) if "device" in kwargs else None
        if device is not None:
            kwargs["device"] = "cpu"
        elif (
            "device" not in kwargs
            and name in _FACTORIES
            and torch.get_default_device().type == "cuda"
        ):
            device = it.device(torch.get_default_device())
        wants_pinned = kwargs.pop("pin_memory", False)
        if name.endswith("_like") and device is None and args:
            device = it.place(args[0])
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            if device is not None:
                if name in ("tensor", "as_tensor", "asarray"):
                    host = found
                    with it.quiet():
                        found = found.clone()
                    it.mark(found, device)
                    it.copied(found, host, (device, CPU), asks=False)
                elif not it._quiet:
                    it.now.ops[f"aten::{name}"] += 1
                it.mark(found, device)
            if wants_pinned:
                it.pinned(found)
        return found

    def _asked(self, func: Any, args: Any) -> Any:
        asked = getattr(func.__self__, "__name__", "")
        if asked == "device":
            return self.it.place(args[0])
        if asked == "is_cuda":
            return self.it.place(args[0]).type == "cuda"
        if asked == "is_cpu":
            return self.it.place(args[0]).type == "cpu" and func(*args)
        return func(*args)

    # Methods of tensors

    def _moved(
        self,
        tensor: torch.Tensor,
        device: torch.device,
        dtype: torch.dtype | None,
        *,
        asks: bool = False,
        copy: bool = False,
        memory_format: Any = None,
    ) -> torch.Tensor:
        it, was = self.it, self.it.place(tensor)
        more = {} if memory_format is None else {"memory_format": memory_format}
        if device.type not in ("cpu", "cuda") or was.type not in ("cpu", "cuda"):
            return tensor.to(device, dtype, **more)
        if was == device:
            return tensor.to(dtype=dtype or tensor.dtype, copy=copy, **more)
        # As torch: what goes to the device is cast there, what leaves it is cast before it does.
        with it.quiet():
            found = tensor.to(dtype=dtype or tensor.dtype, copy=True, **more)
        it.mark(found, device)
        if asks and device.type == "cpu":
            it.pinned(found)  # torch pins the memory of such a copy itself
        source = tensor
        if dtype not in (None, tensor.dtype):
            if not it._quiet:
                it.now.ops["aten::_to_copy"] += 1
            if device.type == "cuda":
                with it.quiet():  # what crosses has the source's type
                    crossing = tensor.clone()
                it.copied(crossing, source, (device, was), asks=asks)
                return found
        it.copied(found, source, (device, was), asks=asks)
        return found

    def _to(self, func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        it = self.it
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        other, rest = kwargs.pop("other", None), []
        for each in args:
            if isinstance(each, torch.Tensor):
                other = each
            elif isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, bool):
                rest.append(each)
            elif each is not None:
                device = each
        if other is not None:
            device, dtype = it.place(other), other.dtype
        asks = kwargs.pop("non_blocking", rest[0] if rest else False)
        copy = kwargs.pop("copy", rest[1] if len(rest) > 1 else False)
        target = it.place(tensor) if device is None else (it.device(device) or torch.device(device))
        return self._moved(tensor, target, dtype, asks=asks, copy=copy, **kwargs)

    def _cuda(
        self,
        func: Any,
        tensor: torch.Tensor,
        device: Any = None,
        non_blocking: bool = False,
        **k: Any,
    ) -> torch.Tensor:
        target = self.it.device("cuda" if device is None else device)
        assert target is not None
        return self._moved(tensor, target, None, asks=non_blocking)

    def _cpu(self, func: Any, tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self._moved(tensor, CPU, None)

    def _type_as(self, func: Any, tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self._moved(tensor, self.it.place(other), other.dtype)

    def _numpy(self, func: Any, tensor: torch.Tensor, **kwargs: Any) -> Any:
        if self.it.place(tensor).type == "cuda":
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return func(tensor, **kwargs)

    def _pin_memory(self, func: Any, tensor: torch.Tensor, *args: Any) -> torch.Tensor:
        it = self.it
        if it.place(tensor).type == "cuda":
            raise RuntimeError(
                "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
            )
        if it.is_pinned(tensor):
            return tensor
        with it.quiet():
            return it.pinned(tensor.clone())

    def _is_pinned(self, func: Any, tensor: torch.Tensor, *args: Any) -> bool:
        return self.it.is_pinned(tensor)

    def _get_device(self, func: Any, tensor: torch.Tensor) -> int:
        place = self.it.place(tensor)
        return place.index if place.type == "cuda" else -1

    def _tolist(self, func: Any, tensor: torch.Tensor) -> Any:
        if self.it.place(tensor).type == "cuda":
            self.it.waited("tolist")
            with self.it.quiet():
                return func(tensor)
        return func(tensor)

    def _record_stream(self, func: Any, tensor: torch.Tensor, stream: Any) -> None: ...


_TENSOR = {
    "to",
    "cuda",
    "cpu",
    "type_as",
    "numpy",
    "pin_memory",
    "is_pinned",
    "get_device",
    "tolist",
    "record_stream",
}
_FACTORIES = {
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "linspace",
    "rand",
    "randn",
    "randint",
    "tensor",
    "eye",
    "logspace",
    "as_tensor",
}


class _Dispatch(TorchDispatchMode):
    """Counts operations, propagates marks, and refuses mixed devices."""

    def __init__(self, pretence: PretendCuda) -> None:
        super().__init__()
        self.it = pretence

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        it, name = self.it, func._schema.name
        seen: list[torch.Tensor] = []
        tree_map_only(torch.Tensor, lambda t: seen.append(t), (args, kwargs))
        places = [it.place(tensor) for tensor in seen]
        cuda = next((place for place in places if place.type == "cuda"), None)
        if cuda is None:
            return func(*args, **kwargs)
        if it.before is not None:
            it.before(name, seen)
        if it.broken is not None:
            raise it.broken
        self._check(name, seen, places)
        if name in WAITS:
            it.waited(name.removeprefix("aten::"))
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            self._check_indices(args[1], name)
        found = func(*args, **kwargs)
        if name == "aten::copy_" and places[0] != places[1]:
            asks = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            it.copied(args[0], args[1], (places[0], places[1]), asks=asks)
            return found
        if name == "aten::_local_scalar_dense":
            return found
        tree_map_only(torch.Tensor, lambda t: it.mark(t, cuda), found)
        if not it._quiet:
            if func.is_view or name in ("aten::detach", "aten::alias", "aten::_reshape_alias"):
                it.now.views += 1
            else:
                it.now.ops[name] += 1
        return found

    def _check(self, name: str, seen: list[torch.Tensor], places: list[torch.device]) -> None:
        if name in MIXES or self.it._quiet:
            return
        devices = {str(p) for t, p in zip(seen, places, strict=True) if t.dim() or p.type == "cuda"}
        if len(devices) > 1:
            text = (
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(devices, reverse=True))}! ({name})"
            )
            if self.it.strict:
                raise RuntimeError(text)
            self.it.fault(text)

    def _check_indices(self, indices: Any, name: str) -> None:
        for index in indices:
            if index is None:
                continue
            if index.dtype in (torch.bool, torch.uint8):
                self.it.waited(f"{name.removeprefix('aten::')} by a mask")
            elif self.it.place(index).type == "cpu":
                self.it.waited(f"{name.removeprefix('aten::')} by numbers of the host")
