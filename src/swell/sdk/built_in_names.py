"""The modules of built-in models, by name. It imports no model code, so that builds may use it."""

from typing import Final

#: Built-in models, each with its module. `swell[embedded]` brings those of `swell_models`.
_BUILT_IN: Final = {
    "demo/curve": "swell_models.simulated_gpu",
    "swell/artwork": "swell_models.artwork",
    "swell/contact-sheet": "swell_models.contact_sheet",
    "swell/cutout": "swell_models.cutout",
    "swell/faces": "swell_models.faces",
    "swell/icons": "swell.models.icons",
    "swell/paint": "swell_models.paint",
    "swell/portraits": "swell_models.portraits",
    "swell/prompt-check": "swell.models.prompt_check",
    "swell/safety": "swell.models.safety",
    "swell/speech": "swell_models.speech",
    "swell/translate": "swell_models.translate",
    "swell/upscale": "swell.models.upscale",
}

#: The module of all other models under `demo/`.
_STUB: Final = "swell.models.stub"


def built_in_module(ref: str) -> str | None:
    """Return the module of a built-in model, such as `swell.models.icons` for `swell/icons`."""
    return _BUILT_IN.get(ref, _STUB if ref.startswith("demo/") else None)
