"""Pipelines of diffusers with small random networks, saved to disk: nothing is downloaded.

Weights are random and the same in every process. What comes out is noise to people, and a picture
with contrast to a test.
"""

import itertools
import shutil
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(folder: Path) -> Any:
    """CLIP's, which knows each letter and no longer piece."""
    pieces = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    made.save_pretrained(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def long_tokenizer(folder: Path) -> Any:
    """T5's, which knows each letter."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    fast = transformers.T5TokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=512, extra_ids=0
    )
    fast.save_pretrained(folder)
    return transformers.T5TokenizerFast.from_pretrained(folder)


def clip_config(projection: int = 32, width: int = 32) -> Any:
    return transformers.CLIPTextConfig(
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=54,
        projection_dim=projection,
        initializer_factor=4.0,
        hidden_act="quick_gelu",
    )


def t5(width: int = 32) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=40,
            d_model=width,
            d_ff=37,
            d_kv=8,
            num_heads=4,
            num_layers=2,
            initializer_factor=4.0,
        )
    ).eval()


def vae(channels: int = 4, stages: int = 2, **extra: Any) -> Any:
    """Make an autoencoder: each stage but the first halves a picture's sides."""
    made = diffusers.AutoencoderKL(
        block_out_channels=[16, *[32] * (stages - 1)],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * stages,
        up_block_types=["UpDecoderBlock2D"] * stages,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        **extra,
    ).eval()
    # So that pictures have contrast, as those of a trained network.
    made.decoder.conv_out.weight.data.mul_(1)
    return made


def unet(channels: int = 4, states: int = 32, **extra: Any) -> Any:
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": states,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return diffusers.UNet2DConditionModel(**settings | extra).eval()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def euler(**settings: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(
        **BETAS, **({"timestep_spacing": "leading", "steps_offset": 1} | settings)
    )


def ddim(**settings: Any) -> Any:
    return diffusers.DDIMScheduler(
        **BETAS, **({"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | settings)
    )


def stable_diffusion(folder: Path, scheduler: Any = None, channels: int = 4, **extra: Any) -> Path:
    torch.manual_seed(0)
    kind = (
        diffusers.StableDiffusionInpaintPipeline
        if channels == 9
        else diffusers.StableDiffusionPipeline
    )
    pipeline = kind(
        vae=vae(),
        text_encoder=transformers.CLIPTextModel(clip_config()).eval(),
        tokenizer=tokenizer(folder / "tokenizer"),
        unet=unet(channels, **extra),
        scheduler=scheduler or euler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def stable_diffusion_xl(folder: Path, scheduler: Any = None) -> Path:
    torch.manual_seed(0)
    network = unet(
        states=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        use_linear_projection=True,
    )
    diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=transformers.CLIPTextModel(clip_config()).eval(),
        tokenizer=tokenizer(folder / "tokenizer"),
        text_encoder_2=transformers.CLIPTextModelWithProjection(clip_config()).eval(),
        tokenizer_2=tokenizer(folder / "tokenizer_2"),
        unet=network,
        scheduler=scheduler or euler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def flow(**settings: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


def stable_diffusion_3(
    folder: Path,
    *,
    with_t5: bool = True,
    channels: int = 8,
    sees_mask: bool = False,
    shift: float = 0.06,
    is_sure: bool = False,
) -> Path:
    """Save one; one that is sure has an autoencoder whose latents have no spread."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=2 * channels + 1 if sees_mask else channels,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=channels,
    ).eval()
    kind = (
        diffusers.StableDiffusion3InpaintPipeline
        if sees_mask
        else diffusers.StableDiffusion3Pipeline
    )
    coder = vae(channels, shift_factor=shift, scaling_factor=1.5)
    if is_sure:
        coder.quant_conv.weight.data[channels:] = 0
        coder.quant_conv.bias.data[channels:] = -30
    kind(
        transformer=awake(transformer),
        scheduler=flow(shift=3.0),
        vae=coder,
        text_encoder=transformers.CLIPTextModelWithProjection(clip_config()).eval(),
        tokenizer=tokenizer(folder / "tokenizer"),
        text_encoder_2=transformers.CLIPTextModelWithProjection(clip_config()).eval(),
        tokenizer_2=tokenizer(folder / "tokenizer_2"),
        text_encoder_3=t5(64) if with_t5 else None,
        tokenizer_3=long_tokenizer(folder / "tokenizer_3") if with_t5 else None,
    ).save_pretrained(folder)
    return folder


def flux(
    folder: Path,
    *,
    hears_guidance: bool = True,
    fills: bool = False,
    stages: int = 2,
    layers: int = 1,
) -> Path:
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        # Of 2 x 2 latents: 4 channels each, and to fill as many around the mask and its 4 pixels.
        in_channels=48 if fills else 16,
        out_channels=16,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=hears_guidance,
    ).eval()
    kind = diffusers.FluxFillPipeline if fills else diffusers.FluxPipeline
    kind(
        transformer=awake(transformer),
        scheduler=flow(use_dynamic_shifting=hears_guidance, shift=3.0 if hears_guidance else 1.0),
        vae=vae(
            4,
            stages,
            shift_factor=0.1,
            scaling_factor=0.4,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=transformers.CLIPTextModel(clip_config()).eval(),
        tokenizer=tokenizer(folder / "tokenizer"),
        text_encoder_2=t5(32),
        tokenizer_2=long_tokenizer(folder / "tokenizer_2"),
    ).save_pretrained(folder)
    return folder


def awake(network: Any) -> Any:
    """Give layers that begin as zeros weights, so that conditions reach the result."""
    for value in network.parameters():
        if value.ndim > 1 and not value.data.any():
            torch.nn.init.normal_(value.data, std=0.05)
    return network


def control_net(folder: Path, model: Path) -> Path:
    torch.manual_seed(1)
    network = diffusers.UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    made = diffusers.ControlNetModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(8, 16),
        **{
            name: network.config[name]
            for name in (
                "cross_attention_dim",
                "attention_head_dim",
                "norm_num_groups",
                "addition_embed_type",
                "addition_time_embed_dim",
                "transformer_layers_per_block",
                "projection_class_embeddings_input_dim",
                "use_linear_projection",
            )
        },
    )
    awake(made.eval()).save_pretrained(folder)
    return folder


#: Settings that control nets of transformers take over from the network.
SHARED = (
    "patch_size",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
)


def control_net_3(folder: Path, model: Path, **changes: Any) -> Path:
    """A control net for Stable Diffusion 3, with one block for all of the network's."""
    torch.manual_seed(1)
    network = diffusers.SD3Transformer2DModel.from_pretrained(model, subfolder="transformer")
    settings = {name: network.config[name] for name in (*SHARED, "sample_size", "in_channels")}
    made = diffusers.SD3ControlNetModel(
        **settings
        | {
            "num_layers": 1,
            "caption_projection_dim": network.config.caption_projection_dim,
            "out_channels": network.config.out_channels,
        }
        | changes
    )
    awake(made.eval()).save_pretrained(folder)
    return folder


def control_net_flux(folder: Path, model: Path, **changes: Any) -> Path:
    """A control net for Flux."""
    torch.manual_seed(1)
    network = diffusers.FluxTransformer2DModel.from_pretrained(model, subfolder="transformer")
    names = (*SHARED, "axes_dims_rope", "guidance_embeds")
    made = diffusers.FluxControlNetModel(
        **{name: network.config[name] for name in names}
        | {"in_channels": 16, "num_layers": 1, "num_single_layers": 1}
        | changes
    )
    awake(made.eval()).save_pretrained(folder)
    return folder


def projected(width: int, vision: Any) -> dict[str, torch.Tensor]:
    """Four tokens of the picture's embedding."""
    return {
        "proj.weight": torch.randn(4 * width, vision.projection_dim) * 0.3,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }


def mapped(width: int, vision: Any) -> dict[str, torch.Tensor]:
    """A token of each of the encoder's states."""
    inner = vision.hidden_size
    return {
        "proj.0.weight": torch.randn(inner, inner) * 0.3,
        "proj.0.bias": torch.zeros(inner),
        "proj.2.weight": torch.randn(width, inner) * 0.3,
        "proj.2.bias": torch.zeros(width),
        "proj.3.weight": torch.ones(width),
        "proj.3.bias": torch.zeros(width),
    }


def resampled(width: int, vision: Any, inner: int = 64) -> dict[str, torch.Tensor]:
    """Four tokens that look at all states of the encoder, in four layers, as makers name them."""
    state = {
        "latents": torch.randn(1, 4, inner) * 0.3,
        "proj_in.weight": torch.randn(inner, vision.hidden_size) * 0.3,
        "proj_in.bias": torch.zeros(inner),
        "proj_out.weight": torch.randn(width, inner) * 0.3,
        "proj_out.bias": torch.zeros(width),
        "norm_out.weight": torch.ones(width),
        "norm_out.bias": torch.zeros(width),
    }
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state[f"layers.{layer}.{norm}.weight"] = torch.ones(inner)
            state[f"layers.{layer}.{norm}.bias"] = torch.zeros(inner)
        for name, rows, columns in (
            ("0.to_q", 64, inner),
            ("0.to_kv", 128, inner),
            ("0.to_out", inner, 64),
            ("1.1", 4 * inner, inner),
            ("1.3", inner, 4 * inner),
        ):
            state[f"layers.{layer}.{name}.weight"] = torch.randn(rows, columns) * 0.2
    return state


PROJECTIONS = {"plain": projected, "plus": resampled, "full": mapped}


def ip_adapter(folder: Path, model: Path, kind: str = "plain") -> Path:
    """Return a file of an IP-Adapter (`plain`, `plus` or `full`), an image encoder beside it."""
    torch.manual_seed(2)
    network = diffusers.UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    width = network.config.cross_attention_dim
    vision = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            projection_dim=24,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            image_size=32,
            patch_size=8,
            initializer_factor=4.0,
        )
    )
    vision.eval().save_pretrained(folder / "image_encoder")
    state = {
        f"image_proj.{name}": value
        for name, value in PROJECTIONS[kind](width, vision.config).items()
    }
    number = itertools.count(1, 2)
    for name in network.attn_processors:
        if "attn2" not in name:
            continue
        side = dict(network.named_parameters())[
            name.removesuffix(".processor") + ".to_q.weight"
        ].shape[0]
        key = next(number)
        for part in "kv":
            state[f"ip_adapter.{key}.to_{part}_ip.weight"] = torch.randn(side, width) * 0.4
    save_file(state, folder / "ip-adapter.safetensors")
    return folder / "ip-adapter.safetensors"


def lora(path: Path, model: Path, *, network: str = "unet", scale: float = 0.3) -> Path:
    """Return a LoRA of rank 2 for the network's attention, with the names of diffusers."""
    torch.manual_seed(3)
    [file] = (model / network).glob("*.safetensors")
    state = {}
    for name, weight in load_file(file).items():
        layer = name.removesuffix(".weight")
        if name.endswith(("to_q.weight", "to_v.weight")) and weight.ndim == 2:
            state[f"{network}.{layer}.lora_A.weight"] = torch.randn(2, weight.shape[1]) * scale
            state[f"{network}.{layer}.lora_B.weight"] = torch.randn(weight.shape[0], 2) * scale
    save_file(state, path)
    return path


def picture(seed: int = 0, side: int = 48, mode: str = "RGB") -> PIL.Image.Image:
    """Return a picture with some large shapes."""
    torch.manual_seed(seed)
    small = (torch.rand(4, 4, 3) * 255).byte().numpy()
    return (
        PIL.Image.fromarray(small).resize((side, side), PIL.Image.Resampling.BICUBIC).convert(mode)
    )


def mask(side: int = 48) -> PIL.Image.Image:
    """Return a mask that is white on the right."""
    made = PIL.Image.new("L", (side, side), 0)
    made.paste(255, (side // 2, 0, side, side))
    return made


def with_lora(model: Path, file: Path, folder: Path, *, network: str = "unet") -> Path:
    """Return a copy of a model to whose weights a LoRA of `lora` was added by hand."""
    shutil.copytree(model, folder)
    [weights] = (folder / network).glob("*.safetensors")
    state, change = load_file(weights), load_file(file)
    for name in [name for name in change if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        added = change[f"{layer}.lora_B.weight"] @ change[name]
        state[f"{layer.removeprefix(f'{network}.')}.weight"] += added
    save_file(state, weights, metadata={"format": "pt"})
    return folder
