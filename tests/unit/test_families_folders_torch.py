"""Folders of weights that say what they should not, where diffusers is at hand."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from swell.families.networks_torch import class_of  # noqa: E402
from swell.model import InvalidModel  # noqa: E402


@pytest.mark.parametrize(
    ("library", "kind", "why"),
    [
        ("diffusers", "DiffusionPipeline", "no network, tokenizer, processor or scheduler"),
        ("diffusers", "StableDiffusionPipeline", "no network"),
        ("transformers", "AutoModel", "no network"),
        ("transformers", "pipeline", "no network"),
        ("transformers", "GenerationConfig", "no network"),
        ("diffusers", "NoSuchModel", "this diffusers has no NoSuchModel"),
        ("os", "system", "only parts of diffusers and transformers"),
        ("stable_diffusion", "StableDiffusionPipeline", "no network"),
    ],
)
def test_a_class_that_is_no_part_reads_nothing(library: str, kind: str, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        class_of("extra", library, kind)


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("diffusers", "UNet2DConditionModel"),
        ("diffusers", "PNDMScheduler"),
        ("transformers", "CLIPTextModel"),
        ("transformers", "CLIPTokenizer"),
        ("transformers", "CLIPImageProcessor"),
        ("stable_diffusion", "StableDiffusionSafetyChecker"),
    ],
)
def test_networks_tokenizers_processors_and_schedulers_are_parts(library: str, kind: str) -> None:
    assert class_of("part", library, kind).__name__.startswith(kind)
