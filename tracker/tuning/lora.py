"""LoRA: low-rank updates of the two streams' linear layers, by the library ``peft``."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from tracker.config import TUNED_GROUPS, LoRASection
from tracker.errors import RGBXError
from tracker.models.tracker import Tracker, TrackerOutput
from tracker.tuning.base import BASE, TunedTracker

UPDATE = "lora_"
"""In the names of what ``peft`` adds."""


class LoRA(TunedTracker):
    """Every linear layer of the targets gets W + (alpha / rank) B A, of which A and B train; B starts at zero.

    Streams and cross blocks alike. The update merges into the weights, so a tuned tracker runs as fast as a plain one.
    """

    method = "lora"
    base_kind = "two_stream"
    trains = TUNED_GROUPS["lora"]
    settings_type = LoRASection

    settings: LoRASection

    def __init__(self, base: Tracker, settings: LoRASection) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise RGBXError(
                f'tuning lora needs peft, and {error.name} is missing; pip install "srft-kernels[tuning]"'
            ) from None
        super().__init__(base, settings)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=rf".*\.(attn|mlp)\.({'|'.join(settings.targets)})",
            use_dora=settings.dora,
        )
        inject_adapter_in_model(config, base)

    def added(self, name: str) -> bool:
        """Return whether a tensor is the method's. ``peft`` puts its weights inside the base's layers."""
        return UPDATE in name

    def prior_names(self, name: str) -> list[str]:
        """Return where the base's parameter counts.

        ``peft`` moves the weight of a layer that it updates one module down.
        """
        module, _, tensor = name.rpartition(".")
        return [f"{BASE}{module}.base_layer.{tensor}", BASE + name]

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Run the base with the updates in its layers."""
        output: TrackerOutput = self.base(template, search)
        return output

    def merged(self) -> Tracker:
        """Return the two-stream tracker with the updates in its weights; this network stays as it is."""
        from peft.tuners.lora import LoraLayer

        plain: Tracker = copy.deepcopy(self.base)
        updated = [(name, module) for name, module in plain.named_modules() if isinstance(module, LoraLayer)]
        for name, module in updated:
            layer: Any = module
            layer.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent), attribute, layer.get_base_layer())
        return plain.requires_grad_(True).train(self.training)
