"""The Stable Diffusion x4 upscaler as a purifier: shrink the picture and have it drawn anew."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.models import sdx4
from redcloak.purify.upscale import prompt_of, resize

METHOD = Method(
    title="Stable Diffusion x4 upscaler",
    cite="Liu et al., arXiv 2406.18944, section 4.2; Rombach et al., Latent Diffusion Models, CVPR 2022.",
    license="CreativeML Open RAIL++-M (the weights)",
    stochastic=True,
)


class Config(MethodConfig):
    """Where the upscaler lies, and how it draws; the defaults are diffusers' and the paper's."""

    model: str = Field(sdx4.HUB, min_length=1, description="a local diffusers folder or a hub id")
    revision: str | None = Field(None, description="the hub revision")
    shrink: float = Field(4.0, ge=1, le=8, description="side before / side after shrinking; the paper's is 4")
    steps: int = Field(75, ge=1, le=999, description="denoising steps")
    guidance: float = Field(9.0, ge=1, le=30, description="classifier-free guidance scale")
    noise_level: int = Field(20, ge=0, le=350, description="step of the noise schedule that is added to the input")

    def models(self) -> dict[str, str]:
        """What identifies the weights."""
        return {"upscaler": sdx4.fingerprint(self.model, self.revision)}

    def check(self) -> None:
        """See that the folder is there, or the hub's copy of it."""
        sdx4.find(self.model, self.revision)


def sd_x4(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Shrink by ``shrink``, enlarge x4 with the prompt "a photo of a CLASS", and bring to the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise on the small picture and the latents that the
    drawing starts from, from ``generators[i]``. The authors' script always says "person", whatever the class.

    Cite: Liu et al., arXiv 2406.18944, section 4.2. License: CreativeML Open RAIL++-M (the weights).
    """
    height, width = images.shape[-2:]
    small = resize(images, max(1, round(height / config.shrink)), max(1, round(width / config.shrink)))
    pipeline = sdx4.load(sdx4.find(config.model, config.revision), context.suite.device)
    large = sdx4.enlarge(
        pipeline,
        small,
        prompt_of(context),
        config.noise_level,
        generators,
        steps=config.steps,
        guidance=config.guidance,
    )
    return resize(large, height, width)
