"""Tiny models with random weights, which diffusers makes and saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import transformers

TINY: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
"""Options of an autoencoder with the factor 2."""

TINY_UNET: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "sample_size": 8,
}
"""Options of a U-Net like that of Stable Diffusion 1."""

TINY_DIT: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "num_layers": 2,
    "sample_size": 8,
    "out_channels": 8,
}
"""Options of a transformer like DiT or PixArt."""

TINY_OF: dict[str, dict[str, Any]] = {
    "UNet2DConditionModel": TINY_UNET,
    "DiTTransformer2DModel": {**TINY_DIT, "num_embeds_ada_norm": 5},
    "PixArtTransformer2DModel": {**TINY_DIT, "cross_attention_dim": 12, "caption_channels": 7},
    "Transformer2DModel": {**TINY_DIT, "in_channels": 4, "patch_size": 2, "num_embeds_ada_norm": 5},
}
"""Options of each class; an autoencoder has `TINY`."""

LENGTH = 20
"""Number of tokens per text."""


def random_model(cls: str, **options: Any) -> Any:
    """A model of which no weight is zero or one, because that would hide weights that were swapped."""
    torch.manual_seed(0)
    model = getattr(diffusers, cls)(**{**TINY_OF.get(cls, TINY), **options}).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + ("norm" in name and name.endswith("weight")))
    return model


def random_vae() -> Any:
    """An autoencoder whose decoded numbers are mostly inside of their range."""
    vae = random_model("AutoencoderKL")
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(0.1)
    return vae


def random_pipeline(version: Literal["1", "2", "xl"] = "1") -> Any:
    """A pipeline like a version of Stable Diffusion. The numbers of its images are mostly inside of their range.

    Version 2 is the one for 768 pixels, which predicts v.
    """
    letters = "abcdefghijklmnopqrstuvwxyz,&"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=LENGTH
    )
    vae = random_vae()
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    second = version == "2"
    text = random_text(len(words), TINY_UNET["cross_attention_dim"], activation="gelu" if second else "quick_gelu")
    if version != "xl":
        unet = random_model("UNet2DConditionModel")
        scheduler = diffusers.PNDMScheduler(**noise, skip_prk_steps=True)
        if second:
            unet = random_model("UNet2DConditionModel", use_linear_projection=True, attention_head_dim=(2, 4))
            scheduler = diffusers.DDIMScheduler(**noise, prediction_type="v_prediction", set_alpha_to_one=False)
        return diffusers.StableDiffusionPipeline(
            vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
        )
    other = random_text(len(words), 8, projection=5)
    sizes = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 5}
    dim = TINY_UNET["cross_attention_dim"] + 8
    unet = random_model(
        "UNet2DConditionModel",
        cross_attention_dim=dim,
        addition_embed_type="text_time",
        **sizes,
        use_linear_projection=True,
    )
    scheduler = diffusers.EulerDiscreteScheduler(**noise, timestep_spacing="leading")
    return diffusers.StableDiffusionXLPipeline(
        vae,
        text,
        other,
        tokenizer,
        tokenizer,
        unet,
        scheduler,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def random_text(vocabulary: int, width: int, projection: int | None = None, activation: str = "quick_gelu") -> Any:
    """A text encoder of CLIP, with a projection if its dimension is given."""
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        projection_dim=projection or 512,
        hidden_act=activation,
    )
    torch.manual_seed(0)
    model = (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_t5(width: int) -> tuple[Any, Any]:
    """A T5 encoder as in PixArt, and its tokenizer, which knows letters."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz,&"]
    tokenizer = transformers.T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    config = transformers.T5Config(
        vocab_size=len(pieces) + 4,  # rounded up, as in the published models
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(0)
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, tokenizer


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, safe_serialization=True, **options)
    return folder


def images(count: int = 2, height: int = 8, width: int = 12, channels: int = 3) -> np.ndarray:
    """Images in [-1, 1], (B, H, W, C)."""
    return np.random.default_rng(0).uniform(-1, 1, (count, height, width, channels)).astype("float32")


def as_theirs(array: np.ndarray) -> Any:
    """(B, H, W, C) -> a tensor (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def as_ours(tensor: Any) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C)."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)
