"""Scores that rest on CLIP against transformers' own CLIP, its processor and its tokenizer, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from redcloak.api import Context, Subject
from redcloak.metrics import alignment, clip_i, perceptual, subject_detection
from redcloak.models.clip_folder import from_folder

Vectors = np.ndarray


@pytest.fixture(scope="module")
def small(photos: Tensor) -> Tensor:
    """Pictures of the size that the model sees, on the 8-bit lattice, so that nothing is resized or rounded."""
    return (avg_pool2d(photos, 2) * 255).round() / 255


@pytest.fixture(scope="module")
def theirs(clip_folder: Path, small: Tensor) -> Callable[[list[str]], tuple[Vectors, Vectors]]:
    """Texts -> the embeddings of the pictures and of the texts, of any length."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3
    )
    pictures = [(image.permute(1, 2, 0) * 255).round().byte().numpy() for image in small]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)

    def embed(texts: list[str]) -> tuple[Vectors, Vectors]:
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = model(**processor(pictures, return_tensors="pt"), **tokens)
        return found.image_embeds.double().numpy(), found.text_embeds.double().numpy()

    return embed


@pytest.fixture
def of_clip(clip_folder: Path, context: Context) -> Context:
    return replace(context, suite=SimpleNamespace(clip=from_folder(clip_folder), device="cpu"))


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def test_alignment_is_the_cosine_of_transformers_embeddings(small: Tensor, theirs, of_clip: Context):
    prompts = ("a photo of sks person", "a photo of sks", "a smiling sks, outside")
    pictures, texts = theirs(["a photo of person", "a photo of person", "a smiling person, outside"])
    values = alignment.alignment(small, alignment.Config(), replace(of_clip, prompts=prompts))["alignment"]
    assert values.tolist() == pytest.approx([cosine(*pair) for pair in zip(pictures, texts, strict=True)], abs=1e-5)


def test_clip_i_is_the_mean_cosine_of_transformers_embeddings(small: Tensor, theirs, of_clip: Context):
    pictures, _ = theirs(["a"])
    values = clip_i.clip_i(small, clip_i.Config(), replace(of_clip, reference=small[1:]))["clip_i"]
    expected = [(cosine(each, pictures[1]) + cosine(each, pictures[2])) / 2 for each in pictures]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_things_are_detected_by_transformers_embeddings(small: Tensor, theirs, of_clip: Context):
    pictures, texts = theirs(["a picture of dog", "a picture of non-dog"])
    odds = [np.exp(100 * (cosine(each, texts[0]) - cosine(each, texts[1]))) for each in pictures]
    dog = replace(of_clip, subject=Subject("dog"))
    values = subject_detection.subject_detection(small, subject_detection.Config(), dog)["subject_detection"]
    assert values.tolist() == pytest.approx([(odd - 1) / (odd + 1) for odd in odds], abs=1e-3)


def test_perceptual_is_the_formula_place_by_place(photos: Tensor, context: Context):
    """Equation 1 of LPIPS with every weight 1, in numpy, on what hooks see leave each stage."""
    altered = (photos + 0.1 * torch.sign(photos - 0.4)).clamp(0, 1)[:1]
    tower, seen = context.suite.clip.image, []
    note = lambda *call: seen.append(call[2][0].double().numpy())  # noqa: E731 - a name for a long line
    hooks = [stage.register_forward_hook(note) for stage in tower.body]
    with torch.no_grad():
        for picture in (altered, photos[:1]):
            tower(picture)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for x, y in zip(seen[:4], seen[4:], strict=True):
        places = list(np.ndindex(x.shape[1:]))
        units = [(a / np.sqrt(a @ a), b / np.sqrt(b @ b)) for a, b in ((x[:, i, j], y[:, i, j]) for i, j in places)]
        total += sum(float((a - b) @ (a - b)) for a, b in units) / len(places)
    values = perceptual.perceptual(altered, perceptual.Config(), replace(context, reference=photos[:1]))["perceptual"]
    assert float(values) == pytest.approx(total, rel=1e-4)
