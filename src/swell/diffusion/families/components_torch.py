"""The parts of a model, read from a folder as diffusers saves it, and moved as one.

Networks of diffusers are made without weights and filled from their safetensors files by Swell's
own reading; text encoders and tokenizers are read by transformers, from the folder alone.
"""

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import diffusers
import PIL.Image
import torch
import transformers
from torch import Tensor, nn

from swell.core.errors import InvalidModel
from swell.core.startup_phases import found_compiled
from swell.diffusion.families.adapters import Adapter
from swell.diffusion.families.model_definition import INSTALL, Described
from swell.diffusion.families.offload_plan import (
    DRAWS,
    Placement,
    group_of,
    part_bytes,
    place,
    working,
)
from swell.diffusion.families.pipeline_folder import LIBRARIES, used_parts
from swell.diffusion.torch_arrays import OUT_OF_MEMORY, inference, to_device
from swell.weights.compile_cache import workers_cache
from swell.weights.torch_compiled import TorchCompiled
from swell.weights.torch_tensors import TorchHostCopy, load_torch

#: A U-Net's block that is in no list of blocks.
_ALONE: Final = "mid_block"


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers of a network, by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace the data of a network's tensors; its parameters stay the same objects."""
    for name, value in tensors_of(module).items():
        value.data = tensors[name]


class OffloadHook:
    """Moves a network, or a block of one, between host and device.

    Args:
        module: The network; its weights move into one block of host memory.
        device: The device that computes.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.is_here = False
        self._device = str(device)
        self._home = TorchHostCopy.of(
            {name: value.data for name, value in tensors_of(module).items()}
        )
        self.leave()

    @property
    def size_bytes(self) -> int:
        """Size of the weights."""
        return int(self._home.size_bytes)

    def come(self) -> None:
        """Load the weights."""
        if not self.is_here:
            put(self.module, self._home.swap_in(self._device))
            self.is_here = True

    def leave(self) -> None:
        """Offload the weights."""
        put(self.module, self._home.on(torch.from_numpy(self._home.block)))
        self.is_here = False


def blocks_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks that a network runs through, one after another, by name."""
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            for number, block in enumerate(child):
                yield f"{name}.{number}", block
        elif name == _ALONE:
            yield name, child


def come_block_by_block(network: nn.Module, device: torch.device) -> dict[str, OffloadHook]:
    """Load each block of a network for its part of a step; other weights stay on the device.

    Args:
        network: The network.
        device: The device that computes.

    Returns:
        The blocks, by name.
    """
    found = {name: OffloadHook(block, device) for name, block in blocks_of(network)}
    for visitor in found.values():
        visitor.module.register_forward_pre_hook(_coming(visitor))
        # Also where the block fails, so that its weights are at home again.
        visitor.module.register_forward_hook(_leaving(visitor), always_call=True)
    inside = {id(value) for each in found.values() for value in tensors_of(each.module).values()}
    for value in tensors_of(network).values():
        if id(value) not in inside:
            value.data = value.data.to(device)
    return found


def _coming(visitor: OffloadHook) -> Any:
    def hook(module: nn.Module, inputs: Any) -> None:
        visitor.come()

    return hook


def _leaving(visitor: OffloadHook) -> Any:
    def hook(module: nn.Module, inputs: Any, found: Any) -> None:
        visitor.leave()

    return hook


#: Of CLIP's image towers, when a folder says nothing.
_SIGHT_PX: Final = 224

#: What libraries raise over settings that do not fit their weights, or mean nothing.
DAMAGED: Final[tuple[type[Exception], ...]] = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    # Raised by huggingface_hub, which diffusers and transformers use.
    importlib.import_module("huggingface_hub.errors").StrictDataclassError,
)

#: Graphs of one block that a process may compile. The models of a process share the limit, and
#: SD 3.5 Medium alone needs torch's default of 8: four kinds of blocks, for one row and for more.
_VARIANTS: Final = 32

#: Lowest compute capability with arithmetic in float8.
_FP8: Final = (8, 9)


class Scales:
    """How much the reference picture counts in each row of a step. Shapes: rows (B,)."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None

    def weigh(self, layer: nn.Module, inputs: Any, found: Tensor) -> Tensor:
        """Return a layer's result as it counts: of values, so that attention's result does."""
        if self.rows is None:
            return found
        return found * self.rows.to(found).reshape(-1, *(1,) * (found.ndim - 1))


class Parts:
    """The networks, tokenizers and processors of one model.

    Args:
        described: The entry and the settings of the model.
        device: The device that computes.
        dtype: The type of the network.
        modules: By the names of `model_index.json`.
        others: Tokenizers and the like.
    """

    def __init__(
        self,
        described: Described,
        device: torch.device,
        dtype: torch.dtype,
        modules: dict[str, nn.Module],
        others: Mapping[str, Any],
    ) -> None:
        self.described = described
        self.device = device
        self.dtype = dtype
        self.modules = modules
        self.others = others
        self.scales = Scales()
        self.placement = Placement("never")
        #: Input of the network without a reference picture. Shapes: (1, D) or (1, tokens, D).
        self.nothing: Tensor | None = None
        self._visitors: dict[str, OffloadHook] = {}
        self._blocks: dict[str, OffloadHook] = {}
        self._copies: dict[str, TorchHostCopy] = {}
        self._compiled: TorchCompiled | None = None

    @property
    def network(self) -> Any:
        """The U-Net or transformer, on the device."""
        return self.get(self.described.facts.family.network)

    @property
    def vae(self) -> Any:
        """The autoencoder, on the device."""
        return self.get("vae")

    def get(self, name: str) -> Any:
        """Return a network, on the device; None where the folder has none of that name."""
        visitor = self._visitors.get(name)
        if visitor is not None and not visitor.is_here:
            self._welcome(name, visitor)
        return self.modules.get(name)

    # Offloading

    def settle(self, placement: Placement) -> None:
        """Apply a placement after all parts were read."""
        self.placement = placement
        for name in placement.at_home & self.modules.keys():
            self._visitors[name] = OffloadHook(self.modules[name], self.device)
        if placement.by_blocks:
            network = self.modules[self.described.facts.family.network]
            self._blocks = come_block_by_block(network, self.device)

    def _group(self, name: str) -> str:
        return group_of(name, self.described.facts.family.network)

    def _welcome(self, name: str, visitor: OffloadHook) -> None:
        """Load a part, and offload the parts that the placement does not keep with it."""
        group, apart = self._group(name), self.placement.apart
        for other, seen in self._visitors.items():
            its = self._group(other)
            is_in_the_way = its != group and (its != DRAWS or group in apart)
            if seen.is_here and is_in_the_way:
                seen.leave()
        visitor.come()

    def rest(self) -> None:
        """Offload the parts of a finished stage; the network stays until its memory is needed."""
        for name, visitor in self._visitors.items():
            if visitor.is_here and self._group(name) != DRAWS:
                visitor.leave()

    def go_home(self) -> None:
        """Offload all loaded parts, so that their weights can change."""
        for visitor in self._visitors.values():
            if visitor.is_here:
                visitor.leave()

    @property
    def size_bytes(self) -> int:
        """Peak size of the weights on the device."""
        groups: dict[str, int] = {}
        for name, visitor in self._visitors.items():
            group = self._group(name)
            groups[group] = groups.get(group, 0) + visitor.size_bytes
        drawing, apart = groups.pop(DRAWS, 0), self.placement.apart
        beside = max((size for group, size in groups.items() if group not in apart), default=0)
        without = max((size for group, size in groups.items() if group in apart), default=0)
        block = max((each.size_bytes for each in self._blocks.values()), default=0)
        staying = sum(
            value.nbytes for inside in self._staying().values() for value in inside.values()
        )
        return int(staying) + max(drawing + block + beside, without)

    def _staying(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors that are always on the device, by part and name."""
        away = {
            id(value)
            for each in self._blocks.values()
            for value in tensors_of(each.module).values()
        }
        return {
            name: {
                inner: value for inner, value in tensors_of(module).items() if id(value) not in away
            }
            for name, module in self.modules.items()
            if name not in self._visitors
        }

    def ids(self, name: str, prompt: str | None, length: int | None = None) -> Tensor:
        """Return a prompt's tokens, padded to the tokenizer's length or `length`. Shape: (1, n)."""
        tokenizer = self.others[name]
        found = tokenizer(
            prompt or "",
            padding="max_length",
            max_length=length or tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return to_device(found.input_ids, self.device)

    def clip(self, name: str, prompt: str | None) -> tuple[Tensor, Tensor]:
        """Return a CLIP text encoder's penultimate states and its first output, the pooled state.

        Shapes: (77, D), (D,).
        """
        ids = self.ids(name.replace("text_encoder", "tokenizer"), prompt)
        found: Any = self.get(name)(ids, output_hidden_states=True)
        return found.hidden_states[-2][0], found[0][0]

    # Host and device

    def offload(self) -> int:
        """Move to host memory; return the bytes that this takes there."""
        self.go_home()
        at_home = sum(
            each.size_bytes for each in (*self._visitors.values(), *self._blocks.values())
        )
        if self.described.entry.quantize:
            # Such weights are no plain tensors.
            return at_home + self._move("cpu")
        for name, inside in self._staying().items():
            if name not in self._copies:
                self._copies[name] = TorchHostCopy.of(
                    {inner: value.data for inner, value in inside.items()}
                )
            copy = self._copies[name]
            self._place(inside, copy.on(torch.from_numpy(copy.block)))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return at_home + sum(copy.size_bytes for copy in self._copies.values())

    def onload(self) -> None:
        """Move back to the device."""
        if self.described.entry.quantize:
            self._move(str(self.device))
            return
        for name, inside in self._staying().items():
            self._place(inside, self._copies[name].swap_in(str(self.device)))

    def _move(self, device: str) -> int:
        staying = self._staying()
        for name in staying:
            self.modules[name].to(device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return sum(value.nbytes for inside in staying.values() for value in inside.values())

    @staticmethod
    def _place(inside: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        for inner, value in inside.items():
            value.data = tensors[inner]

    # Speed

    def compile(self) -> None:
        """Compile the network's repeated blocks, once for all that are alike."""
        is_whole = not (self._blocks or self.described.entry.ip_adapter)
        if not (is_whole and self._repeated_blocks()):
            sys.stderr.write(
                f"{self.described.entry.name}: not compiled, since it has a reference adapter, "
                "offloaded blocks or no repeated blocks\n"
            )
            return
        entry, home = self.described.entry, self.described.home
        digests = [content.sha256 for content in entry.weights.values()]
        self._compiled = TorchCompiled(
            workers_cache(home / "compiled"), digests, diffusers.__version__, str(self.device)
        )
        if self._compiled.restore():
            found_compiled()
        self._compile_blocks()

    def _repeated_blocks(self) -> list[str]:
        """Return the classes of the network's blocks; each class is compiled once."""
        network: Any = self.modules[self.described.facts.family.network]
        return list(network._repeated_blocks or self.described.facts.family.blocks)

    def _compile_blocks(self) -> None:
        torch._dynamo.config.recompile_limit = max(_VARIANTS, torch._dynamo.config.recompile_limit)
        blocks = self._repeated_blocks()
        for module in self.modules[self.described.facts.family.network].modules():
            if type(module).__name__ in blocks:
                module.compile(fullgraph=True, dynamic=True)

    @property
    def is_compiled(self) -> bool:
        """Whether the first call of a block compiles it."""
        return self._compiled is not None

    def compile_anew(self) -> bool:
        """Compile without the cached programs; return False if there were none."""
        if self._compiled is None or not self._compiled.give_up():
            return False
        self._compile_blocks()
        return True

    def leave_uncompiled(self) -> None:
        """Call the blocks as they are."""
        self._compiled = None
        for module in self.modules[self.described.facts.family.network].modules():
            module._compiled_call_impl = None

    def quantize(self) -> None:
        """Have linear layers of the network compute in float8, on a GPU that can.

        Raises:
            InvalidModel: This device cannot, or torchao is not installed.
        """
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) < _FP8:
            raise InvalidModel("fp8 needs a GPU with arithmetic in float8, such as an H100 or L4")
        try:
            quantization = importlib.import_module("torchao.quantization")
        except ModuleNotFoundError as error:
            raise InvalidModel(
                f"fp8 needs {error.name}: install it with pip install torchao"
            ) from error
        quantization.quantize_(
            self.modules[self.described.facts.family.network],
            quantization.Float8DynamicActivationFloat8WeightConfig(),
        )

    # Reference pictures

    @inference
    def see(self, picture: Any, is_heard: bool) -> Tensor:
        """Return the embedding of a reference picture, or an empty one if `is_heard` is False."""
        encoder: Any = self.get("image_encoder")
        pixels = self.others["feature_extractor"](picture, return_tensors="pt").pixel_values
        pixels = to_device(pixels, self.device).to(next(encoder.parameters()).dtype)
        adapter = self.described.adapter
        assert adapter is not None, "pictures go in through one"
        if not adapter.hears_states:
            embeds: Tensor = encoder(pixels).image_embeds
            return embeds if is_heard else torch.zeros_like(embeds)
        shown = pixels if is_heard else torch.zeros_like(pixels)
        states: Tensor = encoder(shown, output_hidden_states=True).hidden_states[-2]
        return states


# --- reading -------------------------------------------------------------------------------------


def read_parts(
    described: Described, device: str, half: str, room_bytes: int | None = None
) -> Parts:
    """Read all parts of a model, each to its place.

    Args:
        described: The entry and the settings of the model.
        device: The name of the device in torch.
        half: The default type on a GPU.
        room_bytes: Free memory of the device; None on the CPU.

    Raises:
        InvalidModel: A part is missing, or cannot be read.
    """
    place_of = torch.device(device)
    told = described.entry.dtype
    kind = (half if place_of.type == "cuda" else "float32") if told == "auto" else told
    dtype: torch.dtype = getattr(torch, kind)
    facts = described.facts
    placement = place(
        described.entry.offload,
        _sizes(described, dtype),
        facts.family.network,
        room_bytes=room_bytes,
        needed_bytes=working(
            facts.side_px,
            facts.vae,
            _vae_type(described, dtype).itemsize,
            facts.family.row_gib,
            described.entry.bucket,
        ),
        is_fixed=bool(described.entry.quantize),
    )
    away = placement.at_home | ({facts.family.network} if placement.by_blocks else set())
    host = torch.device("cpu")
    modules: dict[str, nn.Module] = {}
    others: dict[str, Any] = {}
    for name, (library, class_name) in _read_parts(described).items():
        placed = (dtype, host if name in away else place_of)
        made = _read(described.folder / name, library, class_name, name, placed)
        (modules if isinstance(made, nn.Module) else others)[name] = made
    if described.net is not None:
        where = host if "controlnet" in away else place_of
        modules["controlnet"] = _read_net(described, modules, dtype, where)
    modules["vae"].to(_vae_type(described, dtype))
    parts = Parts(described, place_of, dtype, modules, others)
    if described.adapter is not None:
        _add_reference(parts, others, described.adapter, away)
    for module in modules.values():
        module.eval().requires_grad_(False)
    parts.settle(placement)
    if described.adapter is not None:
        black = PIL.Image.new("RGB", (_SIGHT_PX, _SIGHT_PX))
        parts.nothing = parts.see(black, is_heard=False)
        parts.rest()
    return parts


def _vae_type(described: Described, dtype: torch.dtype) -> torch.dtype:
    """Return the type of the autoencoder: some overflow in float16."""
    default = described.facts.family.upcasts_vae
    is_upcast = dtype == torch.float16 and described.facts.vae.get("force_upcast", default)
    return torch.float32 if is_upcast else dtype


def _sizes(described: Described, dtype: torch.dtype) -> dict[str, int]:
    """Return the size of each part in bytes, from the headers of its files."""
    folders = {name: described.folder / name for name in _read_parts(described)}
    if described.adapter is not None:
        folders["image_encoder"] = described.adapter.encoder
    if described.net is not None:
        folders["controlnet"] = described.net.folder
    types = {"vae": _vae_type(described, dtype)}
    sizes = {
        name: part_bytes(_weights_in(folder, dtype), types.get(name, dtype).itemsize)
        for name, folder in folders.items()
    }
    if described.adapter is not None:
        path = Path(described.entry.ip_adapter)
        sizes[described.facts.family.network] += part_bytes([path], dtype.itemsize)
    return {name: size_bytes for name, size_bytes in sizes.items() if size_bytes}


def _weights_in(folder: Path, dtype: torch.dtype) -> list[Path]:
    """Return the files of one precision: half for float16 and full for others, if both exist."""
    files = sorted(folder.glob("*.safetensors"))
    half = [path for path in files if ".fp16" in path.name]
    whole = [path for path in files if path not in half and "non_ema" not in path.name]
    return (dtype == torch.float16 and half) or whole or files


def _read_parts(described: Described) -> dict[str, tuple[str, str]]:
    """Return library and class of each part that is read, by its name."""
    # A scheduler is a solver here, and a control net is read by its own name.
    return {
        name: told
        for name, told in used_parts(described.facts.index).items()
        if name not in ("scheduler", "controlnet")
    }


#: Allowed base classes of parts. Pipelines and `Auto` classes are not among them.
_KINDS: Final = (
    diffusers.ModelMixin,
    diffusers.SchedulerMixin,
    transformers.PreTrainedModel,
    transformers.PreTrainedTokenizerBase,
    transformers.ImageProcessingMixin,
    transformers.FeatureExtractionMixin,
    transformers.ProcessorMixin,
)


#: Classes that libraries have renamed, which old folders still name.
_RENAMED: Final = {"CLIPFeatureExtractor": "CLIPImageProcessor"}


def is_part(kind: Any) -> bool:
    """Whether a class is one of diffusers or transformers that a part may have."""
    is_theirs = getattr(kind, "__module__", "").partition(".")[0] in LIBRARIES
    return isinstance(kind, type) and issubclass(kind, _KINDS) and is_theirs


def class_of(name: str, library: str, kind: str) -> Any:
    """Return the class that reads a part.

    Args:
        name: The part's.
        library: `diffusers` or `transformers`, or one of diffusers' own pipelines.
        kind: The class's name there.

    Raises:
        InvalidModel: It is of another library, or not there, or none of what a part may be.
    """
    if library in LIBRARIES:
        place: Any = diffusers if library == "diffusers" else transformers
    elif library in dir(diffusers.pipelines):
        place = getattr(diffusers.pipelines, library)
    else:
        raise InvalidModel(
            f"{name} is a {kind} of {library}: only parts of diffusers and transformers are read"
        )
    found = getattr(place, kind, None) or getattr(place, _RENAMED.get(kind, ""), None)
    if found is None:
        raise InvalidModel(f"{name}: this {library} has no {kind}; a newer one may")
    needed = [each for each in getattr(found, "_backends", ()) if find_spec(each) is None]
    if needed:
        raise InvalidModel(
            f"{name} is a {kind}, which {library} makes of {' and '.join(needed)}: install that "
            "with pip too"
        )
    if not is_part(found):
        raise InvalidModel(
            f"{name} is a {kind} of {library}, which is no network, tokenizer, processor or "
            "scheduler: nothing else is read"
        )
    return found


def _read(
    folder: Path, library: str, kind: str, name: str, placed: tuple[torch.dtype, torch.device]
) -> Any:
    found = class_of(name, library, kind)
    dtype, device = placed
    try:
        if issubclass(found, diffusers.ModelMixin):
            return read_network(found, folder, dtype, device)
        if issubclass(found, nn.Module):
            return found.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=dtype,
                **precision(folder),
            ).to(device)
        return found.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise InvalidModel(f"{name} needs {error.name or error}: {INSTALL}") from error
    except OUT_OF_MEMORY:
        raise
    except DAMAGED as error:
        raise InvalidModel(f"{name}/ cannot be read: {error or type(error).__name__}") from error


def precision(folder: Path) -> dict[str, str]:
    """Return what to tell a library of weights that are there in half precision alone."""
    names = [path.name for path in folder.glob("*.safetensors")]
    is_half = bool(names) and all(".fp16" in name for name in names)
    return dict.fromkeys(["variant"], "fp16") if is_half else {}


def read_network(kind: Any, folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Read a network of diffusers; no weight is made only to be replaced.

    Raises:
        InvalidModel: Its file of settings is missing.
    """
    if not (folder / "config.json").is_file():
        raise InvalidModel(
            f"{folder.name}/ has no config.json: give a folder as diffusers saves it"
        )
    tensors: dict[str, Tensor] = {}
    for path in _weights_in(folder, dtype):
        found = load_torch(path, str(device))
        tensors |= {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in found.items()
        }
    with contextlib.suppress(NotImplementedError), torch.device("meta"):
        network: nn.Module = kind.from_config(kind.load_config(folder, local_files_only=True))
        told = network.load_state_dict(tensors, strict=False, assign=True)
        left = [*network.parameters(), *network.buffers()]
        if not (told.missing_keys or told.unexpected_keys or any(each.is_meta for each in left)):
            return network
    # Files from before names changed, which diffusers knows how to turn.
    read: nn.Module = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, **precision(folder)
    )
    return read.to(device)


def _read_net(
    described: Described, modules: Mapping[str, nn.Module], dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Read a model's control net.

    Args:
        described: The entry and the settings of the model.
        modules: Its other networks.
        dtype: The type of the net.
        device: The device of its weights.

    Raises:
        InvalidModel: It cannot be read.
    """
    net, family = described.net, described.facts.family
    assert net is not None, "there is one"
    made: Any = _read(net.folder, "diffusers", family.control, net.folder.name, (dtype, device))
    if net.borrows_places:
        borrowed = made._get_pos_embed_from_transformer(modules[family.network])
        made.pos_embed = borrowed.to(device=device, dtype=dtype)
    found: nn.Module = made
    return found


def _add_reference(
    parts: Parts, others: dict[str, Any], adapter: Adapter, away: Collection[str]
) -> None:
    """Add a picture adapter (Ye et al., "IP-Adapter", arXiv 2308.06721) to the network."""
    path = Path(parts.described.entry.ip_adapter)
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in load_torch(path).items():
        group, _, inner = name.partition(".")
        state[group][inner] = value
    if adapter.encoder.parent != parts.described.folder:
        kind = "CLIPVisionModelWithProjection"
        host = torch.device("cpu")
        placed = (parts.dtype, host if "image_encoder" in away else parts.device)
        parts.modules["image_encoder"] = _read(
            adapter.encoder, "transformers", kind, "image_encoder", placed
        )
    name = parts.described.facts.family.network
    network: Any = parts.modules[name]
    encoder: Any = parts.modules["image_encoder"]
    network._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    network.to(device="cpu" if name in away else parts.device, dtype=parts.dtype)
    if others.get("feature_extractor") is None:
        side: int = getattr(encoder.config, "image_size", _SIGHT_PX)
        others["feature_extractor"] = transformers.CLIPImageProcessor(size=side, crop_size=side)
    for processor in network.attn_processors.values():
        for layer in getattr(processor, "to_v_ip", ()):
            layer.register_forward_hook(parts.scales.weigh)
