"""Registers the plugin's components and kinds."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_diffusion"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "diffusion",
        f"{HERE}.generator:Diffusion",
        summary="Diffusion models: DDPM, score-based, EDM and flow matching",
    )

    registry.kind("diffusion.network", f"{HERE}.networks:Network", summary="Networks that see noisy images")
    registry.add("diffusion.network", "unet", f"{HERE}.networks:UNet", summary="A U-Net with attention")
    registry.add("diffusion.network", "dit", f"{HERE}.networks:DiT", summary="A transformer over patches, adaLN-zero")

    _add_times(registry)

    registry.kind("diffusion.prediction", f"{HERE}.predictions:Prediction", summary="Targets that the network predicts")
    for name, target, summary in (
        ("eps", "EPS", "The noise (Ho et al. 2020)"),
        ("x0", "X0", "The clean image"),
        ("v", "V_PREDICTION", "alpha eps - sigma x0 (Salimans and Ho 2022)"),
        ("velocity", "VELOCITY", "eps - x0 (Liu et al. 2022)"),
        ("edm", "EDM", "The preconditioned network of EDM (Karras et al. 2022)"),
    ):
        registry.add("diffusion.prediction", name, f"{HERE}.predictions:{target}", summary=summary)

    registry.kind("diffusion.sampler", f"{HERE}.samplers:Sampler", summary="Methods to sample an image step by step")
    for name, target, summary in (
        ("ddpm", "sample_ddpm", "Ancestral sampling (Ho et al. 2020)"),
        ("ddim", "sample_ddim", "Deterministic, or with fresh noise by eta (Song et al. 2021)"),
        ("euler", "sample_euler", "First-order steps along the probability flow"),
        ("euler-ancestral", "sample_euler_ancestral", "Euler steps with fresh noise, as in k-diffusion"),
        ("heun", "Heun", "Second-order steps, with fresh noise by churn (Karras et al. 2022)"),
        ("dpm++2m", "sample_dpm_solver_2m", "Second-order multistep DPM-Solver++ (Lu et al. 2022)"),
        ("dpm++2m-sde", "sample_dpm_solver_2m_sde", "DPM-Solver++(2M) with fresh noise by eta (Lu et al. 2022)"),
        ("dpm++3m-sde", "sample_dpm_solver_3m_sde", "DPM-Solver++(3M) with fresh noise by eta, as in k-diffusion"),
        ("unipc", "UniPC", "A predictor and a corrector for one evaluation (Zhao et al. 2023)"),
        ("deis", "DEIS", "Exponential integrator, extrapolates the noise (Zhang and Chen 2023)"),
        ("lms", "LMS", "Linear multistep along the probability flow, as in k-diffusion"),
        ("pndm", "sample_pndm", "Pseudo linear multistep, as in Stable Diffusion (Liu et al. 2022)"),
    ):
        registry.add("diffusion.sampler", name, f"{HERE}.samplers:{target}", summary=summary)


def _add_times(registry: kgen.Registrar) -> None:
    """Adds the schedules, and the spacings of the times that a sampler visits."""
    registry.kind("diffusion.schedule", f"{HERE}.schedules:Schedule", summary="Amounts of image and noise over time")
    for name, target, summary in (
        ("linear", "LINEAR", "Betas that rise linearly (Ho et al. 2020)"),
        ("cosine", "COSINE", "A cosine of the time (Nichol and Dhariwal 2021)"),
        ("rectified-flow", "RECTIFIED_FLOW", "Straight lines from noise to image (Liu et al. 2022)"),
        ("shifted-flow", "ShiftedFlow", "Rectified flow, shifted toward the noise (Esser et al. 2024)"),
        ("karras", "KARRAS", "Variance exploding, sigma from 0.002 to 80 (Karras et al. 2022)"),
    ):
        registry.add("diffusion.schedule", name, f"{HERE}.schedules:{target}", summary=summary)
    registry.add(
        "diffusion.schedule", "discrete", f"{HERE}.discrete:Discrete", summary="Numbered steps, as in Stable Diffusion"
    )

    registry.kind("diffusion.spacing", f"{HERE}.spacings:Spacing", summary="The times that a sampler visits")
    for name, target, summary in (
        ("uniform", "uniform", "Evenly spaced times"),
        ("quadratic", "quadratic", "Finer toward the image (Song et al. 2021)"),
        ("leading", "Leading", "Discrete times from the least noise on (DDIM, Stable Diffusion)"),
        ("trailing", "Trailing", "Discrete times from pure noise on (Lin et al. 2024)"),
        ("linspace", "Linspace", "Discrete times from the most to the least noise"),
        ("karras", "Karras", "Noise levels by a power (Karras et al. 2022)"),
        ("exponential", "exponential", "Noise levels that fall exponentially"),
        ("ays", "AlignYourSteps", "Optimized noise levels of published models (Sabour et al. 2024)"),
    ):
        registry.add("diffusion.spacing", name, f"{HERE}.spacings:{target}", summary=summary)
