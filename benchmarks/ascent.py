"""Seconds and peak memory of the ascent loop, against the textbook one: ``python benchmarks/ascent.py``.

The textbook loop is what a straightforward script does: every parameter takes a gradient, the prompt is tokenised and
embedded and the photos are encoded anew in each training step, and each surrogate is a deep copy with a fresh
optimizer, all in float32. Both do the same number of passes over the same photos. Each runs in a process of its own;
memory is the peak of what is resident or swapped out, beyond what the loaded model takes. ``--arch sd15`` is the full
Stable Diffusion 1.5 architecture with random weights at 256x256; the textbook's ASPL wants 26 GB there, so a machine of
24 GB needs swap. ``--precision`` and ``--memory`` are of our loop alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from redcloak import registry
from redcloak.api import CPU, Context, Machine, Subject
from redcloak.backbone import Backbone
from redcloak.memory import TYPES, placed
from redcloak.rng import generators
from redcloak.suite import load

RADIUS, STEP, LR = 11 / 255, 1 / 255, 1e-5
SIZES = {"tiny": 64, "sd15": 256}


def stable_diffusion(machine: Machine) -> Backbone:
    """Stable Diffusion 1.5 in all its sizes, with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=32, cross_attention_dim=768)
    kinds = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(
        down_block_types=kinds[0], up_block_types=kinds[1], block_out_channels=(128, 256, 512, 512), layers_per_block=2
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        )
    )
    tokenizer = copy.copy(load("tiny").backbone.tokenizer)
    tokenizer.model_max_length = 77
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False)
    parts = [placed(part, machine) for part in (vae, unet, text)]
    dtype = TYPES[machine.precision]
    return Backbone(*parts, tokenizer, scheduler, torch.device("cpu"), dtype=dtype, memory=machine.memory)


def settings(method: str, rounds: int) -> dict[str, int]:
    return {"steps": 4 * rounds} if method == "advdm" else {
        "rounds": rounds, "clean_steps": 3, "ascent_steps": 6, "protected_steps": 3
    }  # fmt: skip


def ours(method: str, backbone: Backbone, photos: Tensor, rounds: int) -> None:
    entry = registry.load("protect", method)
    given = settings(method, rounds) | {"budget": RADIUS * 255, "step_size": STEP * 255}
    config = entry.configure(**given, **({"lr": LR} if method == "aspl" else {}))
    context = Context(suite=SimpleNamespace(backbone=backbone), class_images=photos if method == "aspl" else None)
    entry.function(photos, config, context, generators(0, method, len(photos)))


def textbook(method: str, backbone: Backbone, photos: Tensor, rounds: int) -> None:
    for part in (backbone.vae, backbone.unet, backbone.text_encoder):
        part.requires_grad_(True)
    if method == "advdm":
        _climb(backbone, backbone.unet, backbone.text_encoder, photos, photos, 4 * rounds)
        return
    unet, text, images = backbone.unet, backbone.text_encoder, photos
    for _ in range(rounds):
        trained = copy.deepcopy(unet), copy.deepcopy(text)
        _train(backbone, *trained, photos, photos, 3)
        images = _climb(backbone, *trained, images, photos, 6)
        _train(backbone, unet, text, images, photos, 3)


def _loss(backbone: Backbone, unet: nn.Module, text: nn.Module, images: Tensor, prompt: str) -> Tensor:
    tokens = backbone.tokenizer([prompt] * len(images), padding="max_length", truncation=True, return_tensors="pt")
    states = text(tokens.input_ids).last_hidden_state
    latents = backbone.vae.encode(images * 2 - 1).latent_dist.sample() * backbone.vae.config.scaling_factor
    noise, times = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
    noisy, target = backbone.noised(latents, noise, times)
    return F.mse_loss(unet(noisy, times, states).sample, target)


def _climb(backbone: Backbone, unet: nn.Module, text: nn.Module, images: Tensor, clean: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        images = images.detach().requires_grad_(True)
        _loss(backbone, unet, text, images, Subject().instance_prompt).backward()
        assert images.grad is not None
        images = (images + STEP * images.grad.sign()).detach()
        images = torch.min(torch.max(images, clean - RADIUS), clean + RADIUS).clamp(0, 1)
    return images


def _train(backbone: Backbone, unet: nn.Module, text: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
    parameters = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, LR)
    for step in range(steps):
        own, other = images[step % len(images)][None], classes[step % len(classes)][None]
        loss = _loss(backbone, unet, text, own, Subject().instance_prompt)
        loss = loss + _loss(backbone, unet, text, other, Subject().class_prompt)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


WAYS: dict[str, Callable[[str, Backbone, Tensor, int], None]] = {"textbook": textbook, "ours": ours}


def child(arch: str, method: str, way: str, rounds: int, count: int, machine: Machine) -> None:
    """Run one loop and print its seconds and peak memory."""
    if way == "textbook":
        machine = CPU
    backbone = load("tiny", machine).backbone if arch == "tiny" else stable_diffusion(machine)
    photos = torch.rand((count, 3, SIZES[arch], SIZES[arch]), generator=torch.Generator().manual_seed(0))
    memory = Peak()
    if arch == "tiny":
        WAYS[way](method, backbone, photos, 1)  # warm-up
    begun = time.perf_counter()
    WAYS[way](method, backbone, photos, rounds)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "MB": memory.grown()}))


class Peak:
    """Watches how far this process grows, in MiB, resident or swapped out; Linux only."""

    def __init__(self) -> None:
        self.first = self.most = self.now()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self.now())
            time.sleep(0.02)

    @staticmethod
    def now() -> float:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return sum(float(fields[name].split()[0]) for name in ("VmRSS", "VmSwap")) / 1024

    def grown(self) -> float:
        """The largest growth so far."""
        return self.most - self.first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=SIZES, default="tiny")
    parser.add_argument("--methods", nargs="*", default=["advdm", "aspl"])
    parser.add_argument("--rounds", type=int, default=0, help="0: 10 on tiny, 1 on sd15")
    parser.add_argument("--photos", type=int, default=0, help="0: 4 on tiny, 2 on sd15")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=TYPES, default="fp32")
    parser.add_argument("--memory", choices=["auto", "low"], default="auto")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = args.rounds or (10 if args.arch == "tiny" else 1)
    photos = args.photos or (4 if args.arch == "tiny" else 2)
    if args.child:
        child(
            args.arch,
            args.methods[0],
            args.child,
            rounds,
            photos,
            Machine(precision=args.precision, memory=args.memory),
        )
        return
    print("| method | textbook s | ours s | faster | textbook MB | ours MB | memory |\n|---|---|---|---|---|---|---|")
    for method in args.methods:
        found = {}
        for way in WAYS:
            command = [
                sys.executable, __file__, "--arch", args.arch, "--methods", method, "--rounds", str(rounds), "--photos",
                str(photos), "--threads", str(args.threads), "--precision", args.precision, "--memory", args.memory,
                "--child", way,
            ]  # fmt: skip
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            found[way] = json.loads(line)
        old, new = found["textbook"], found["ours"]
        print(
            f"| {method} | {old['seconds']:.1f} | {new['seconds']:.1f} | {old['seconds'] / new['seconds']:.2f}x "
            f"| {old['MB']:.0f} | {new['MB']:.0f} | {new['MB'] / old['MB']:.2f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
