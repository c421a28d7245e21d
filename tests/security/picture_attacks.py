"""Pictures, sounds and LoRAs that are not what they say, or more than they say."""

import base64
import contextlib
import io
import json
import pickle
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from attacks import Attack
from target import Refused, Target

DECODED = "it is decoded, or the model process dies"
OPENED = "a format that is not of the five is opened"
RAN = "the program in the file runs, or the file is taken for a LoRA"


def picture_attacks() -> Iterator[Attack]:
    """Yield them."""
    for name, data in bombs().items():
        yield Attack("pictures", name, DECODED, partial(_not_seen, data=data))
    for name, data in foreign().items():
        yield Attack("pictures", name, OPENED, partial(_not_seen, data=data))
    for name, data in broken().items():
        yield Attack("pictures", name, "the model process dies", partial(_survived, data=data))
    many = "more files are read than one task may name"
    yield Attack("pictures", "500 pictures in one task", many, _many)
    for name, data in sounds().items():
        yield Attack("sounds", name, "the model process dies", partial(_heard, data=data))


def lora_attacks() -> Iterator[Attack]:
    """Yield files that are no LoRAs."""
    for name, make in LORAS.items():
        yield Attack("weights", f"as a LoRA: {name}", RAN, partial(_lora, make=make))
    for named in ("../../etc/passwd", "..", "sha256:" + "0" * 64, "/etc/passwd", "a/b/../../c"):
        yield Attack("weights", f"a LoRA called {named[:30]}", RAN, partial(_lora_by, named=named))


# --- pictures ------------------------------------------------------------------------------------


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """Return a PNG with this head, these chunks and this data, whatever fits."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def bombs() -> dict[str, bytes]:
    """Return small files that stand for more than the memory holds."""
    text = zlib.compress(bytes(200 << 20), 9)
    jpeg = encoded("JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    webp = encoded("WEBP")
    gif = encoded("GIF")
    return {
        "a PNG of 60,000 x 60,000": png(60_000, 60_000, data=bytes(1 << 16)),
        "a PNG of 2^31-1 px": png(2**31 - 1, 2**31 - 1),
        "a PNG with 200 MB of text": png(8, 8, (b"zTXt", b"a\0\0" + text), data=bytes(200)),
        "a PNG with 200 MB of profile": png(8, 8, (b"iCCP", b"a\0\0" + text), data=bytes(200)),
        "a PNG with 200 MB of iTXt": png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + text), data=bytes(200)),
        "a JPEG of 65,535 x 65,535": jpeg[:at] + b"\xff\xff\xff\xff" + jpeg[at + 4 :],
        "a GIF of 65,535 x 65,535": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "a WebP of 16,383 x 16,383 that is cut off": webp[:26] + b"\xff\x3f\xff\x3f" + webp[30:],
    }


def foreign() -> dict[str, bytes]:
    """Return whole files of formats that Pillow knows and nobody should send."""
    found = {
        f"a whole {kind}": encoded(kind)
        for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "DDS", "SGI", "ICNS", "JPEG2000")
    }
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) (r) file\n%%EOF\n"
    tiff = io.BytesIO()
    frames = [PIL.Image.new("L", (8, 8)) for _ in range(50)]
    frames[0].save(tiff, "TIFF", save_all=True, append_images=frames[1:])
    return found | {
        "an EPS, which is a program": program,
        "a PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>",
        "an SVG with a script": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "an SVG that includes a file": b"<!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
        b"<svg>&x;</svg>",
        "a TIFF of 50 pages": tiff.getvalue(),
        "an XBM": b"#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {0};",
        "an HTML page": b"<html><script>alert(1)</script>",
        "a ZIP": archive(),
        "a pickle": pickle.dumps({"a": 1}),
        "nothing but zeros": bytes(4096),
    }


def broken() -> dict[str, bytes]:
    """Return files of the five formats that lie or stop short."""
    found = {}
    for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF"):
        whole = encoded(kind)
        found[f"half a {kind}"] = whole[: len(whole) // 2]
        found[f"a {kind} of which every tenth byte is wrong"] = bytes(
            each ^ 0x55 if at > 20 and at % 10 == 0 else each for at, each in enumerate(whole)
        )
        found[f"only the head of a {kind}"] = whole[:24]
    frames = [PIL.Image.new("P", (64, 64), n % 256) for n in range(300)]
    for kind in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=1)
        found[f"a {kind} of 300 frames"] = file.getvalue()
    found["a PNG without data"] = png(64, 64)
    found["a PNG with more data than it says"] = png(8, 8, data=bytes(1 << 20))
    found["a PNG of no width"] = png(0, 8)
    found["a PNG with chunks in chunks"] = png(8, 8, *[(b"tEXt", b"a\0b")] * 5000, data=bytes(200))
    found["a PNG with Exif that points at itself"] = png(
        8,
        8,
        (b"eXIf", b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"),
        data=bytes(200),
    )
    return found


def encoded(kind: str) -> bytes:
    """Return a small picture in a format."""
    file = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(file, kind)
    return file.getvalue()


def sounds() -> dict[str, bytes]:
    """Return sounds whose heads lie."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(3200))
    whole = file.getvalue()
    return {
        "a WAV of 4 GB by its head": whole[:4]
        + b"\xff" * 4
        + whole[8:40]
        + b"\xff" * 4
        + whole[44:],
        "a WAV of 65,535 channels": whole[:22] + b"\xff\xff" + whole[24:],
        "a WAV of no rate": whole[:24] + bytes(4) + whole[28:],
        "an MP4 whose box is larger than it": b"\xff\xff\xff\xffftypisom" + bytes(64),
        "an Ogg of nothing": b"OggS" + b"\xff" * 64,
    }


def _not_seen(target: Target, data: bytes) -> str:
    task = _see(target, data)
    code = (task.get("error") or task).get("code")
    return "" if code == "invalid_input" else f"{task.get('state')} {code} {task.get('output')}"


def _survived(target: Target, data: bytes) -> str:
    task = _see(target, data)
    code = (task.get("error") or task).get("code")
    is_well = task.get("state") == "succeeded" or code == "invalid_input"
    return "" if is_well else f"{task.get('state')} {task.get('error')}"[:300]


def _see(target: Target, data: bytes) -> dict[str, Any]:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    return target.run("hostile/see", {"image": uri})


def _many(target: Target) -> str:
    url = target.front.page("/one.png", body=encoded("PNG"), content_type="image/png")
    task = target.run("hostile/album", {"images": [f"{url}?{n}" for n in range(500)]})
    if target.run("hostile/album", {"images": [url] * 50}).get("output") != 50:
        raise RuntimeError("50 pictures are not read either, so that nothing is proven")
    return str(task.get("output")) if task.get("state") == "succeeded" else ""


def _heard(target: Target, data: bytes) -> str:
    uri = "data:audio/wav;base64," + base64.b64encode(data).decode()
    task = target.run("hostile/hear", {"sound": uri})
    return "" if task.get("state") == "succeeded" else str(task.get("error"))[:300]


# --- weights -------------------------------------------------------------------------------------


class Program:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.mkdir, (self.mark, 0o777, True, True)


def archive(*files: tuple[str, bytes]) -> bytes:
    """Return a ZIP."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in files or (("../../escaped", b"a"),):
            made.writestr(name, data)
    return file.getvalue()


def safetensors(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """Return a file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _tensors(**more: Any) -> dict[str, Any]:
    down = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
    up = {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]}
    return {"a.lora_down.weight": down, "a.lora_up.weight": up} | more


def _changed(**change: Any) -> bytes:
    tensors = _tensors()
    tensors["a.lora_up.weight"] = tensors["a.lora_up.weight"] | change
    return safetensors(tensors, bytes(64))


def _torch_zip(mark: Path) -> bytes:
    return archive(("archive/data.pkl", pickle.dumps(Program(mark))), ("archive/version", b"3"))


def _objects(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Program(mark)], object), allow_pickle=True)
    return file.getvalue()


_ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
_TWICE = b"{" + _ONE + b"," + _ONE + b"}"

LORAS: dict[str, Callable[[Path], bytes]] = {
    **{
        f"a pickle of protocol {n}": lambda mark, n=n: pickle.dumps(Program(mark), n)  # type: ignore[misc]
        for n in range(6)
    },
    "a torch archive": _torch_zip,
    "an array of objects": _objects,
    "a pickle behind a header": lambda mark: safetensors({}, pickle.dumps(Program(mark))),
    "a pickle in the metadata": lambda mark: safetensors(
        {"__metadata__": {"a": base64.b64encode(pickle.dumps(Program(mark))).decode()}}
    ),
    "offsets beyond the end": lambda _: _changed(data_offsets=[32, 1 << 40]),
    "offsets that overlap": lambda _: _changed(data_offsets=[0, 32]),
    "offsets backwards": lambda _: _changed(data_offsets=[64, 32]),
    "offsets below nothing": lambda _: _changed(data_offsets=[-32, 0]),
    "offsets that are fractions": lambda _: _changed(data_offsets=[32.0, 64.0]),
    "offsets that are true": lambda _: _changed(data_offsets=[False, True]),
    "a shape that overflows": lambda _: _changed(shape=[1 << 32, 1 << 32]),
    "a shape of many axes": lambda _: _changed(shape=[1] * 100_000),
    "a shape below nothing": lambda _: _changed(shape=[-4, -2]),
    "a type that is code": lambda _: _changed(dtype="__import__('os').system('a')"),
    "a name that stands twice": lambda _: safetensors(_TWICE, bytes(4)),
    "a header of 2^63 bytes": lambda _: safetensors({}, size=1 << 63),
    "a header larger than the file": lambda _: safetensors(_tensors(), bytes(64), size=1 << 20),
    "a header that is deep": lambda _: safetensors(b'{"a":' + b"[" * 200_000),
    "a header that is a list": lambda _: safetensors([1]),
    "a header with a huge number": lambda _: safetensors(b'{"a":' + b"9" * 100_000 + b"}"),
    "a header that is not UTF-8": lambda _: safetensors(b'{"\xff":1}'),
    "bytes behind the last tensor": lambda _: safetensors(_tensors(), bytes(128)),
    "no tensors": lambda _: safetensors({}),
    "names that lead elsewhere": lambda _: safetensors(
        {"../../a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "alphas by a pattern that never ends": lambda _: safetensors(
        {
            "__metadata__": {"lora_adapter_metadata": json.dumps({"alpha_pattern": {"(a+)+$": 1}})},
            "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
}


def _lora(target: Target, make: Callable[[Path], bytes]) -> str:
    mark = target.folder / "mark"
    data = make(mark)
    names = ["data:application/octet-stream;base64," + base64.b64encode(data).decode()]
    with contextlib.suppress(Refused):  # it is not even kept
        names.append(target.upload(data, "style.safetensors"))
    for named in names:
        task = target.run("hostile/style", {"lora": named})
        if mark.exists():
            mark.rmdir()
            return "the program ran"
        if task.get("state") == "succeeded":
            return f"it was taken: {task.get('output')}"
        code = (task.get("error") or task).get("code")
        if code in ("internal", "model_process_died", "error"):
            return f"it broke something: {task.get('error')}"
    return ""


def _lora_by(target: Target, named: str) -> str:
    task = target.run("hostile/style", {"lora": named})
    return str(task.get("output")) if task.get("state") == "succeeded" else ""
