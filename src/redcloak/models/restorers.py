"""Restorers and upscalers of other people: networks from one local safetensors file, recognised by spandrel.

A file is enough: the architecture and its sizes are read off the names and shapes of the weights. A suite's slot takes
them too: a folder that holds one safetensors file, or the Stable Diffusion x4 upscaler as a diffusers folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from redcloak.api import Progress
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.memory import at_once
from redcloak.models.align import restore_faces
from redcloak.parts import PICKLES

if TYPE_CHECKING:
    from redcloak.models.faces import FaceBackend
    from redcloak.models.slots import Enlarge, Restore

OF_FACES = ("CodeFormer", "GFPGAN")
DETACHED = (*OF_FACES, "RestoreFormer")  # their own code cuts the graph, or steps over a codebook
NON_COMMERCIAL = ("CodeFormer", "GFPGAN")  # spandrel itself has GFPGAN; it is kept behind the same extra
# Names of weights that tell a network, as far as spandrel goes by them; what it is known to be is asked when it loads.
SIGNS: dict[str, tuple[str, ...]] = {
    "SwinIR": (
        "layers.0.residual_group.blocks.0.norm1.weight",
        "layers.0.residual_group.blocks.0.mlp.fc1.bias",
        "layers.0.residual_group.blocks.0.attn.relative_position_index",
    ),
    "SCUNet": ("m_head.0.weight", "m_tail.0.weight"),
    "NAFNet": ("intro.weight", "ending.weight", "middle_blks.0.sca.1.weight", "encoders.0.0.beta"),
    "CodeFormer": (
        "position_emb",
        "idx_pred_layer.1.weight",
        "quantize.embedding.weight",
        "ft_layers.0.self_attn.in_proj_weight",
        "encoder.blocks.0.weight",
    ),
    "GFPGAN": ("toRGB.0.weight", "stylegan_decoder.style_mlp.1.weight"),
}


@dataclass(frozen=True)
class Network:
    """An image-to-image network: images ``(N, 3, H, W)`` in [0, 1] -> images ``scale`` times as large."""

    architecture: str
    module: nn.Module
    scale: int
    least: int
    multiple: int

    def __call__(self, images: Tensor) -> Tensor:
        """Whole pictures, so many together as what comes out has room for; in single precision."""
        height, width = images.shape[-2:]
        high, wide = (-(-max(side, self.least) // self.multiple) * self.multiple for side in (height, width))
        padded = F.pad(images, (0, wide - width, 0, high - height), mode="replicate")
        parts = torch.split(padded, at_once(high * self.scale, wide * self.scale))
        large = torch.cat([self.module(part.to(next(self.module.parameters()))) for part in parts])
        return large[..., : height * self.scale, : width * self.scale].clamp(0, 1).to(images)

    def of_faces(self, fidelity: float = 0.5) -> Callable[[Tensor], Tensor]:
        """The same for aligned faces ``(F, 3, 512, 512)``; ``fidelity`` is CodeFormer's w.

        Both networks know pictures in [-1, 1], which spandrel's own call leaves to the caller. GFPGAN draws the noise
        of its generator anew at each call; here it is the one that is stored with the weights.
        """
        asked: dict[str, Any] = {"CodeFormer": {"weight": fidelity}}.get(self.architecture, {"randomize_noise": False})

        def restore(faces: Tensor) -> Tensor:
            restored: Tensor = self.module(faces.to(next(self.module.parameters())) * 2 - 1, **asked)[0]
            return (restored / 2 + 0.5).clamp(0, 1).to(faces)

        return restore


class NetworkConfig(MethodConfig):
    """Base of the methods whose network comes from a file of the user's."""

    architectures: ClassVar[tuple[str, ...]] = ()

    weights: Path | None = Field(None, description="a safetensors file, or a folder with one; there is no default")

    @field_validator("weights")
    @classmethod
    def _file(cls, value: Path | None) -> Path | None:
        return None if value is None else weights_file(value)

    def check(self) -> None:
        """See that the file is given and there, that spandrel is, and that the names in it are those of the network."""
        name = " or ".join(self.architectures)
        if self.weights is None:
            raise UserError(f"weights: give a safetensors file of {name}, as in --set weights=FILE.safetensors.")
        if not self.weights.is_file():
            raise UserError(f"weights = {str(self.weights)!r}: no such file; give a safetensors file of {name}.")
        _installed(self.architectures)
        _recognise(self.weights, self.architectures)

    def network(self, device: str) -> Network:
        """The network of the file.

        Raises:
            UserError: as ``check``, or the file holds another network.
        """
        self.check()
        assert self.weights is not None
        return network(self.weights, self.architectures, device)


def weights_file(path: Path) -> Path:
    """The file itself, or the only safetensors file of a folder.

    Raises:
        UserError: a pickle, or a folder with none or several.
    """
    if not path.is_dir():
        _refuse_pickle(path)
        return path
    found = sorted(path.glob("*.safetensors"))
    if not found:
        for other in sorted(path.iterdir()):
            _refuse_pickle(other)
    if len(found) != 1:
        raise UserError(f"weights = {str(path)!r}: the folder holds {len(found)} safetensors files; name one.")
    return found[0]


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        new = path.with_suffix(".safetensors").name
        raise UserError(
            f"weights = {str(path)!r}: a pickle, which can run code when it is read; convert it where you trust it: "
            f"python -m redcloak.convert.safetensors {path} {new}"
        )


def names_in(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file, from its header; no tensor is read.

    Raises:
        UserError: the file is cut short, or of another kind.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        end = 8 + length + max((about["data_offsets"][1] for about in tensors.values()), default=0)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"weights = {str(path)!r}: not a whole safetensors file ({error}).") from None
    if end != path.stat().st_size:
        raise UserError(f"weights = {str(path)!r}: not a whole safetensors file ({end} bytes announced).")
    return set(tensors)


def _recognise(path: Path, wanted: Sequence[str]) -> None:
    """Refuse a file whose names are not those of the architectures that are wanted, before anything is computed."""
    names = names_in(path)
    names |= {name.removeprefix(prefix) for name in names for prefix in ("module.", "netG.")}
    found = [architecture for architecture, signs in SIGNS.items() if names.issuperset(signs)]
    if not set(wanted) & set(found):
        what = f"it holds {found[0]}" if found else "spandrel knows no such network"
        raise UserError(f"weights = {str(path)!r}: {what}; give {' or '.join(wanted)}.")


def network(path: Path, wanted: Sequence[str], device: str) -> Network:
    """The network of a safetensors file, frozen.

    Raises:
        UserError: it is none of the architectures ``wanted``, or none that spandrel knows; empty: any will do. It is a
            non-commercial one, and the extra that says so is not installed.
    """
    state = path.stat()
    found = _load(path, device, tuple(wanted), (state.st_mtime_ns, state.st_size))
    if wanted and found.architecture not in wanted:
        raise UserError(f"weights = {str(path)!r}: spandrel found {found.architecture}; give {' or '.join(wanted)}.")
    if found.architecture in NON_COMMERCIAL:
        _registry((found.architecture,))
    return found


@lru_cache(maxsize=4)
def _load(path: Path, device: str, wanted: tuple[str, ...], state: tuple[int, int]) -> Network:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    registry = _registry(wanted)
    import spandrel

    try:
        # The networks draw the weights that are about to be replaced, and some call torch in an outdated way.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            found = registry.load(load_file(path))
    except SafetensorError as error:
        raise UserError(f"weights = {str(path)!r}: not a whole safetensors file ({error}).") from None
    except spandrel.UnsupportedModelError:
        hint = f"give {' or '.join(wanted)}" if wanted else "CodeFormer needs pip install 'redcloak[restore-nc]'"
        raise UserError(f"weights = {str(path)!r}: spandrel knows no such network; {hint}.") from None
    except Exception as error:  # the names are an architecture's, the shapes are not: its reader raises anything
        said = " ".join(str(error).split())[:200]
        raise UserError(f"weights = {str(path)!r}: the network does not fit: {said or type(error).__name__}.") from None
    if not isinstance(found, spandrel.ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise UserError(f"weights = {str(path)!r}: {found.architecture.id} does not map colour pictures to such.")
    module = found.model.float().to(device).eval().requires_grad_(False)
    needs = found.size_requirements
    return Network(str(found.architecture.id), module, found.scale, needs.minimum, needs.multiple_of)


def _installed(wanted: Sequence[str]) -> bool:
    """See that spandrel is there, without loading it; whether its non-commercial architectures are wanted, too."""
    asked = any(name in NON_COMMERCIAL for name in wanted)
    extra = "restore-nc" if asked else "restore"
    for name in ("spandrel", "spandrel_extra_arches") if asked else ("spandrel",):
        if find_spec(name) is None:
            raise UserError(f"the package {name} is not installed: pip install 'redcloak[{extra}]'.")
    return asked


def _registry(wanted: Sequence[str]) -> Any:
    """The architectures that spandrel knows, with the non-commercial ones where one is wanted or anything will do."""
    asked = _installed(wanted)
    try:
        import spandrel

        registry = spandrel.MAIN_REGISTRY.copy()
        if asked or (not wanted and find_spec("spandrel_extra_arches")):
            from spandrel_extra_arches import EXTRA_REGISTRY

            registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    except (ImportError, RuntimeError) as error:  # torchvision fails with either where it does not fit torch
        raise UserError(
            f"spandrel does not load ({type(error).__name__}: {error}): "
            f"it needs a torchvision of the same build as torch {torch.__version__}."
        ) from None
    return registry


def restorer(folder: Path, device: str, faces: FaceBackend) -> Restore:
    """A suite's restorer from a folder with one safetensors file.

    Images in [0, 1] and fidelity in [0, 1] -> restored images of the same size. CodeFormer and GFPGAN restore the faces
    in them; only CodeFormer is told the fidelity.
    """
    from redcloak.models.slots import Restore

    net = network(weights_file(folder), (), device)
    if net.scale != 1:
        raise UserError(
            f"restorer {str(folder)!r}: {net.architecture} enlarges {net.scale} times; a restorer does not."
        )

    def restore(images: Tensor, fidelity: float, progress: Progress) -> Tensor:
        if net.architecture in OF_FACES:
            return restore_faces(images, net.of_faces(fidelity), faces, progress)
        return net(images)

    return Restore(restore, differentiable=net.architecture not in DETACHED)


def upscaler(folder: Path, device: str) -> Enlarge:
    """A suite's x4 upscaler: Stable Diffusion's as a diffusers folder, or a folder with one safetensors file.

    Images, a prompt, a noise level and a generator per image -> images four times as large. A network from a single
    file knows neither prompt nor noise. Stable Diffusion's pipeline keeps no graph.
    """
    from redcloak.models.slots import Enlarge

    if (folder / "model_index.json").is_file():
        from redcloak.models.sdx4 import enlarge, load

        pipeline = load(folder, device)

        def drawn(
            images: Tensor, prompt: str, noise_level: int, generators: Sequence[Generator], added: int | None
        ) -> Tensor:
            return enlarge(pipeline, images, prompt, noise_level, generators, added=added)

        return Enlarge(drawn, differentiable=False)
    net = network(weights_file(folder), (), device)
    if net.scale != 4:
        raise UserError(f"upscaler {str(folder)!r}: {net.architecture} enlarges {net.scale} times instead of 4.")

    def untold(
        images: Tensor, prompt: str, noise_level: int, generators: Sequence[Generator], added: int | None
    ) -> Tensor:
        if added is not None and added != noise_level:
            raise UserError(
                f"upscaler {str(folder)!r}: {net.architecture} cannot be told of noise, so noisy_upscaling cannot use "
                "it; take a suite whose upscaler is a diffusion model."
            )
        return net(images)

    return Enlarge(untold, differentiable=net.architecture not in DETACHED)
