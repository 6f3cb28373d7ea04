"""SDSTrack: symmetric adapters around one frozen ViT, and complementary masked patch distillation.

Hou et al., "SDSTrack: Self-Distillation Symmetric Adapter Learning for Multi-Modal Visual Object Tracking", CVPR 2024,
arXiv 2403.16002; what the paper leaves open is as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from tracker.config import TUNED_GROUPS, SDSTrackSection
from tracker.errors import RGBXError
from tracker.models.config import elimination_layers
from tracker.models.elimination import to_grid
from tracker.models.tracker import BlockAdapter, Tracker, TrackerOutput, VitBlock
from tracker.tuning.base import BASE, Loss, RecomputedLayer, TunedTracker

MLP_SCALE = 0.5
"""Of the adapter beside the MLP, in the released code."""


class Bottleneck(nn.Module):
    """Linear, GELU, linear: ``(..., width)`` to the same, through ``hidden`` channels."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.up = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.up(self.act(self.down(x)))
        return answer


class SymmetricAdapter(BlockAdapter):
    """One bottleneck on what attention answers, with a skip, and one beside the MLP, at half weight."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.on_attention = Bottleneck(width, hidden)
        self.beside_mlp = Bottleneck(width, hidden)

    def attention(self, output: Tensor, normed: Tensor) -> Tensor:
        """Return ``output`` plus its bottleneck."""
        answer: Tensor = output + self.on_attention(output)
        return answer

    def mlp(self, output: Tensor, normed: Tensor) -> Tensor:
        """Return ``output`` plus half the bottleneck of ``normed``."""
        answer: Tensor = output + MLP_SCALE * self.beside_mlp(normed)
        return answer


class FusionLayer(RecomputedLayer):
    """A frozen block run once more over both streams, each token attending to the other stream alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.adapter = SymmetricAdapter(width, hidden)

    def forward(self, block: VitBlock, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``rgb`` and ``x (B, N, D)`` after the fusion."""
        both, _, _ = block.attend(torch.cat([rgb, x]), self.adapter, True)
        rgb, x = block.feed_forward(both, self.adapter).unflatten(0, (2, -1)).unbind(0)
        return rgb, x


class Distilled(NamedTuple):
    """What the network answers in training."""

    output: TrackerOutput
    """Of the clean crops."""
    masked: TrackerOutput
    """Of the same crops with tokens taken away."""
    distance: Tensor
    """``(B,)``: mean squared difference of the fused tokens of the two, averaged over the fusion layers."""


class SDSTrack(TunedTracker):
    """One frozen RGB tracker over both streams.

    The X stream's blocks carry an adapter (*cross-modal adaptation*); in ``fusion_layers`` the block is run a third
    time, over both streams with another adapter (*multimodal fusion adaptation*). Search tokens are dropped in each
    stream by itself, before the fusion. The streams' mean, normed, goes to the frozen head; a token that one stream
    dropped counts as zero in it.

    Fusion adapters exist in every layer, as in the released code, whose files and parameter counts have them; those of
    layers without fusion are never run.
    """

    method = "sdstrack"
    base_kind = "single_stream"
    trains = TUNED_GROUPS["sdstrack"]
    settings_type = SDSTrackSection
    has_unused = True

    settings: SDSTrackSection

    def __init__(self, base: Tracker, settings: SDSTrackSection) -> None:
        super().__init__(base, settings)
        config = base.config
        layers = settings.fusion_layers
        if layers is None:
            layers = tuple(sorted({*elimination_layers(config.depth), config.depth - 1}))
        if not layers or list(layers) != sorted({*layers} & {*range(config.depth)}):
            raise RGBXError(
                f"sdstrack.fusion_layers {layers} must be increasing layer numbers from 0 to {config.depth - 1}"
            )
        self.fusion_layers = layers
        hidden = max(1, int(config.embed_dim * settings.ratio))
        self.patch_embed_x = PatchEmbed(None, config.patch, 3, config.embed_dim)
        if settings.x_embedding == "copy":
            self.patch_embed_x.load_state_dict(base.rgb.patch_embed.state_dict())
        self.cross_modal = nn.ModuleList(SymmetricAdapter(config.embed_dim, hidden) for _ in range(config.depth))
        self.fusion = nn.ModuleList(FusionLayer(config.embed_dim, hidden) for _ in range(config.depth))

    def prior_names(self, name: str) -> list[str]:
        """Return where a parameter counts.

        X's patch embedding inherits the significance of RGB's if it starts as RGB's.
        """
        names = [BASE + name]
        if self.settings.x_embedding == "copy" and name.startswith("rgb.patch_embed."):
            names.append(name.replace("rgb.patch_embed.", "patch_embed_x."))
        return names

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput | Distilled:
        """Run normalized crops, RGB first.

        In training the result has the clean and the masked output, see :class:`Distilled`.
        """
        self.base.check_inputs(template, search, channels=(6,))
        rgb = [self.base.rgb.patch_embed(crop[:, :3]) for crop in (template, search)]
        x = [self.patch_embed_x(crop[:, 3:]) for crop in (template, search)]
        if not (self.training and self._distills):
            return self._answers(rgb, x)[0]
        masks = [self._masks(patches) for patches in rgb]
        rgb = [torch.cat([patches, patches * mask]) for patches, (mask, _) in zip(rgb, masks, strict=True)]
        x = [torch.cat([patches, patches * mask]) for patches, (_, mask) in zip(x, masks, strict=True)]
        output, taps = self._answers(rgb, x, copies=2 if self.settings.same_tokens else 1)
        halves = [tensor.chunk(2) for tensor in output]
        clean, dimmed = (TrackerOutput(*(half[index] for half in halves)) for index in (0, 1))
        distance = torch.stack([_squared_distance(*tap.chunk(2)) for tap in taps]).mean(dim=0)
        return Distilled(clean, dimmed, distance)

    @property
    def _distills(self) -> bool:
        return self.settings.masked_weight > 0 or self.settings.distillation_weight > 0

    def _masks(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return two masks ``(B, N, 1)``, 0 where the masked path lacks a token.

        Both modalities never lack the same token.
        """
        rgb_drawn, x_drawn = torch.rand(2, *patches.shape[:2], 1, device=patches.device)
        rgb = rgb_drawn >= self.settings.rgb_masked
        x = (x_drawn >= self.settings.x_masked) | ~rgb
        return rgb.to(patches.dtype), x.to(patches.dtype)

    def _answers(
        self, rgb_patches: list[Tensor], x_patches: list[Tensor], copies: int = 1
    ) -> tuple[TrackerOutput, list[Tensor]]:
        """Return the answer, and the fused tokens ``(B, 2 N, D)`` of each fusion.

        Patches of template and search region are ``(B, Nz, D)`` and ``(B, Ns, D)``.
        """
        base, config = self.base, self.config
        rgb, x = base.positions(*rgb_patches), base.positions(*x_patches)
        rgb_kept: Tensor | None = None
        x_kept: Tensor | None = None
        taps = []
        for layer in range(config.depth):
            rgb, rgb_kept = base.layer(base.rgb, layer, rgb, rgb_kept, None, copies)
            adapter: Any = self.cross_modal[layer]
            x, x_kept = base.layer(base.rgb, layer, x, x_kept, adapter, copies)
            if layer in self.fusion_layers:
                rgb, x = self.fusion[layer](base.rgb.blocks[layer], rgb, x)
                taps.append(torch.cat([rgb, x], dim=1))
        whole = [
            to_grid(tokens, kept, config.template_cells**2, config.search_cells)
            for tokens, kept in ((rgb, rgb_kept), (x, x_kept))
        ]
        return base.answer(base.rgb.norm((whole[0] + whole[1]) / 2)), taps

    def training_loss(self, loss: Loss) -> Loss:
        """Return the weighted sum of the clean crops' loss (0.6), the masked crops' loss (0.2) and the distance (0.1).

        The weights are those of the settings.
        """
        settings = self.settings

        def distilled(answer: Any, boxes: Tensor) -> Mapping[str, Tensor]:
            if isinstance(answer, TrackerOutput):
                clean = loss(answer, boxes)
                return {**clean, "total": settings.clean_weight * clean["total"]}
            clean, masked = loss(answer.output, boxes), loss(answer.masked, boxes)
            total = (
                settings.clean_weight * clean["total"]
                + settings.masked_weight * masked["total"]
                + settings.distillation_weight * answer.distance
            )
            return {**clean, "total": total, "masked": masked["total"], "distance": answer.distance}

        return distilled


def _squared_distance(clean: Tensor, masked: Tensor) -> Tensor:
    """Return ``(B,)``. Gradients reach both arguments, as in the released code."""
    return (clean - masked).float().square().mean(dim=(1, 2))
