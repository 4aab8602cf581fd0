"""Rebuild the whole suite: every recipe in order, each resumable. Hours on a laptop; see the model card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ORDER = (
    "build_tokenizer", "data", "train_vae", "train_clip", "train_unet", "train_text", "train_restorer",
    "train_upscaler", "train_quality", "train_pixel",
)  # fmt: skip


def main() -> None:
    for name in ORDER:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)


if __name__ == "__main__":
    main()
