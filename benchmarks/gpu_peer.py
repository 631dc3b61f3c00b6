"""What `gpu.py` measures of diffusers' modules, compiled by torch.compile."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from gpu_timing import AT_START, Blocks, Sizes, repeated


def peer(kind: str, sizes: Sizes, deadline: float) -> dict[str, Any]:
    """Training steps and DDIM of diffusers' modules, compiled by torch.compile."""
    if missing := [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]:
        return {"skipped": f"{' and '.join(missing)} cannot be imported"}
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # it is not needed, and may not fit this PyTorch
    import torch
    from diffusers import DDIMScheduler
    from diffusers_speed import SIZE, TEXT_WIDTH, TOKENS, diffusers_dit, diffusers_unet

    where = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    network = (
        diffusers_dit(2, sizes.width, sizes.depth, sizes.heads) if kind == "dit" else diffusers_unet(sizes.unet)
    ).to(where)
    compiled = torch.compile(network, dynamic=False, backend="inductor" if where == "cuda" else "eager")
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.01, fused=where == "cuda")
    scheduler, lower = DDIMScheduler(), torch.autocast(where, torch.bfloat16)

    def condition(count: int) -> tuple[Any, ...]:
        text = torch.randn(count, TOKENS, TEXT_WIDTH, device=where)
        return text, torch.ones(count, TOKENS, device=where), text.mean(1)

    images = torch.rand(sizes.batch, 3, SIZE, SIZE, device=where) * 2 - 1
    trained, drawn = condition(sizes.batch), condition(sizes.samples)

    def step() -> Any:
        noise, t = torch.randn_like(images), torch.randint(0, 1000, (sizes.batch,), device=where)
        noisy = scheduler.add_noise(images, noise, t)
        with lower:
            output = compiled(noisy, t, *trained)
        loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def draw() -> None:
        scheduler.set_timesteps(sizes.sampling_steps)
        x = torch.randn(sizes.samples, 3, SIZE, SIZE, device=where)
        with torch.inference_mode(), lower:
            for t in scheduler.timesteps:
                x = scheduler.step(compiled(x, t.to(where).expand(sizes.samples), *drawn), t, x).prev_sample
        ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    now = time.monotonic()
    blocks = Blocks(sizes, now + (deadline - now) * AT_START)
    going = True
    while going:
        losses = [step() for _ in range(sizes.block)]
        float(losses[-1].detach())  # waits for the device
        going = blocks.end()
    network.eval()
    sampling = repeated(draw, sizes, deadline - 5)
    return {
        "training": blocks.result(sizes.batch * sizes.block),
        "sampling": {**sampling, "per second": sampling["per second"] * sizes.samples},
        "weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }
