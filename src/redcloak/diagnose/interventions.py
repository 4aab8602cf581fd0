"""What an intervention did to photos: every constraint measured again, on the files that were saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redcloak.api import Subject
from redcloak.diagnose.misalignment import Concepts, embedded, measure
from redcloak.errors import UserError
from redcloak.models.clip import Clip
from redcloak.protect.matched_noise import radial_energy, radii
from redcloak.suite import Suite

FLAWS = ("noisy pattern", "noise", "blurry", "jpeg artifacts", "pixelated", "low quality", "high quality", "clear")
VERIFIED = (
    "misalignment",
    "misalignment_decoded",
    "embedding",
    "embedding_decoded",
    "latent_shift",
    "perceptual",
    "linf",
    "l2",
)


@torch.no_grad()
def verify(images: Tensor, clean: Tensor, suite: Suite, subject: Subject) -> dict[str, Tensor]:
    """What was done to photos ``(N, 3, H, W)`` in [0, 1], each against its clean one: a value ``(N,)`` each.

    ``misalignment``: the cosine with the class prompt that was lost, of the photo and of its round trip (``_decoded``);
    ``embedding``: the distance of the unit embeddings, both views; ``latent_shift``: root mean square of the scaled
    latents' shift; ``perceptual``: of the suite; ``linf`` and ``l2`` (root mean square) in 8-bit steps.
    """
    if images.shape != clean.shape:
        raise UserError(f"verify: {len(images)} photos need as many clean ones of their size, got {len(clean)}.")
    concepts = Concepts.of(subject.class_noun)
    now, before = (
        measure(each, subject.class_prompt, suite.clip, suite.backbone, clean=clean, concepts=concepts)
        for each in (images, clean)
    )
    offset = (images - clean).flatten(1) * 255
    found = {
        "misalignment": before["cosine"] - now["cosine"],
        "misalignment_decoded": before["cosine_decoded"] - now["cosine_decoded"],
        "embedding": (2 * now["shift"].clamp_min(0)).sqrt(),
        "embedding_decoded": (2 * now["shift_decoded"].clamp_min(0)).sqrt(),
        "latent_shift": now["latent_shift"],
        "perceptual": torch.cat(
            [suite.perceptual(*pair) for pair in zip(images[:, None], clean[:, None], strict=True)]
        ),
        "linf": offset.abs().amax(1).round(),
        "l2": offset.pow(2).mean(1).sqrt(),
    }
    return {name: found[name] for name in VERIFIED}


def spectrum_apart(offset: Tensor, other: Tensor) -> Tensor:
    """How far the radial spectra of perturbations ``(N, C, H, W)`` are apart, of the ``other``'s size: ``(N,)``.

    ``|a - b| / |b|`` of the amplitudes ``sqrt(energy)`` of all rings and channels; NaN where ``other`` is nothing.
    """
    rings = radii(*offset.shape[-2:]).to(offset.device)
    here, there = (radial_energy(each, rings).sqrt().flatten(1) for each in (offset, other))
    apart: Tensor = (here - there).norm(dim=1) / there.norm(dim=1)
    return apart


@torch.no_grad()
def nearest_words(images: Tensor, clip: Clip, subject: Subject, words: Sequence[str] = FLAWS) -> tuple[str, float]:
    """Of some words the one whose prompt, "a photo of person, WORD", lies nearest to the photos on average.

    And by how much nearer, in cosine, than the prompt without it.
    """
    prompts = [subject.class_prompt, *(f"{subject.class_prompt}, {word}" for word in words)]
    plain, *told = (embedded(images, clip) @ clip.embed_texts(prompts).cpu().T).mean(0).tolist()
    best = max(range(len(words)), key=lambda index: told[index])
    return words[best], told[best] - plain
