"""Steps per second and peak memory of training, against the textbook loop: ``python benchmarks/personalize.py``.

The textbook DreamBooth encodes the photos and embeds a prompt for each row anew in each step, and takes AdamW as it
comes; both take the same steps on as many pictures. ``together``: the LoRAs of four subjects in one batched pass,
against one by one, and how far apart their weights end. Each way runs in a process of its own; seconds are of the
processor (wall-clock seconds in brackets); memory is what a process grows beyond the loaded model. Pictures are noise:
a step takes as long on them as on photos.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ascent import Peak
from redcloak import registry
from redcloak.api import Context, Machine, Subject
from redcloak.backbone import Backbone
from redcloak.personalize.lora import Config as Lora
from redcloak.personalize.lora import lora, projections
from redcloak.rng import generator
from redcloak.suite import load
from redcloak.training.together import Job, together, worn

SUBJECTS, LR = 4, 3e-4


def photos(seed: int, count: int = 4) -> Tensor:
    return torch.rand((count, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


def textbook(backbone: Backbone, steps: int, batch: int) -> None:
    """DreamBooth as diffusers' training script has it, text encoder and prior preservation included."""
    modules = (backbone.unet, backbone.text_encoder)
    parameters = [parameter.requires_grad_(True) for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=1e-2)
    prompts = [Subject().instance_prompt] * batch + [Subject().class_prompt] * batch
    own, other = photos(0), photos(1)
    for step in range(steps):
        index = torch.arange(step * batch, (step + 1) * batch)
        images = torch.cat([own[index % len(own)], other[index % len(other)]])
        with torch.no_grad():
            latents = backbone.vae.encode(images * 2 - 1).latent_dist.sample() * backbone.vae.config.scaling_factor
        tokens = backbone.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
        noisy, target = backbone.noised(latents, noise, times)
        states = backbone.text_encoder(tokens).last_hidden_state
        guess, beside = backbone.unet(noisy, times, states).sample.chunk(2)
        wanted, wanted_beside = target.chunk(2)
        (F.mse_loss(guess, wanted) + F.mse_loss(beside, wanted_beside)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def ours(name: str, **settings: Any) -> Callable[[Backbone, int, int], None]:
    def run(backbone: Backbone, steps: int, batch: int) -> None:
        entry = registry.load("personalize", name)
        config = entry.configure(steps=steps, batch=batch, lr=LR, **settings)
        context = Context(suite=SimpleNamespace(backbone=backbone), class_images=photos(1))
        with backbone.borrowed(config.changes(backbone)):
            entry.function(photos(0), config, context, generator(0, name))

    return run


def jobs(backbone: Backbone) -> list[Job]:
    context = Context(suite=SimpleNamespace(backbone=backbone), class_images=photos(1))
    return [Job(photos(row), replace(context), generator(row, "lora")) for row in range(SUBJECTS)]


def one_by_one(backbone: Backbone, steps: int, batch: int) -> list[dict[str, Tensor]]:
    config, found = Lora(steps=steps, batch=batch, lr=LR), []
    for job in jobs(backbone):
        with backbone.borrowed(config.changes(backbone)):
            lora(job.images, config, job.context, job.generator)
            found.append(weights(backbone))
    return found


def batched(backbone: Backbone, steps: int, batch: int) -> list[dict[str, Tensor]]:
    found = []
    for factors in together(jobs(backbone), Lora(steps=steps, batch=batch, lr=LR)):
        with worn(backbone, factors):
            found.append(weights(backbone))
    return found


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in projections(backbone, text_encoder=False).items()}


WAYS: dict[str, Callable[[Backbone, int, int], Any]] = {
    "textbook DreamBooth": textbook,
    "dreambooth": ours("dreambooth"),
    "dreambooth, 8-bit Adam": ours("dreambooth", optimizer="adam8bit"),
    "dreambooth, UNet alone": ours("dreambooth", text_encoder=False),
    "lora": ours("lora"),
    "textual_inversion": ours("textual_inversion"),
    "custom_diffusion": ours("custom_diffusion"),
    "dreambooth, bf16": ours("dreambooth"),
    "4 LoRAs, one by one": one_by_one,
    "4 LoRAs, together": batched,
}


def child(way: str, steps: int, batch: int) -> None:
    """Run one way and print its seconds and peak memory."""
    backbone = load("tiny", Machine(precision="bf16" if "bf16" in way else "fp32")).backbone
    memory = Peak()
    if way != "textbook DreamBooth":
        WAYS[way](backbone, 1, batch)  # warm-up
    else:
        textbook(backbone, 1, batch)
    wall, used = time.perf_counter(), time.process_time()
    WAYS[way](backbone, steps, batch)
    print(json.dumps({
        "seconds": time.process_time() - used, "wall": time.perf_counter() - wall, "MB": memory.grown()
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.child, args.steps, args.batch)
        return
    print("| way | s | steps a second | against | MB |\n|---|---|---|---|---|")
    common = ["--steps", str(args.steps), "--batch", str(args.batch), "--threads", str(args.threads)]
    base: dict[str, float] = {}
    for way in args.ways:
        command = [sys.executable, __file__, *common, "--child", way]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(run.stdout.splitlines()[-1])
        against = "4 LoRAs, one by one" if "4 LoRAs" in way else "textbook DreamBooth"
        if way == against:
            base[way] = found["seconds"]
        ratio = f"{base[against] / found['seconds']:.2f}x" if against in base else ""
        rate = args.steps * (SUBJECTS if "4 LoRAs" in way else 1) / found["seconds"]
        print(
            f"| {way} | {found['seconds']:.1f} ({found['wall']:.0f}) | {rate:.1f} | {ratio} | {found['MB']:.0f} |",
            flush=True,
        )
    if {"4 LoRAs, together", "4 LoRAs, one by one"} <= set(args.ways):
        backbone = load("tiny").backbone
        pairs = zip(one_by_one(backbone, 5, args.batch), batched(backbone, 5, args.batch), strict=True)
        far = max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a)
        print(f"\nAfter 5 steps the two ways' weights are at most {far:.1e} apart (a step is {LR:.0e}).")


if __name__ == "__main__":
    main()
