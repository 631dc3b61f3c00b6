"""Registers the plugin's decoders and networks."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1

HERE = "kgen_plugin_diffusers"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "autoencoder-kl",
        f"{HERE}.kl:AutoencoderKL",
        summary="A published autoencoder with continuous latents: those of Stable Diffusion 1 to 3, SDXL and Flux",
    )
    registry.decoder(
        "vq-model",
        f"{HERE}.vq:VQModel",
        summary="A published autoencoder with tokens as latents: those of aMUSEd, VQ diffusion and latent diffusion",
    )
    registry.add(
        "diffusion.network",
        "unet-2d-condition",
        f"{HERE}.unet.options:UNet",
        summary="A published U-Net: those of Stable Diffusion 1, 2 and XL",
    )
    registry.kind(
        "diffusers.model", f"{HERE}.exchange.model:convert", summary="Parts that 'kgen export' writes for diffusers"
    )
    registry.add(
        "diffusers.model",
        "published-autoencoder",
        f"{HERE}.exchange.conversions:from_published_autoencoder",
        summary="The decoders autoencoder-kl and vq-model",
    )
    registry.add(
        "diffusers.model",
        "published-unet",
        f"{HERE}.exchange.conversions:from_published_unet",
        summary="Generators with the network unet-2d-condition",
    )
    registry.add(
        "diffusers.model",
        "kl-autoencoder",
        f"{HERE}.exchange.codec:from_kl_autoencoder",
        summary="The decoder codecs/kl-autoencoder, if all of its stages have the same number of channels",
    )


@kgen.hookimpl
def kgen_commands(commands: Any) -> None:
    commands.add("export", f"{HERE}.exchange.commands:export", summary="Write parts of a run as models of diffusers.")
    commands.add(
        "import", f"{HERE}.exchange.commands:import_folder", summary="Print a run file for a folder of diffusers."
    )
