"""Networks of true size with random weights, made on the device: SDXL, SD 3.5 Large, FLUX.1 dev.

Sizes are those of the published configurations. A miniature has the same structure.
"""

import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models

from gpu.rig import Rig, Size, default_type

#: Length of CLIP's vocabulary.
_CLIP_TOKENS = 49408

#: Tokens of one prompt: CLIP's, and those of SD 3.5 and FLUX with T5's.
_CLIP_LENGTH, _SD3_LENGTH, _FLUX_LENGTH = 77, 333, 512


def clip_tokenizer(tiny: bool) -> Any:
    """Return a CLIP tokenizer that knows single letters, with as many tokens as the real one."""
    letters = string.ascii_lowercase
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    if not tiny:
        pieces += [f"<fill{number}>" for number in range(_CLIP_TOKENS - 2 - len(pieces))]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=_CLIP_LENGTH)


def t5_tokenizer() -> Any:
    """Return a T5 tokenizer that knows single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    pieces += [(letter, -3.0) for letter in string.ascii_lowercase]
    return transformers.T5TokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=2)),
        model_max_length=_FLUX_LENGTH,
        extra_ids=0,
    )


def _clip_config(tiny: bool, width: int, layers: int, heads: int, activation: str) -> Any:
    last = 54 if tiny else _CLIP_TOKENS
    return transformers.CLIPTextConfig(
        vocab_size=last,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2 if tiny else layers,
        num_attention_heads=4 if tiny else heads,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=last - 2,
        eos_token_id=last - 1,
        pad_token_id=last - 1,
    )


def _vae(tiny: bool, channels: int, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        sample_size=1024,
        block_out_channels=(32,) * 4 if tiny else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=32,
        **more,
    )


def _sdxl_unet(tiny: bool, first: int, second: int) -> Any:
    """Make the U-Net of SDXL; its text encoders have the widths `first` and `second`."""
    time_dim = 32 if tiny else 256
    return diffusers.UNet2DConditionModel(
        sample_size=32 if tiny else 128,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 64) if tiny else (320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2) if tiny else (1, 2, 10),
        attention_head_dim=(2, 4, 4) if tiny else (5, 10, 20),
        cross_attention_dim=first + second,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        projection_class_embeddings_input_dim=second + 6 * time_dim,
        norm_num_groups=32,
    )


def sdxl_pipeline(rig: Rig) -> Any:
    """Make SDXL in half precision."""
    torch.manual_seed(0)
    first, second = (32, 64) if rig.tiny else (768, 1280)
    with default_type(rig.half), torch.device(rig.device):
        unet = _sdxl_unet(rig.tiny, first, second)
        vae = _vae(rig.tiny, 4, scaling_factor=0.13025, force_upcast=True)
        text_encoder = transformers.CLIPTextModel(
            _clip_config(rig.tiny, first, 12, 12, "quick_gelu")
        )
        text_encoder_2 = transformers.CLIPTextModelWithProjection(
            _clip_config(rig.tiny, second, 32, 20, "gelu")
        )
    tokenizer = clip_tokenizer(rig.tiny)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def sdxl_unet(rig: Rig) -> Any:
    """Read the U-Net that the stage `make` wrote."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        rig.sdxl, subfolder="unet", torch_dtype=rig.half
    )
    return unet.to(rig.device).eval()


def sdxl_inputs(rig: Rig, unet: Any, rows: int, size: Size) -> dict[str, Any]:
    """Make the arguments of one step of the U-Net."""
    width, height = size
    config = unet.config
    like = {"device": rig.device, "dtype": unet.dtype}
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "sample": torch.randn(rows, 4, height // 8, width // 8, **like),
        "timestep": torch.full((rows,), 500.0, device=rig.device),
        "encoder_hidden_states": torch.randn(
            rows, _CLIP_LENGTH, config.cross_attention_dim, **like
        ),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, pooled, **like),
            "time_ids": torch.tensor([[height, width, 0, 0, height, width]] * rows, **like),
        },
    }


def sd35_network(rig: Rig) -> Any:
    """Make the transformer of SD 3.5 Large."""
    tiny = rig.tiny
    with default_type(rig.bfloat16), torch.device(rig.device):
        return diffusers.SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2 if tiny else 38,
            attention_head_dim=64,
            num_attention_heads=2 if tiny else 38,
            joint_attention_dim=64 if tiny else 4096,
            caption_projection_dim=128 if tiny else 2432,
            pooled_projection_dim=64 if tiny else 2048,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ).eval()


def sd35_inputs(rig: Rig, network: Any, rows: int, size: Size) -> dict[str, Any]:
    """Make the arguments of one step of SD 3.5."""
    width, height = size
    config = network.config
    like = {"device": rig.device, "dtype": rig.bfloat16}
    return {
        "hidden_states": torch.randn(rows, 16, height // 8, width // 8, **like),
        "timestep": torch.full((rows,), 500.0, device=rig.device),
        "encoder_hidden_states": torch.randn(rows, _SD3_LENGTH, config.joint_attention_dim, **like),
        "pooled_projections": torch.randn(rows, config.pooled_projection_dim, **like),
    }


def flux_network(rig: Rig) -> Any:
    """Make the transformer of FLUX.1 dev."""
    tiny = rig.tiny
    with default_type(rig.bfloat16), torch.device(rig.device):
        return diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2 if tiny else 19,
            num_single_layers=2 if tiny else 38,
            attention_head_dim=32 if tiny else 128,
            num_attention_heads=2 if tiny else 24,
            joint_attention_dim=64 if tiny else 4096,
            pooled_projection_dim=32 if tiny else 768,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12) if tiny else (16, 56, 56),
        ).eval()


def flux_inputs(rig: Rig, network: Any, rows: int, size: Size) -> dict[str, Any]:
    """Make the arguments of one step of FLUX."""
    width, height = size
    config, tokens = network.config, (width // 16) * (height // 16)
    like = {"device": rig.device, "dtype": rig.bfloat16}
    return {
        "hidden_states": torch.randn(rows, tokens, 64, **like),
        "timestep": torch.full((rows,), 0.5, **like),
        "guidance": torch.full((rows,), 3.5, device=rig.device),
        "encoder_hidden_states": torch.randn(
            rows, _FLUX_LENGTH, config.joint_attention_dim, **like
        ),
        "pooled_projections": torch.randn(rows, config.pooled_projection_dim, **like),
        "txt_ids": torch.zeros(_FLUX_LENGTH, 3, **like),
        "img_ids": torch.zeros(tokens, 3, **like),
    }


def write_flux(rig: Rig, folder: Path) -> None:
    """Make FLUX.1 dev with its text encoders, and write it to a folder."""
    tiny, network = rig.tiny, flux_network(rig)
    config = network.config
    with default_type(rig.bfloat16), torch.device(rig.device):
        t5 = transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=32128,
                d_model=config.joint_attention_dim,
                d_ff=128 if tiny else 10240,
                d_kv=64,
                num_heads=2 if tiny else 64,
                num_layers=2 if tiny else 24,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )
        clip = transformers.CLIPTextModel(
            _clip_config(tiny, config.pooled_projection_dim, 12, 12, "quick_gelu")
        )
        vae = _vae(
            tiny,
            16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    diffusers.FluxPipeline(
        transformer=network,
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer(tiny),
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    ).save_pretrained(folder, max_shard_size="30GB")
