"""A VQGAN and a CLIP that are small and random, for tests in the environment that has torch."""

import json
from pathlib import Path

import diffusers
import torch
import transformers

SIGHT_PX = 32


def save_networks(made: Path) -> Path:
    """Write a VQGAN of stride 2 with 64 codes, and a CLIP that sees 32 px, reads letters."""
    torch.manual_seed(0)
    vqgan = diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=64,
        norm_num_groups=4,
    )
    vqgan.quantize.embedding.weight.data.normal_()
    # So that the pictures of random codes have contrast, as those of a trained network.
    vqgan.decoder.conv_out.weight.data.mul_(4)
    vqgan.save_pretrained(made / "vqgan")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(made / "clip")
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 16,
    }
    text = {
        "vocab_size": len(pieces),
        "max_position_embeddings": 20,
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
        "pad_token_id": len(pieces) - 1,
    }
    config = transformers.CLIPConfig(
        text_config=size | text,
        vision_config=size | {"image_size": SIGHT_PX, "patch_size": 8},
        projection_dim=16,
        initializer_factor=8.0,
    )
    transformers.CLIPModel(config).save_pretrained(made / "clip")
    parts = {"vqgan": ["diffusers", "VQModel"], "clip": ["transformers", "CLIPModel"]}
    (made / "model_index.json").write_text(json.dumps({"_class_name": "VQGANCLIP"} | parts))
    return made
