"""A whole suite with random weights, smaller than the shipped one, written once a session and loaded like any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from redcloak.api import Context, Kind
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.images import to_tensor
from redcloak.portraits import subject
from redcloak.registry import Entry, load
from redcloak.runtime.matrix import Graph, Node
from redcloak.suite import Suite

# A loaded machine is no failure, and everybody's run tries the same examples.
settings.register_profile("patient", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

RECIPES = Path(__file__).parents[1] / "recipes" / "tiny"
SPEC = """\
name: small
title: random weights
resolution: 64
backbone: .
clip: clip
restorer: restorer
upscaler: upscaler
quality: quality
pixel: pixel
defaults:
  dreambooth: {steps: 7, batch: 2}
"""


@pytest.fixture(scope="session")
def suite_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's folder, its files signed in a manifest. Do not change it: copy it."""
    folder = tmp_path_factory.mktemp("small")
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.syspath_prepend(str(RECIPES))
        _write_backbone(folder)
        _write_rest(folder)
        _write_pixel(folder / "pixel")
    (folder / "suite.yaml").write_text(SPEC)
    sign(folder)
    return folder


@pytest.fixture(scope="session")
def suite(suite_folder: Path) -> Suite:
    return Suite(suite_folder)


@pytest.fixture(scope="session")
def clip_folder(suite_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers CLIP with random weights, and its tokenizer. Do not change it: copy it."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clips") / "vit-random"
    tokenizer = CLIPTokenizer.from_pretrained(suite_folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    return folder


@pytest.fixture
def backbone(suite: Suite) -> Iterator[Backbone]:
    """The suite's backbone; it must be handed back as it was."""
    before = checksum(suite.backbone)
    yield suite.backbone
    assert checksum(suite.backbone) == before, "the test left another backbone behind"


@pytest.fixture
def context(suite: Suite, class_images: Tensor) -> Context:
    return Context(suite, class_images=class_images)


@pytest.fixture(scope="session")
def photos() -> Tensor:
    """Three photos of one drawn person on the 8-bit lattice, some of their pixels black, some white."""
    images = to_tensor(subject(2, shots=3))
    images[..., :4, :4], images[..., -4:, :4] = 0, 1
    return images


@pytest.fixture(scope="session")
def wide(photos: Tensor) -> Tensor:
    """Three photos that are not square, 48 pixels high and 72 wide."""
    return torch.cat([photos, photos.flip(-1)], -1)[..., 8:56, 20:92].contiguous()


@pytest.fixture(scope="session")
def class_images() -> Tensor:
    return to_tensor([subject(number, shots=1)[0] for number in (5, 6)])


@pytest.fixture
def no_room() -> Callable[[], AbstractContextManager[None]]:
    """A block in which the system refuses every write, as a full disk does: files are made, and stay empty."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def refused() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return refused


def checksum(backbone: Backbone) -> str:
    """Every weight, and whether it takes gradients or holds one."""
    total = hashlib.sha256()
    for part in (backbone.vae, backbone.unet, backbone.text_encoder):
        for name, value in part.named_parameters():
            total.update(f"{name} {value.requires_grad} {value.grad is None}".encode())
            total.update(value.detach().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def sign(folder: Path) -> None:
    """Write the manifest that a suite is checked against."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder]
    sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(sums))


def _write_backbone(folder: Path) -> None:
    from build_tokenizer import build
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    tokenizer = build(folder / "tokenizer")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.7,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    CLIPTextModel(_text_config(tokenizer)).save_pretrained(folder / "text_encoder")
    DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False).save_pretrained(folder / "scheduler")


def _write_pixel(folder: Path) -> None:
    """Of half the photos' side, so that they are resized, and are more than one tile."""
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    )
    unet.save_pretrained(folder)
    DDPMScheduler(1000, 0.0001, 0.02, "linear", variance_type="fixed_small").save_pretrained(folder)


def _write_rest(folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    from redcloak.models.nets import ImageTower, Quality, Restorer, Upscaler

    parts = {
        "clip/image": ImageTower(width=8, dimension=16),
        "restorer": Restorer(width=8, depth=1),
        "upscaler": Upscaler(width=8, depth=1),
        "quality": Quality(width=8),
    }
    for name, model in parts.items():
        (folder / name).mkdir(parents=True)
        model.save_config(folder / name)
        save_file(_stirred(model).state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
    text = CLIPTextModelWithProjection(_text_config(CLIPTokenizer.from_pretrained(folder / "tokenizer")))
    text.save_pretrained(folder / "clip" / "text")


def _text_config(tokenizer):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def _stirred(model: nn.Module) -> nn.Module:
    """The layers that start at zero, so that the network starts as the identity, are given something to do."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def here(kind: Kind, name: str) -> bool:
    """Whether the weights that a method brings along by default are on this machine."""
    try:
        load(kind, name).config().check()
    except UserError:
        return False
    return True


def quick(entry: Entry, **settings: Any) -> Any:
    """The method's defaults, its loops cut to two turns, what it enlarges made small."""
    fields = entry.config.model_fields
    loops = [name for name in fields if name.endswith(("steps", "rounds", "unroll", "snapshots"))]
    base = {"base": {"name": "advdm", "settings": {"steps": 2}}} if "base" in fields else {}
    small = {"shrink": 4} if "shrink" in fields else {}
    return entry.configure(**(dict.fromkeys(loops, 2) | base | small | settings))


@pytest.fixture
def diamond() -> tuple[Graph, Node, list[Node], list[Node]]:
    """photos -> two purifiers -> one score each; and one more score of the photos."""
    graph = Graph()
    photos = graph.add("photos", {"n": 4})
    purified = [graph.add("purify", {"with": name}, {"images": photos}) for name in ("jpeg", "restore")]
    scores = [graph.add("score", {}, {"images": images}) for images in (*purified, photos)]
    return graph, photos, purified, scores
