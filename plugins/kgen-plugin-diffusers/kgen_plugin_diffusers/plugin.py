"""Registers the plugin's encoder, decoders and networks."""

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
    registry.add(
        "diffusion.network",
        "dit-transformer-2d",
        f"{HERE}.transformer.options:DiT",
        summary="A published transformer of classes: DiT",
    )
    registry.add(
        "diffusion.network",
        "pixart-transformer-2d",
        f"{HERE}.transformer.options:PixArt",
        summary="A published transformer of texts: PixArt-alpha and PixArt-sigma",
    )
    registry.encoder("class-label", f"{HERE}.transformer.labels:ClassLabel", summary="The classes of a published DiT")
    registry.kind(
        "diffusers.model", f"{HERE}.exchange.model:convert", summary="Parts that 'kgen export' writes for diffusers"
    )
    _add_models(registry)


def _add_models(registry: kgen.Registrar) -> None:
    """Adds the parts that `kgen export` writes."""
    registry.add(
        "diffusers.model",
        "published-autoencoder",
        f"{HERE}.exchange.conversions:from_published_autoencoder",
        summary="The decoders autoencoder-kl and vq-model",
    )
    registry.add(
        "diffusers.model",
        "published-network",
        f"{HERE}.exchange.conversions:from_published_network",
        summary="Generators with the networks unet-2d-condition, dit-transformer-2d and pixart-transformer-2d",
    )
    registry.add(
        "diffusers.model",
        "kl-autoencoder",
        f"{HERE}.exchange.codec:from_kl_autoencoder",
        summary="The decoder codecs/kl-autoencoder, if it has no patches and its stages have groups of one size",
    )
    registry.add(
        "diffusers.model",
        "unet",
        f"{HERE}.exchange.unet:from_unet",
        summary="The network unet of kgen-plugin-diffusion, if its normalizations have one number of groups",
    )
    registry.add(
        "diffusers.model",
        "dit",
        f"{HERE}.exchange.conversions:from_dit",
        summary="The network dit of kgen-plugin-diffusion, with the reason why diffusers cannot hold it",
    )


@kgen.hookimpl
def kgen_commands(commands: Any) -> None:
    commands.add("export", f"{HERE}.exchange.commands:export", summary="Write parts of a run as models of diffusers.")
    commands.add(
        "import", f"{HERE}.exchange.commands:import_folder", summary="Print a run file for a folder of diffusers."
    )
