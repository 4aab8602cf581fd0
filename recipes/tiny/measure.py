"""The figures of the model card, on people and photos that no recipe has seen: ``python recipes/tiny/measure.py``.

Writes ``figures.json`` beside the weights and ``samples.png`` beside the model card. Real photos are optional.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
from common import WEIGHTS
from data import TEST, london, person
from degradations import degrade, tensor
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from redcloak.generate import Sampling, generate
from redcloak.images import to_uint8
from redcloak.metrics.fidelity import ssim
from redcloak.portraits import VALUES
from redcloak.purify.upscale import resize
from redcloak.rng import generators
from redcloak.suite import Suite, load

PEOPLE = 100
SHOTS = 4
SAID = {
    "hair color": "a photo of a person with {} hair",
    "hair style": "a photo of a person with {} hair",
    "skin": "a photo of a person with {} skin",
    "glasses": "a photo of a person {}",
    "beard": "a photo of a person {}",
    "expression": "a photo of a person, {}",
    "background": "a photo of a person, {} background",
    "clothes": "a photo of a person wearing {} clothes",
    "quality": "a photo of a person, {}",
}
SAY = {
    "glasses": "wearing glasses",
    "no glasses": "without glasses",
    "beard": "with a beard",
    "no beard": "without beard",
    "moustache": "with a moustache",
    "stubble": "with stubble",
    "neutral": "with a neutral expression",
    "clean": "clear",
}


def phrase(attribute: str, value: str) -> str:
    """The prompt that asks for one attribute."""
    if value == "bald":
        return "a photo of a bald person"
    return SAID[attribute].format(SAY.get(value, value))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures, in dB."""
    return float((-10 * torch.log10((a - b).pow(2).flatten(1).mean(1).clamp_min(1e-10))).mean())


def round_trip(suite: Suite, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([suite.backbone.decode(suite.backbone.encode(part)) for part in images.split(32)])


def rank_one(suite: Suite, queries: Tensor, gallery: Tensor, people: np.ndarray) -> dict[str, float]:
    """Each query against all other gallery pictures: is the nearest the same person?"""
    known, asked = suite.faces(gallery), suite.faces(queries)
    both = known.found & asked.found
    cosine = (asked.embeddings @ known.embeddings.T)[both][:, both]
    same = torch.from_numpy(people[both.numpy()][:, None] == people[both.numpy()][None, :])
    cosine.fill_diagonal_(-1)
    nearest = cosine.argmax(1)
    own = same.gather(1, nearest[:, None])[:, 0].float().mean()
    off = ~torch.eye(len(cosine), dtype=torch.bool)
    return {
        "faces found": round(float(asked.found.float().mean()), 4),
        "rank-1": round(float(own), 4),
        "genuine": round(float(cosine[same & off].mean()), 3),
        "impostor": round(float(cosine[~same].mean()), 3),
    }


def autoencoder(suite: Suite, drawn: Tensor, people: np.ndarray, real: Tensor | None) -> dict[str, object]:
    back = round_trip(suite, drawn)
    figures: dict[str, object] = {
        "PSNR drawn (dB)": round(psnr(back, drawn), 2),
        "SSIM drawn": round(float(ssim(back, drawn).mean()), 4),
        "yardstick": rank_one(suite, drawn, drawn, people),
        "yardstick after the round trip": rank_one(suite, back, drawn, people),
    }
    if real is not None:
        again = round_trip(suite, real)
        figures["PSNR real (dB)"] = round(psnr(again, real), 2)
        cosine = (suite.faces(again).embeddings * suite.faces(real).embeddings).sum(1)
        figures["identity of real photos after the round trip"] = round(float(cosine.nanmean()), 3)
    return figures


def zero_shot(suite: Suite, pictures: Tensor, facts: list[dict[str, str]]) -> dict[str, float]:
    """Accuracy of the CLIP on every attribute, among the values of that attribute."""
    result = {}
    for attribute, values in VALUES.items():
        chosen = [i for i, fact in enumerate(facts) if attribute in fact]
        shares = suite.clip.zero_shot(pictures[chosen], [phrase(attribute, value) for value in values])
        truth = torch.tensor([values.index(facts[i][attribute]) for i in chosen])
        result[attribute] = round(float((shares.argmax(1) == truth).float().mean()), 4)
    return result | {"mean": round(float(np.mean(list(result.values()))), 4)}


def sampling(suite: Suite) -> Sampling:
    """As an audit samples."""
    return Sampling(guidance=suite.spec.guidance)


def prompts_matter(suite: Suite, each: int) -> dict[str, float]:
    """How often the attribute asked for is the one that the CLIP sees, by attribute."""
    result = {}
    for attribute, values in VALUES.items():
        asked = [phrase(attribute, value) for value in values]
        pictures, _ = generate(suite.backbone, asked, each, 1, sampling(suite))
        seen = suite.clip.zero_shot(pictures, asked).argmax(1)
        truth = torch.arange(len(values)).repeat_interleave(each)
        result[attribute] = round(float((seen == truth).float().mean()), 4)
    return result | {"mean": round(float(np.mean(list(result.values()))), 4)}


def gains(suite: Suite, clean: Tensor) -> dict[str, float]:
    """PSNR won by the restorer on degraded pictures and by the upscaler over bicubic enlargement."""
    rng = np.random.default_rng(5)
    pixels = clean.permute(0, 2, 3, 1).numpy()
    bad = tensor([degrade(picture, 0.5, rng) for picture in pixels])
    small = resize(clean, clean.shape[-2] // 4, clean.shape[-1] // 4)
    with torch.no_grad():
        restored = suite.restorer(bad, 0.5)
        large = suite.upscaler(small, "a photo of a person", 0, generators(0, "measure", len(small)))
    enlarged = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)
    return {
        "restorer: degraded (dB)": round(psnr(bad, clean), 2),
        "restorer: restored (dB)": round(psnr(restored, clean), 2),
        "upscaler: bicubic (dB)": round(psnr(enlarged, clean), 2),
        "upscaler: x4 (dB)": round(psnr(large, clean), 2),
    }


def words(suite: Suite) -> dict[str, float]:
    """How far a rare identifier moves the text encoder's states, beside what the words of decoupling move them.

    Squared distances over all positions. A tower that drops ``sks`` leaves it nothing to bind a subject to.
    """
    plain, named = suite.backbone.embed(["a photo of person", "a photo of sks person"])
    with_noise, without = suite.backbone.embed(
        ["a photo of person with bhj noisy pattern", "a photo of person, without bhj noisy pattern"]
    )
    return {
        "sks or nothing": round(float((named - plain).pow(2).sum()), 1),
        "with or without bhj noisy pattern": round(float((with_noise - without).pow(2).sum()), 1),
    }


@torch.no_grad()
def pixels(clean: Tensor, sigma: float = 0.1) -> dict[str, float]:
    """PSNR won by one step of the pixel model on Gaussian noise of ``sigma`` (of 1): DDS's one shot."""
    model = UNet2DModel.from_pretrained(WEIGHTS / "pixel", use_safetensors=True).float().eval()
    abar = DDPMScheduler.from_pretrained(WEIGHTS / "pixel").alphas_cumprod
    spread = (1 - abar).sqrt() / abar.sqrt()  # of pictures in [-1, 1]
    time = int((spread - 2 * sigma).abs().argmin())
    stream = torch.Generator().manual_seed(6)
    noisy = (clean * 2 - 1) + spread[time] * torch.randn(clean.shape, generator=stream)
    noise = torch.cat([model(part * abar[time].sqrt(), time).sample for part in noisy.split(32)])
    before, after = (((picture + 1) / 2).clamp(0, 1) for picture in (noisy, noisy - spread[time] * noise))
    return {"noisy (dB)": round(psnr(before, clean), 2), "denoised (dB)": round(psnr(after, clean), 2)}


def grid(suite: Suite) -> None:
    """Samples: one row a prompt."""
    prompts = [
        "a photo of a person",
        "a photo of a person with long blond hair, smiling, blue background",
        "a photo of a person with a beard, wearing glasses, red clothes",
        "a photo of a bald person, dark skin, green background",
        "a photo of a person, noisy pattern",
        "a photo of sks person",
    ]
    pictures, _ = generate(suite.backbone, prompts, 8, 3, sampling(suite))
    rows = to_uint8(pictures).reshape(len(prompts), 8, 64, 64, 3)
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows])).resize((1024, 768), 0).save(
        WEIGHTS / "samples.png"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="vae clip prompts faces gains words pixel grid")
    parser.add_argument("--each", type=int, default=24, help="pictures for each attribute value")
    args = parser.parse_args()
    suite = load("tiny")
    clean = [person(TEST, number, shots=SHOTS, degraded=0) for number in range(PEOPLE)]
    drawn = tensor([row[0].astype(np.float32) / 255 for rows in clean for row in rows])
    people = np.repeat(np.arange(PEOPLE), SHOTS)
    photos, _ = london(held_out=True, size=64)
    real = tensor([np.asarray(photo, np.float32) / 255 for photo in photos]) if photos else None
    mixed = [row for number in range(PEOPLE, 4 * PEOPLE) for row in person(TEST, number, shots=2, degraded=0.3)]
    shown = tensor([row[0].astype(np.float32) / 255 for row in mixed])

    def faces() -> dict[str, object]:
        pictures, _ = generate(suite.backbone, ["a photo of a person", "a photo of person"], 48, 2, sampling(suite))
        return {"share": round(float(suite.faces(pictures).found.float().mean()), 4)}

    parts: dict[str, Callable[[], object]] = {
        "vae": lambda: autoencoder(suite, drawn, people, real),
        "clip": lambda: zero_shot(suite, shown, [row[1] for row in mixed]),
        "prompts": lambda: prompts_matter(suite, args.each),
        "faces": faces,
        "gains": lambda: gains(suite, drawn[:200]),
        "words": lambda: words(suite),
        "pixel": lambda: pixels(drawn[:200]),
    }
    path = WEIGHTS / "figures.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for name in args.only or parts:
        if name == "grid":
            continue
        figures[name] = parts[name]()
        print(name, json.dumps(figures[name], indent=1), flush=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
    if not args.only or "grid" in args.only:
        grid(suite)


if __name__ == "__main__":
    main()
