"""CLIP alignment: does the picture show what its prompt says?"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from redcloak.api import Context, Method, Score, Subject
from redcloak.config import MethodConfig
from redcloak.errors import UserError

METHOD = Method(
    title="CLIP alignment (CLIP-T)",
    cite="Ruiz et al., DreamBooth, CVPR 2023 (CLIP-T), the class noun in the rare token's place.",
    needs=("clip",),
    scores={"alignment": Score("alignment (CLIP-T)", True, -1, 1, "cosine", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the model is the suite's CLIP."""


def alignment(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Cosine of each picture and its own prompt, ``(N,)``.

    The class noun stands where the identifier stood: "a photo of sks person" and "a photo of sks" are both scored as "a
    photo of person", as CLIP never met the identifier and its embedding would be noise. Images ``(N, 3, H, W)`` in
    [0, 1]; prompts in ``context.prompts``.

    Cite: Ruiz et al., CVPR 2023, section 4.2. License: that of the suite's CLIP.
    """
    if len(context.prompts) != len(images):
        raise UserError(f"alignment: {len(images)} pictures need as many prompts, got {len(context.prompts)}.")
    clip = context.suite.clip
    texts = [plain(prompt, context.subject) for prompt in context.prompts]
    kinds = sorted(set(texts))
    embedded = dict(zip(kinds, clip.embed_texts(kinds), strict=True))
    with torch.no_grad():
        pictures = clip.embed_images(images)
    return {"alignment": (pictures * torch.stack([embedded[text] for text in texts])).sum(-1).cpu()}


def plain(prompt: str, subject: Subject) -> str:
    """The prompt with the class noun in place of the subject's identifier, and of both where the noun follows it."""
    name, noun = (rf"(?<!\w){re.escape(word)}(?!\w)" for word in (subject.identifier, subject.class_noun))
    return " ".join(re.sub(rf"{name}(\s+{noun})?", lambda _: subject.class_noun, prompt).split())
