"""Small pipelines of families that Swell has no file for: diffusers' own loop draws them."""

import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import tiny_pipelines as tiny

PLAIN_VAE: dict[str, Any] = {
    "shift_factor": 0.1,
    "scaling_factor": 0.4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def chroma(folder: Path) -> Path:
    """Pictures to start from have a pipeline of their own."""
    torch.manual_seed(0)
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    ).eval()
    diffusers.ChromaPipeline(
        transformer=tiny.awake(transformer),
        scheduler=tiny.flow(),
        vae=tiny.vae(4, **PLAIN_VAE),
        text_encoder=tiny.t5(32),
        tokenizer=tiny.long_tokenizer(folder / "tokenizer"),
    ).save_pretrained(folder)
    return folder


def z_image(folder: Path) -> Path:
    """Pictures to start from must have the sides that are asked for."""
    torch.manual_seed(0)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    ).eval()
    diffusers.ZImagePipeline(
        transformer=tiny.awake(transformer),
        scheduler=tiny.flow(shift=3.0),
        vae=tiny.vae(4, **PLAIN_VAE),
        text_encoder=transformers.Qwen3Model(qwen(layers=3)).eval(),
        tokenizer=qwen_tokenizer(folder / "tokenizer"),
    ).save_pretrained(folder)
    return folder


def qwen_image(folder: Path) -> Path:
    """Guidance is by the scale of the second row."""
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 128}
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    text = {
        **width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": rope,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    told = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    ).eval()
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()
    vae.decoder.conv_out.weight.data.mul_(3)
    diffusers.QwenImagePipeline(
        transformer=tiny.awake(transformer),
        scheduler=tiny.flow(),
        vae=vae,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(told).eval(),
        tokenizer=qwen_tokenizer(folder / "tokenizer"),
    ).save_pretrained(folder)
    return folder


def flux_2_klein(folder: Path) -> Path:
    """It changes pictures by itself, without a strength."""
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 32,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    ).eval()
    diffusers.Flux2KleinPipeline(
        transformer=tiny.awake(transformer),
        scheduler=tiny.flow(),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
        ).eval(),
        # Three of its layers are heard, of which the last is the 27th.
        text_encoder=transformers.Qwen3ForCausalLM(qwen(layers=28)).eval(),
        tokenizer=qwen_tokenizer(folder / "tokenizer"),
    ).save_pretrained(folder)
    return folder


def deep_floyd(folder: Path) -> Path:
    """It draws pixels, and tells of its steps in the older way."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    ).eval()
    diffusers.IFPipeline(
        tokenizer=tiny.long_tokenizer(folder / "tokenizer"),
        text_encoder=tiny.t5(32),
        unet=unet,
        scheduler=diffusers.DDPMScheduler(thresholding=True, variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def qwen(layers: int) -> Any:
    return transformers.Qwen3Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.5,
    )


def qwen_tokenizer(folder: Path) -> Any:
    """Qwen's, which knows each character and no longer piece."""
    pieces = [
        *(string.ascii_letters + string.digits + string.punctuation),
        "Ġ",
        "Ċ",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[])
    made.chat_template = "{% for each in messages %}{{ each.content }}{% endfor %}"
    made.save_pretrained(folder)
    return transformers.Qwen2Tokenizer.from_pretrained(folder)
