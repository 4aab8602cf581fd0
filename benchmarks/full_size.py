"""Stable Diffusion 2.1 in full size, without a hub: ``python benchmarks/full_size.py`` prints what each step takes.

Writes a diffusers folder with the configuration of Stable Diffusion 2.1-base and random weights, then runs protect,
personalize (full and LoRA) and generate on it, two steps each at 256x256, every one a ``redcloak`` of its own, with
the memory policy and without. The policy: ``memory=low`` (activations twice, idle values on disk), bf16 for what is
frozen, and Adam's moments in 8 bits. A step that grows over ``--limit`` is stopped, and its row says so. ``--small`` is
the same with a small configuration: it proves the command. The tokenizer is the small suite's, read to 77 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from redcloak.suite import SUITES

UNET: dict[str, Any] = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
TEXT: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8, "layers_per_block": 1,
             "cross_attention_dim": 32, "attention_head_dim": (1, 1, 2, 2)},
    "vae": {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1},
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip
POLICIES = {
    "without": (["precision=fp32", "memory=auto"], "adamw"),
    "with": (["precision=bf16", "memory=low"], "adam8bit"),
}


def write_model(folder: Path, small: bool, side: int) -> int:
    """A diffusers folder of random weights in half precision, part by part; the number of its parameters."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet, vae, text = ({**full, **(SMALL[name] if small else {})} for name, full in (
        ("unet", UNET), ("vae", VAE), ("text", TEXT)
    ))  # fmt: skip
    if folder.exists():
        shutil.rmtree(folder)
    tokenizer = CLIPTokenizer.from_pretrained(SUITES / "tiny" / "tokenizer", model_max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    count = 0
    for name, make in {
        "unet": lambda: UNet2DConditionModel(sample_size=side // 8, **unet),
        "vae": lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **vae
        ),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**text, **ends, pad_token_id=ends["eos_token_id"])),
    }.items():
        part = make()
        count += sum(parameter.numel() for parameter in part.parameters())
        part.half().save_pretrained(folder / name)
        del part
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False).save_pretrained(
        folder / "scheduler"
    )
    return count


def steps(model: Path, out: Path, protection: str, policy: str) -> dict[str, list[str]]:
    """The command lines, without ``redcloak`` itself; each reads only what is there before the first."""
    settings, optimizer = POLICIES[policy]
    run = [word for setting in settings for word in ("--set", setting)]
    suite = ["--suite", str(model), "--set", "class_images=2", "--set", "sampling_steps=2", *run]
    rounds = {"aspl": ["rounds=1", "clean_steps=1", "ascent_steps=2", "protected_steps=1"]}.get(protection, ["steps=2"])
    cut = [word for setting in rounds for word in ("--set", setting)]
    trained = ["--set", "steps=2", "--set", f"optimizer={optimizer}"]
    photos = str(out / "photos")
    return {
        f"protect ({protection})": ["protect", photos, "--with", protection, *cut, *suite],
        "personalize (full)": ["personalize", photos, "--with", "dreambooth", *trained, *suite],
        "personalize (LoRA)": ["personalize", photos, "--with", "lora", *trained, *suite],
        "generate": ["generate", str(model), "-n", "1", "--steps", "2", *run],
    }


def photos(folder: Path, side: int) -> None:
    """Two photos of a drawn person."""
    from redcloak.images import save_images, to_tensor
    from redcloak.portraits import subject

    save_images(folder, to_tensor(subject(0, shots=2, size=side)))


def measured(words: Sequence[str], out: Path, limit: float) -> dict[str, Any]:
    """Run one verb: seconds, and the most that was resident or swapped out in GiB; stopped over the limit."""
    command = [sys.executable, "-m", "redcloak", *words, "--out", str(out), "--force"]
    begun, most = time.perf_counter(), 0.0
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            most = max(most, resident(process.pid))
            if most > limit:
                process.kill()
                process.wait()
                return {"GiB": most, "seconds": time.perf_counter() - begun, "status": f"stopped over {limit:g} GiB"}
            time.sleep(0.05)
    told = (out.parent / f"{out.name}.log").read_text().strip().splitlines()
    status = "" if process.returncode == 0 else f"failed: {told[-1] if told else process.returncode}"
    return {"GiB": most, "seconds": time.perf_counter() - begun, "status": status}


def resident(pid: int) -> float:
    """What a process holds, in GiB, resident or swapped out; 0 once it is gone. Linux only."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(float(fields[name].split()[0]) for name in ("VmRSS", "VmSwap")) / 2**20
    except (OSError, KeyError):
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small configuration: proves the command")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--protection", default="advdm", help="advdm, or aspl, which trains a surrogate")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--limit", type=float, default=20, help="GiB; a step that takes more is stopped")
    parser.add_argument("--out", type=Path, default=Path("out/full_size"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    model = args.out / "model"
    args.out.mkdir(parents=True, exist_ok=True)
    count = write_model(model, args.small, args.side)
    photos(args.out / "photos", args.side)
    print(f"{count / 1e6:.1f} million parameters, {args.side}x{args.side}, limit {args.limit:g} GiB\n")
    print("| step | policy | peak GiB | seconds | |\n|---|---|---|---|---|")
    rows, failed = [], False
    for policy in args.policies:
        for number, (name, words) in enumerate(steps(model, args.out, args.protection, policy).items()):
            row = measured(words, args.out / f"{policy}-{number}", args.limit)
            rows.append({"step": name, "policy": policy, **row})
            failed |= bool(row["status"]) and policy == "with"
            print(f"| {name} | {policy} | {row['GiB']:.2f} | {row['seconds']:.0f} | {row['status']} |", flush=True)
    (args.out / "full_size.json").write_text(json.dumps({"parameters": count, "rows": rows}, indent=1) + "\n")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
