"""Control nets: which kind a family takes and whether one fits, from settings alone."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from test_families_recognised import VAE, folder, safetensors

from swell.core.errors import InvalidModel
from swell.diffusion.families.detect_family import look
from swell.diffusion.families.input_schema import input_type
from swell.diffusion.families.model_config import Entry
from swell.diffusion.families.model_definition import describe

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}

#: Of each family: its pipeline, its network's class and settings, and settings of a net that fits.
MADE: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "flux": (
        "FluxPipeline",
        "FluxTransformer2DModel",
        {
            "in_channels": 16,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "patch_size": 1,
        },
        {"_class_name": "FluxControlNetModel", "patch_size": 2, "guidance_embeds": False},
    ),
    "sd 3": (
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        {
            "in_channels": 4,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "patch_size": 2,
            "sample_size": 64,
        },
        {"_class_name": "SD3ControlNetModel"},
    ),
}


def model(place: Path, family: str, **changes: Any) -> Path:
    pipeline, kind, network, _ = MADE[family]
    return folder(
        place,
        pipeline,
        network=network | changes,
        scheduler=FLOW,
        transformer=["diffusers", kind],
    )


def net(place: Path, family: str, **changes: Any) -> Path:
    _, _, network, told = MADE[family]
    place.mkdir()
    shared = {name: value for name, value in network.items() if name != "sample_size"}
    (place / "config.json").write_text(json.dumps(shared | told | changes))
    safetensors(place / "model.safetensors")
    return place


def given(made: Path, controlnet: Path) -> Any:
    return describe(Entry(name="acme/dreams", folder=str(made), controlnet=str(controlnet)))


@pytest.mark.parametrize("family", MADE)
def test_a_net_of_the_familys_kind_is_taken(tmp_path: Path, family: str) -> None:
    described = given(model(tmp_path / "dreams", family), net(tmp_path / "net", family))
    assert described.net is not None
    assert described.net.folder == tmp_path / "net"
    fields = input_type(described.facts, controlled=True).model_fields
    assert {"control", "control_scale", "image", "mask"} <= fields.keys()
    assert "control_mode" not in fields


@pytest.mark.parametrize(
    ("family", "other", "expected"),
    [
        ("flux", "ControlNetModel", "that flux models take, FluxControlNetModel"),
        ("flux", "SD3ControlNetModel", "that flux models take, FluxControlNetModel"),
        ("sd 3", "ControlNetModel", "that stable-diffusion-3 models take, SD3ControlNetModel"),
    ],
)
def test_a_net_of_another_kind_is_refused_with_the_kind_that_fits(
    tmp_path: Path, family: str, other: str, expected: str
) -> None:
    wrong = net(tmp_path / "net", family, _class_name=other)
    with pytest.raises(InvalidModel, match=f"net/ is a {other}: give a control net .*{expected}"):
        given(model(tmp_path / "dreams", family), wrong)


def test_so_is_one_of_a_transformer_that_is_given_to_a_unet(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="that stable-diffusion models take, ControlNetModel"):
        given(folder(tmp_path / "dreams"), net(tmp_path / "net", "flux"))


def test_a_network_that_does_not_say_it_is_a_control_net_is_none(tmp_path: Path) -> None:
    made = folder(tmp_path / "dreams")
    with pytest.raises(InvalidModel, match="unet/ does not name its class: give a contr"):
        given(made, made / "unet")


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("flux", {"joint_attention_dim": 2048}, "joint_attention_dim is 2048, .*needs 4096"),
        ("flux", {"pooled_projection_dim": 2048}, "pooled_projection_dim is 2048"),
        ("flux", {"in_channels": 64}, "in_channels is 64, and this model needs 16"),
        ("flux", {"num_attention_heads": 12}, "attention_head_dim is 1536, .*needs 3072"),
        ("flux", {"num_mode": -1}, "num_mode is -1: it must be a whole number from 1"),
        ("sd 3", {"patch_size": 1}, "patch_size is 1, and this model needs 2"),
        ("sd 3", {"extra_conditioning_channels": 1}, "takes a mask with its picture"),
        ("sd 3", {"attention_head_dim": 32}, "attention_head_dim is 768"),
        ("sd 3", {"num_layers": 0}, "num_layers is 0: it must be a whole number from 1"),
        ("sd 3", {"caption_projection_dim": 64}, "caption_projection_dim is 64, and .* is 1536"),
    ],
)
def test_a_net_that_does_not_fit_is_refused_with_what_differs(
    tmp_path: Path, family: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidModel, match=why):
        given(model(tmp_path / "dreams", family), net(tmp_path / "net", family, **changes))


def test_a_net_that_sees_pixels_is_for_autoencoders_of_8_pixels(tmp_path: Path) -> None:
    seeing = net(tmp_path / "net", "flux", conditioning_embedding_channels=16)
    found = given(model(tmp_path / "dreams", "flux"), seeing).net
    assert found.sees_pixels
    made = model(tmp_path / "shallow", "flux")
    (made / "vae" / "config.json").write_text(json.dumps(VAE | {"block_out_channels": [1, 1]}))
    with pytest.raises(InvalidModel, match=r"sees pixels, 8 a side .* autoencoder has 2"):
        given(made, seeing)


def test_a_net_for_sdxl_does_not_fit_stable_diffusion_1(tmp_path: Path) -> None:
    made = folder(tmp_path / "dreams", network={"in_channels": 4, "cross_attention_dim": 768})
    wide = net(tmp_path / "net", "sd 3", _class_name="ControlNetModel", cross_attention_dim=2048)
    with pytest.raises(InvalidModel, match=r"cross_attention_dim is 2048, and .* needs 768"):
        given(made, wide)


def test_a_net_that_hears_guidance_is_for_networks_that_do(tmp_path: Path) -> None:
    schnell = model(tmp_path / "schnell", "flux", guidance_embeds=False)
    with pytest.raises(InvalidModel, match=r"takes guidance as an input, and .* does not"):
        given(schnell, net(tmp_path / "net", "flux", guidance_embeds=True))


def test_a_net_without_a_first_layer_is_for_networks_that_see_no_mask(tmp_path: Path) -> None:
    borrowing = net(tmp_path / "net", "sd 3", use_pos_embed=False, joint_attention_dim=None)
    found = given(model(tmp_path / "plain", "sd 3"), borrowing).net
    assert (found.borrows_places, found.hears_words) == (True, False)
    with pytest.raises(InvalidModel, match="no first layer"):
        given(model(tmp_path / "masked", "sd 3", in_channels=9), borrowing)


def test_a_net_of_several_kinds_asks_for_the_kind(tmp_path: Path) -> None:
    made, several = model(tmp_path / "dreams", "flux"), net(tmp_path / "net", "flux", num_mode=3)
    described = given(made, several)
    asked = input_type(described.facts, controlled=True, modes=described.net.modes)
    assert asked(prompt="a fox", control_mode=2).control_mode == 2  # type: ignore[attr-defined]
    with pytest.raises(pydantic.ValidationError):
        asked(prompt="a fox", control_mode=3)


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusion3ControlNetPipeline", "sd 3"),
        ("FluxControlNetPipeline", "flux"),
        ("FluxControlNetImg2ImgPipeline", "flux"),
        ("FluxControlNetInpaintPipeline", "flux"),
    ],
)
def test_a_folder_with_its_own_net_is_of_the_family(
    tmp_path: Path, pipeline: str, family: str
) -> None:
    made = model(tmp_path / "dreams", family)
    net(made / "controlnet", family)
    index = json.loads((made / "model_index.json").read_text())
    kind = MADE[family][3]["_class_name"]
    own = {"_class_name": pipeline, "controlnet": ["diffusers", kind]}
    (made / "model_index.json").write_text(json.dumps(index | own))
    described = describe(Entry(name="acme/dreams", folder=str(made)))
    assert described.facts.family.control == kind
    assert described.net is not None
    assert described.net.folder == made / "controlnet"


# Networks that see masks


@pytest.mark.parametrize(
    ("family", "plain", "masked"),
    # Flux: 2 x 2 latents of 4 channels, twice, and 8 x 8 pixels of the mask for each.
    [("flux", 16, 4 * (4 + 4 + 64)), ("sd 3", 4, 9)],
)
def test_a_network_sees_masks_or_does_not_by_its_channels(
    tmp_path: Path, family: str, plain: int, masked: int
) -> None:
    assert not look(model(tmp_path / "plain", family, in_channels=plain)).sees_mask
    facts = look(model(tmp_path / "masked", family, in_channels=masked))
    assert facts.sees_mask
    fields = input_type(facts).model_fields
    assert fields["strength"].default == 1.0
    with pytest.raises(InvalidModel, match=rf"in_channels is 7, .* takes {plain}, or {masked}"):
        look(model(tmp_path / "other", family, in_channels=7))


def test_what_fills_has_defaults_of_its_own(tmp_path: Path) -> None:
    assert len(VAE["block_out_channels"]) == 4
    made = model(tmp_path, "flux", in_channels=288)
    index = json.loads((made / "model_index.json").read_text())
    told = json.dumps(index | {"_class_name": "FluxFillPipeline"})
    (made / "model_index.json").write_text(told)
    facts = look(made)
    assert (facts.steps, facts.guidance) == (50, 30.0)
