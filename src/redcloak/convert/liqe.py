"""``python -m redcloak.convert.liqe FILE TOKENIZER OUT``: LIQE's public checkpoint as a folder of safetensors.

FILE is a pickle with the weights of OpenAI's CLIP under OpenAI's names, as LIQE.pt is. It is read with
``torch.load(weights_only=True)``, which builds tensors and runs no code of the file. TOKENIZER is a folder with CLIP's
own vocabulary, such as the ``tokenizer`` of Stable Diffusion 1.5. OUT is read by transformers as a ``CLIPModel``; any
other CLIP under OpenAI's names is converted just so. The sizes are read off the tensors, with 64 channels a head, as
all of OpenAI's transformers have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from redcloak.convert.command import command
from redcloak.errors import UserError

HEAD = 64
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
SINGLE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TURNED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
IGNORED = {"input_resolution", "context_length", "vocab_size"}  # numbers that OpenAI's archives keep beside the weights


def convert(source: Path, tokenizer: Path, out: Path) -> int:
    """Write the folder: how many tensors it has.

    Raises:
        UserError: the source is no checkpoint of plain tensors or no such CLIP, or there is no tokenizer.
    """
    from transformers import CLIPModel, CLIPTokenizer

    from redcloak.backbone import quietly
    from redcloak.convert.safetensors import read

    state = read(source)
    renamed = dict(_renamed(state))
    with quietly(), torch.random.fork_rng(devices=[]):
        try:
            words = CLIPTokenizer.from_pretrained(tokenizer)
        except Exception as error:  # the reader raises anything on a folder that is none
            raise UserError(f"TOKENIZER = {str(tokenizer)!r}: no CLIP tokenizer: {error}.") from None
        model = CLIPModel(_config(state))
    missing, spare = model.load_state_dict(renamed, strict=False)
    lacking = [name for name in missing if not name.endswith("position_ids")]
    if lacking or spare:
        raise UserError(f"FILE = {str(source)!r}: not a CLIP of OpenAI's kind: {[*lacking, *spare][0]}.")
    model.save_pretrained(out)
    words.save_pretrained(out)
    return len(renamed)


def _config(state: Mapping[str, Tensor]) -> object:
    from transformers import CLIPConfig

    patch = state["visual.conv1.weight"]
    places = len(state["visual.positional_embedding"]) - 1
    end = len(state["token_embedding.weight"]) - 1  # CLIP's vocabulary ends with the end of a text
    vision = {
        **_tower(state, "visual.", len(patch)),
        "patch_size": patch.shape[-1],
        "image_size": patch.shape[-1] * round(places**0.5),
    }
    text = {
        **_tower(state, "", state["token_embedding.weight"].shape[1]),
        "vocab_size": end + 1,
        "max_position_embeddings": len(state["positional_embedding"]),
        "eos_token_id": end,
        "bos_token_id": end - 1,
        "pad_token_id": end,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=state["text_projection"].shape[1])


def _tower(state: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, object]:
    start = f"{prefix}transformer.resblocks."
    blocks = {int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)}
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": max(1, width // HEAD),
        "projection_dim": state["text_projection"].shape[1],
        "hidden_act": "quick_gelu",
    }


def _renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under transformers' name; a :class:`UserError` at the first that has none."""
    absent = [name for name in (*SINGLE, *TURNED) if name not in state]
    if absent:
        raise UserError(f"FILE holds no {absent[0]}: it is no CLIP transformer under OpenAI's names.")
    for name, value in state.items():
        tensor = value.float()
        if name in SINGLE:
            yield SINGLE[name], tensor
        elif name in TURNED:
            yield TURNED[name], tensor.T.contiguous()
        elif "transformer.resblocks." in name:
            yield from _block(name, tensor)
        elif name not in IGNORED:
            raise UserError(f"FILE holds {name}, which a CLIP transformer of OpenAI's does not have.")


def _block(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    number, _, inner = name.partition("resblocks.")[2].partition(".")
    place = f"{tower}.encoder.layers.{number}"
    module, _, kind = inner.rpartition(".")
    if inner.startswith("attn.in_proj_"):
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{place}.self_attn.{letter}_proj.{inner.removeprefix('attn.in_proj_')}", part.contiguous()
    elif module in BLOCK:
        yield f"{place}.{BLOCK[module]}.{kind}", tensor
    else:
        raise UserError(f"FILE holds {name}, which a CLIP transformer of OpenAI's does not have.")


def main(arguments: Sequence[str]) -> int:
    """Convert, and say what was done: the exit status."""
    return command(convert, "redcloak.convert.liqe FILE TOKENIZER OUT", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
