"""Prompts x seeds -> pictures; the noise of each picture comes from a CPU generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redcloak.api import Progress, silent
from redcloak.backbone import Backbone
from redcloak.memory import at_once
from redcloak.rng import generator


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn: DDIM steps, classifier-free guidance, and the negative prompt."""

    steps: int = 25
    guidance: float = 7.5
    negative: str = ""


def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    count: int,
    seed: int,
    sampling: Sampling = Sampling(),
    *,
    size: int | None = None,
    chunk: int | None = None,
    progress: Progress = silent,
) -> tuple[Tensor, list[str]]:
    """Draw ``count`` pictures of each prompt.

    Returns images ``(len(prompts) * count, 3, H, W)`` in [0, 1], prompt by prompt, and the prompt of each. Random: the
    starting noise of picture ``i`` of any prompt, from the stream ``(seed, "generate", i)``, so that all prompts (and
    all arms of a subject) start from the same noise and their pictures pair up. ``chunk`` pictures are drawn at a time,
    by default fewer where they are large.
    """
    chunk = chunk or at_once(size or int(backbone.unet.config.sample_size) * backbone.factor)
    jobs = [(prompt, index) for prompt in prompts for index in range(count)]
    parts = []
    for start in range(0, len(jobs), chunk):
        batch = jobs[start : start + chunk]
        streams = [generator(seed, "generate", index) for _, index in batch]
        pictures = backbone.sample(
            [prompt for prompt, _ in batch],
            streams,
            steps=sampling.steps,
            guidance=sampling.guidance,
            negative=sampling.negative,
            size=size,
        )
        parts.append(pictures.cpu())
        progress(start + len(batch), len(jobs), {})
    return torch.cat(parts), [prompt for prompt, _ in jobs]
