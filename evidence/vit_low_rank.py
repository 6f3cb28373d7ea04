"""Low-rank updates (LoRA, arXiv 2106.09685) of a ViT's linear layers by ``peft``, which become plain weights again."""

from __future__ import annotations

from torch import nn

RANK, ALPHA = 16, 32
TARGETS = ["qkv", "proj", "fc1", "fc2"]
"""As the tracker's ``tuning=lora`` has them."""


def add(model: nn.Module) -> list[str]:
    """Put updates beside the linear layers of all blocks, in place, and freeze the layers; names of what was added."""
    from peft import LoraConfig, inject_adapter_in_model

    # The projection of patches is called "proj" too.
    layers = rf"blocks\..+\.({'|'.join(TARGETS)})"
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers), model)
    return [name for name, _ in model.named_parameters() if ".lora_" in name]


def merge(model: nn.Module) -> None:
    """Add the updates to the weights that they stand beside, in place, and take them away: names are as before."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())
