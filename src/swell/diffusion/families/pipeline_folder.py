"""The parts that a folder of diffusers names, and which of them may be opened.

A folder comes from anywhere. Its `model_index.json` says where parts lie and which classes read
them, and an index of shards says which files hold a part's weights: all of that is checked before
anything is read. Pickles, code, `Auto` classes and nested pipelines are refused, because they could
run a program. Only names and settings are read.
"""

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.weights.files import open_file, read_settings
from swell.weights.formats import PICKLE_SUFFIXES, check_content

#: Letters of the name of a class; the longest of diffusers has some 60.
_LONGEST: Final = 80


def read_json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    """Return a folder's file of settings; nothing if it may be missing and is.

    Raises:
        InvalidModel: It is missing, no file, too long, or no table.
    """
    path = folder / name
    if optional and not os.path.lexists(path):
        return {}
    try:
        found = json.loads(read_settings(path))
    except FileNotFoundError:
        raise InvalidModel(f"the folder has no {name}: give one as diffusers saves it") from None
    except RecursionError:
        raise InvalidModel(f"{name} cannot be read: tables within tables without end") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{name} is no table of settings")
    return found


def number_of(
    told: Mapping[str, Any], name: str, usual: float, *, least: float, most: float, file: str
) -> float:
    """Return a number in settings.

    Args:
        told: The settings.
        name: The key.
        usual: The default.
        least: The lowest valid value.
        most: The highest valid value.
        file: The name of the file, for errors.

    Raises:
        InvalidModel: It is no number, or out of bounds.
    """
    found = told.get(name, usual)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    # NaN fails both comparisons.
    if not (is_number and least <= found <= most):
        raise _wrong(file, name, found, f"a number from {least:g} to {most:g}")
    return float(found)


def count_of(
    told: Mapping[str, Any], name: str, usual: int, *, least: int, most: int, file: str
) -> int:
    """Return a whole number in settings; see `number_of`.

    Raises:
        InvalidModel: It is no whole number, or out of bounds.
    """
    found = told.get(name, usual)
    if not (_is_whole(found) and least <= found <= most):
        raise _wrong(file, name, found, f"a whole number from {least} to {most}")
    return int(found)


def counts_of(
    told: Mapping[str, Any], name: str, *, length: int, least: int, most: int, file: str
) -> tuple[int, ...]:
    """Return whole numbers in settings, 1 to `length` of them; see `number_of`.

    Raises:
        InvalidModel: It is no such list, or one is out of bounds.
    """
    found = told.get(name)
    is_list = isinstance(found, list) and 1 <= len(found) <= length
    if not (is_list and all(_is_whole(each) and least <= each <= most for each in found or ())):
        raise _wrong(
            file, name, found, f"a list of 1 to {length} whole numbers from {least} to {most}"
        )
    return tuple(found or ())


def choice_of(
    told: Mapping[str, Any], name: str, usual: str, *, known: Sequence[str], file: str
) -> str:
    """Return a word in settings; see `number_of`.

    Raises:
        InvalidModel: It is none of those that are known.
    """
    found = told.get(name, usual)
    if not (isinstance(found, str) and found in known):
        raise _wrong(file, name, found, f"one of {', '.join(known)}")
    return found


def check_text(name: str) -> None:
    """Check that the name of a file or folder can be written down and shown.

    Raises:
        InvalidModel: It is no UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidModel(f"the name {name!r} is no UTF-8: give it another") from None


def class_in(told: Mapping[str, Any], file: str) -> str:
    """Return the name of the class in diffusers that settings say they are of; empty for none.

    Raises:
        InvalidModel: It is no name of a class.
    """
    found = told.get("_class_name", "")
    if found != "" and not is_class(found):
        raise _wrong(
            file,
            "_class_name",
            found,
            f"the name of a class, of letters, digits and _, {_LONGEST} at most",
        )
    return str(found)


def is_class(name: Any) -> bool:
    """Whether something may be the name of a class, and be shown."""
    is_short = isinstance(name, str) and len(name) <= _LONGEST
    return is_short and name.isascii() and name.isidentifier()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(file: str, name: str, found: Any, wanted: str) -> InvalidModel:
    try:
        shown = json.dumps(found)
    except ValueError:  # a number with more digits than anybody reads
        shown = "too large"
    return InvalidModel(f"{file}: {name} is {shown[:80]}: it must be {wanted}")


#: Parts that are not loaded: safety checks are a setting of the operator for all models.
UNUSED: Final = frozenset({"safety_checker"})

#: Libraries of the classes that read parts.
LIBRARIES: Final = ("diffusers", "transformers")

#: Parts that families drawn in steps may have; their pipelines in diffusers have no others.
_STEP_PARTS: Final = frozenset(
    {
        "vae",
        "unet",
        "transformer",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "scheduler",
        "safety_checker",
        "feature_extractor",
        "image_encoder",
        "controlnet",
    }
)

#: `Auto` classes and pipelines.
_OPEN_CLASS: Final = re.compile(r"Auto(?!encoder)\w*|\w*Pipeline")

#: File names of weights by library.
_STEMS: Final[Mapping[str, str]] = {
    "diffusers": "diffusion_pytorch_model",
    "transformers": "model",
}

#: The file that describes a pipeline.
_PIPELINE_FILE: Final = "model_index.json"

#: A file that transformers reads in addition to the weights.
_ADAPTER_FILE: Final = "adapter_config.json"


def parts_of(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return library and class of each part that `model_index.json` has, by its name.

    Raises:
        InvalidModel: The name or the class of a part is invalid.
    """
    found = {}
    for name, told in index.items():
        if name.startswith("_") or not (isinstance(told, list) and len(told) == 2):
            continue
        if not is_class(name):
            raise InvalidModel(
                f"model_index.json names a part {name[:80]!r}: a part is a folder in the"
                " same place, named with letters, digits and _"
            )
        if told[0] is None:
            continue
        if not all(map(is_class, told)):
            raise InvalidModel(
                f"model_index.json says of {name} {str(told)[:80]}: give a library and a class"
            )
        found[name] = (told[0], told[1])
    return found


def used_parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return library and class of each part that is loaded, by its name."""
    return {name: told for name, told in parts_of(index).items() if name not in UNUSED}


def missing_parts(index: Mapping[str, Any]) -> list[str]:
    """Return the names of parts that a folder says it is without."""
    return [name for name, told in index.items() if told == [None, None]]


def check_parts(folder: Path, index: Mapping[str, Any], *, in_steps: bool) -> None:
    """Check that each part is there, and that nothing in it runs a program when it is opened.

    Args:
        folder: With `model_index.json`.
        index: What that says.
        in_steps: Whether its pipeline is of a family that is drawn in steps.

    Raises:
        InvalidModel: A part is missing, is a pickle only, or has a forbidden class.
    """
    for name, (library, kind) in used_parts(index).items():
        if in_steps and name not in _STEP_PARTS:
            raise InvalidModel(
                f"model_index.json names {name}, which {index.get('_class_name')} has no use for: "
                "take it out"
            )
        if in_steps and library not in LIBRARIES:
            raise InvalidModel(
                f"{name} is a {kind} of {library}: only parts of diffusers and transformers are "
                "read"
            )
        if _OPEN_CLASS.fullmatch(kind):
            raise InvalidModel(
                f"{name} is a {kind}: name the class of the part itself, which is no pipeline and "
                "begins with no Auto"
            )
        if not (folder / name).is_dir():
            raise InvalidModel(f"the folder has no {name}/, which model_index.json names")
        check_folder(folder / name)
        if library == "transformers":
            check_names(folder / name, library)


def check_names(part: Path, library: str) -> None:
    """Check that the weights of a part have the file names that its library reads.

    Networks of diffusers that are drawn in steps are read by Swell, under any names.

    Raises:
        InvalidModel: They have others.
    """
    stem = _STEMS.get(library)
    names = [path.name for path in part.iterdir()]
    if stem is None or not any(name.endswith(".safetensors") for name in names):
        return
    # With an optional precision; an index names the shards.
    found = re.compile(rf"{stem}(\.\w+)?\.safetensors(\.index(\.\w+)?\.json)?")
    if not any(found.fullmatch(name) for name in names):
        raise InvalidModel(
            f"{part.name}/ has no {stem}.safetensors, nor an index of its shards, and {library} "
            "looks for no other name: give a folder as diffusers saves it, or rename the file"
        )


def check_folder(part: Path) -> None:
    """Check that a part's folder may be opened.

    Raises:
        InvalidModel: It has code, a pipeline, a special file, a name that is not UTF-8, or weights
            that are pickles only.
    """
    names = sorted(each.relative_to(part).as_posix() for each in part.rglob("*"))
    for name in names:
        check_text(name)
        _check_kind(part, name)
    weights = [name for name in names if name.lower().endswith(".safetensors")]
    pickles = [name for name in names if name.lower().endswith(PICKLE_SUFFIXES)]
    if not any("/" not in name for name in weights) and (pickles or "config.json" in names):
        among = f" and has {pickles[0]}" if pickles else ""
        raise InvalidModel(
            f"{part.name}/ has no .safetensors file{among}: convert its weights, other formats are "
            "pickles and are not opened"
        )
    for name in names:
        last = name.rpartition("/")[2]
        if last == _PIPELINE_FILE:
            raise InvalidModel(
                f"{part.name}/ is itself a pipeline: give a folder with a single pipeline"
            )
        if last.endswith(".py"):
            raise InvalidModel(
                f"{part.name}/ has code, {last}: no code from a folder is run, so take it out"
            )
        if last == _ADAPTER_FILE:
            raise InvalidModel(
                f"{part.name}/ has {last}: merge the adapter into the weights, or give it as a LoRA"
            )
    for name in names:
        if name.endswith(".index.json") and "/" not in name:
            _check_shards(part, name)


def _check_kind(part: Path, name: str) -> None:
    """Check that an entry of a part is a regular file or a folder.

    Raises:
        InvalidModel: It is a pipe or a device, or a folder that has the name of weights.
    """
    path = part / name
    is_weights = name.lower().endswith(".safetensors")
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # a broken link, which is reported when it is read
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or (is_weights and stat.S_ISDIR(mode)):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InvalidModel(f"{part.name}/{name} is {what} and no file: take it out")


def check_weights(part: Path) -> None:
    """Check that a part's files of weights are whole, by their heads and sizes.

    Raises:
        RefusedFormat: One is an archive or a pickle under another name.
        BrokenWeights: One is no safetensors file, or was cut off.
    """
    for path in sorted(part.glob("*.safetensors")):
        check_content(f"{part.name}/{path.name}", path)


def _check_shards(part: Path, name: str) -> None:
    """Check that an index of shards names files of weights in its folder.

    Raises:
        InvalidModel: It names something else, or a file that is not there.
    """
    if ".safetensors." not in name:
        return  # that of pickles, which is not read
    told = read_json(part.parent, f"{part.name}/{name}").get("weight_map")
    if told == {}:
        raise InvalidModel(f"{part.name}/{name}: weight_map names no files: take the index out")
    shards: Sequence[Any] = list(told.values()) if isinstance(told, dict) else [None]
    for shard in shards:
        if not (isinstance(shard, str) and shard.endswith(".safetensors") and _is_plain(shard)):
            raise InvalidModel(
                f"{part.name}/{name}: weight_map names {str(shard)[:80]!r}, which is not"
                " a .safetensors file in that folder"
            )
        if not (part / shard).is_file():
            raise InvalidModel(f"{part.name}/ has no {shard}, which {name} names: fetch it again")


def _is_plain(name: str) -> bool:
    return not set(name) & set("/\\\0")


#: Where hubs keep what a model's page says.
README: Final = "README.md"

#: Bytes of it that are read; the licence is at the top.
_MOST_BYTES: Final = 64 * 1024

_HEAD: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LINE: Final = re.compile(
    r"""^(license(?:_name)?):[ \t]*["']?([^"'#\[\]\x00-\x1f\x7f]{1,80}?)["']?[ \t]*\r?$""", re.M
)

#: Names that hubs use where the name proper stands elsewhere, or nowhere.
_UNTOLD: Final = ("other", "unknown")


def licence_in(folder: Path) -> str:
    """Return the licence of the weights, as the head of their README says it; empty if it does not.

    A name has at most 80 characters, and no control characters.

    Source:
        Hugging Face Hub documentation, "Model cards": `license` and `license_name`.
    """
    try:
        with open_file(folder / README) as file:
            text = file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
    head = _HEAD.match(text)
    told = dict(_LINE.findall(head[1])) if head else {}
    name = told.get("license", "")
    if name.lower() in _UNTOLD:
        name = told.get("license_name", "")
    return f"weights {name}, as their README says" if name else ""
