"""What a family of diffusion models is: facts of the architecture, and calls of its networks.

Each family is one file with one class that derives from `Family`, and one entry of `FAMILIES` in
`detect_family`. Models are detected and added on machines without torch, so these files import it
inside of the methods that run on a loaded model.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from swell.diffusion.families.adapters import Net
    from swell.diffusion.families.detect_family import Facts
    from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion
    from swell.diffusion.families.sample_plan import Picture, Words

Settings = Mapping[str, Any]


class Family:
    """Models of one architecture. The defaults are those of U-Nets with one text encoder."""

    # --- facts -----------------------------------------------------------------------------------

    name: ClassVar[str] = "pipeline"
    #: Classes of pipelines in diffusers.
    pipelines: ClassVar[Sequence[str]] = ()
    #: The denoising network: its part of a folder, `unet` or `transformer`, and its class.
    network: ClassVar[str] = "unet"
    network_class: ClassVar[str] = "UNet2DConditionModel"
    #: Classes of its blocks, where diffusers does not list them; each is compiled once.
    blocks: ClassVar[Sequence[str]] = ()
    #: The class of its control nets, if it has any, and the settings that a control net and the
    #: network have in common.
    control: ClassVar[str] = ""
    control_settings: ClassVar[Sequence[str]] = ()
    steps: ClassVar[int] = 30
    guidance: ClassVar[float] = 7.5
    #: Whether it takes an IP-Adapter.
    has_reference: ClassVar[bool] = False
    #: Whether guidance takes a second row with the negative prompt.
    has_negative_prompt: ClassVar[bool] = True
    #: Whether its pipeline spaces the sigmas of a flow evenly before the shift.
    even: ClassVar[bool] = False
    #: The default type on a GPU.
    half: ClassVar[str] = "float16"
    #: Whether the autoencoder overflows in float16 where its settings do not say.
    upcasts_vae: ClassVar[bool] = False
    #: Text encoders that LoRAs may change.
    encoders: ClassVar[Sequence[str]] = ("text_encoder",)
    #: Order of the extra channels of an inpainting network, after the latents.
    beside: ClassVar[Sequence[str]] = ("mask", "around")
    #: Activations of one row of a step for 1024 x 1024 px, in GiB; computed on the meta device with
    #: fused attention, not measured on a GPU.
    row_gib: ClassVar[float] = 0.16

    @property
    def is_flow(self) -> bool:
        """Whether the network predicts the velocity of a flow, rather than noise."""
        return self.network == "transformer"

    def defaults(self, pipeline: str, network: Settings) -> tuple[int, float] | None:
        """Return steps and guidance of a pipeline that differs from the family's."""
        return None

    def patch(self, network: Settings) -> int:
        """Return the side of a transformer's token, in latents."""
        return int(network.get("patch_size", 1))

    def stride_px(self, network: Settings, scale_px: int) -> int:
        """Return the number that a picture's sides are multiples of. `scale_px`: px of a latent."""
        # A U-Net takes any size, and crops some of its inner states.
        return scale_px * self.patch(network) if self.is_flow else max(scale_px, 8)

    def sample_size(self, network: Settings) -> Any:
        """Return the side of the training pictures in latents; None where settings do not say."""
        return network.get("sample_size")

    def input_channels(self, channels: int, scale_px: int) -> tuple[int, int]:
        """Return the network's input channels: for latents alone, and with mask and picture."""
        return channels, 2 * channels + 1

    def scheduler(self, pipeline: str, config: Settings, *, sees_mask: bool) -> Settings:
        """Return the settings of a folder's scheduler as its pipeline changes them.

        Raises:
            InvalidModel: A setting is out of bounds.
        """
        return config

    def check_net(self, net: "Net", scale_px: int) -> None:
        """Check settings that only control nets of this family have.

        Raises:
            InvalidModel: They do not fit.
        """

    # --- a loaded model --------------------------------------------------------------------------

    def layer(self, name: str) -> str:
        """Return the name in diffusers of a layer in a LoRA file."""
        return name

    def skip(self, steps: int, strength: float) -> int:
        """Return how many steps image-to-image leaves out."""
        if self.is_flow:
            return min(int(max(steps - min(steps * strength, steps), 0)), steps - 1)
        return steps - int(steps * strength)

    def negative_prompt(self, model: "LatentDiffusion", text: str) -> str | None:
        """Return the prompt of the unconditional row; None for zeros in place of its states."""
        return text

    def values(self, asked: Any) -> dict[str, Any]:
        """Return further numbers that the network takes with each row."""
        return {}

    def encode(self, model: "LatentDiffusion", prompt: str | None) -> "dict[str, Tensor]":
        """Return the states of the text encoders for a prompt."""
        raise NotImplementedError

    def predict(
        self, model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
    ) -> "Tensor":
        """Call the network. Shapes: x (B, C, h, w), t (B,), cond each (B, ...) -> (B, C, h, w)."""
        raise NotImplementedError

    def encodes_control(self, net: "Net | None") -> bool:
        """Whether the control picture's latents use the seed's first random numbers."""
        return False

    def encodes_masked(self, facts: "Facts", words: "Words") -> bool:
        """Whether diffusers encodes the whole picture under a mask, which uses random numbers."""
        return words.starts or not facts.sees_mask

    def control_input(
        self, model: "LatentDiffusion", picture: "Picture", words: "Words"
    ) -> "Tensor":
        """Return the input of the control net: pixels from 0 to 1. Shape: (3, H, W)."""
        return model.pictures.control_pixels(picture, words)

    def mask_input(self, facts: "Facts", mask: "Tensor") -> "Tensor":
        """Return the mask as an inpainting network takes it. Shapes: (1, 1, H, W) -> (M, h, w)."""
        return first_pixels(mask, facts.scale_px)


def first_pixels(mask: "Tensor", scale_px: int) -> "Tensor":
    """Return the first pixel of each latent. Shapes: (1, 1, H, W) -> (1, h, w)."""
    return mask[0, :, ::scale_px, ::scale_px]


#: Any other text-to-image pipeline of diffusers: drawn by the pipeline's own `__call__`.
OTHER = Family()
