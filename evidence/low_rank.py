"""Low-rank updates (LoRA, arXiv 2106.09685) beside linear layers, by ``peft``: W becomes W + (α/r) B A.

Held by significance it is LaLoRA's diagonal form (arXiv 2512.17720): a Laplace approximation of the old task's loss
around the adapters as they begin, whose curvature is that of A and B. B begins at zero, so that A has no gradient there
and is not held; B is, to zero.
"""

from __future__ import annotations

from torch import nn


def add(model: nn.Module, layers: str | list[str], rank: int, alpha: int) -> list[str]:
    """Put updates beside linear layers, in place, and freeze everything else.

    Args:
        model: The network.
        layers: The names of the layers, or a pattern that matches whole names.
        rank: r, the number of rows of A and of columns of B.
        alpha: α, which scales the updates by α/r.

    Returns:
        The names of the parameters that were added.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), model)
    return [name for name, _ in model.named_parameters() if ".lora_" in name]


def merge(model: nn.Module) -> None:
    """Add the updates to the weights that they stand beside, in place, and take them away: names are as before."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())
