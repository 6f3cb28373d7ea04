"""How a tuning method plugs in: a module that wraps the pre-trained network and says what trains.

A method is a subclass of :class:`TunedTracker` in a file of its own, listed by name in :mod:`tracker.tuning.methods`.
Its settings are a section of :mod:`tracker.config` with the method's name. It does not copy the backbone's code: it
calls the parts of :class:`tracker.models.tracker.Tracker` (``tokens``, ``layer``, ``answer``), and what it adds inside
a block is a :class:`tracker.models.tracker.BlockAdapter`. docs/tuning/README.md has the whole of it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from tracker.config import Section
from tracker.errors import RGBXError
from tracker.models.center_head import CenterHead
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, TrackerOutput

if TYPE_CHECKING:
    from tracker.config import RunConfig

BASE = "base."
"""What the names of the wrapped network's tensors begin with."""

Loss = Callable[[Any, Tensor], Mapping[str, Tensor]]
"""From what the network answers and boxes ``(B, 4)`` to losses by name, ``(B,)`` each, ``total`` among them."""

LoadTracker = Callable[..., "tuple[Tracker | TunedTracker, NetworkConfig, Mapping[str, Any]]"]
"""From a checkpoint's path or name to the network, its shape and what its file says of it."""


class Origin(NamedTuple):
    """The network that a method started from: the name or path of its file, and the fingerprint of its weights."""

    file: str
    fingerprint: str


class TunedTracker(nn.Module, abc.ABC):
    """A pre-trained tracker with what a tuning method adds to it; runs wherever a ``Tracker`` does.

    Args:
        base: the pre-trained network, of the kind ``base_kind``. It is kept as it is, under the name ``base``.
        settings: the method's section of the configuration.

    Raises:
        RGBXError: the base is of another kind.
    """

    method: ClassVar[str]
    """The name in the configuration: ``tuning: NAME``."""
    base_kind: ClassVar[str]
    """``single_stream``: the RGB tracker itself. ``two_stream``: SRTrack's two streams made of it."""
    trains: ClassVar[tuple[str, ...]]
    """Parameter groups (:mod:`tracker.models.groups`) that train. Whatever does not belong to the base is in the group
    ``adapters``, but for a patch embedding named ``patch_embed_x``, which is in ``embed_x``."""
    settings_type: ClassVar[type[Section] | None] = None
    """The class of the method's section of the configuration, if it has one."""
    has_unused: ClassVar[bool] = False
    """Whether some parameters get no gradient, which several processes have to know of."""
    eliminates: ClassVar[bool] = True
    """Whether the base may drop search tokens (:mod:`tracker.models.elimination`)."""
    saves_base: ClassVar[bool] = False
    """Whether files hold the base too. Else they hold what was trained, and the base's fingerprint."""

    def __init__(self, base: Tracker, settings: Any) -> None:
        super().__init__()
        if base.config.kind != self.base_kind:
            raise RGBXError(
                f"tuning {self.method} starts from a {self.base_kind} network, not a {base.config.kind} one"
            )
        self.base = base
        self.settings = settings
        self.origin: Origin | None = None
        self.trained: frozenset[str] = frozenset()
        """Names of the parameters that training changes or has changed; set by ``parameter_groups`` and by loading."""

    @classmethod
    def start(cls, base: Tracker, settings: Any, cross_layers: tuple[int, ...] | None = None) -> TunedTracker:
        """Return the method at its start, around an RGB tracker or, if it takes two streams, a two-stream tracker.

        ``cross_layers`` are where two streams that are made of an RGB tracker meet; None leaves them as its
        configuration has them.

        Raises:
            RGBXError: two streams are given, and the method needs the single one that they came from.
        """
        if cls.base_kind == "two_stream" and base.config.kind == "single_stream":
            config = base.config.replace(kind="two_stream")
            base = initialize_two_stream(
                base, config if cross_layers is None else config.replace(cross_layers=cross_layers)
            )
        return cls(base, settings)

    @abc.abstractmethod
    def forward(self, template: Tensor, search: Tensor) -> Any:
        """Normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``, RGB first and X last.

        In evaluation mode the answer is a :class:`TrackerOutput`. In training mode it may be anything that
        :meth:`training_loss` understands.
        """

    def training_loss(self, loss: Loss) -> Loss:
        """Return the loss of training, made of the tracking loss, which takes a :class:`TrackerOutput`.

        It answers the tracking loss's names; more of them are logged as they are. The default adds nothing.
        """
        return loss

    def begin_training(self, config: RunConfig, load: LoadTracker) -> None:
        """Make teachers and caches. This is called once before a run, with its configuration, on the run's device.

        ``load`` is :func:`tracker.tuning.files.load_tracker`, which knows all methods and so cannot be imported by one.

        A module that only training needs, and that is neither trained nor saved, goes into :meth:`keep_aside`.
        """

    def keep_aside(self, module: nn.Module) -> nn.Module:
        """Freeze ``module``, put it into evaluation mode and keep it out of this module's parameters and state.

        It moves with this module from device to device.
        """
        module.eval().requires_grad_(False)
        self.__dict__.setdefault("_aside", []).append(module)
        return module

    def prior_names(self, name: str) -> list[str]:
        """Return this module's parameters for which the significance of the base's parameter ``name`` counts."""
        return [BASE + name]

    def merged(self) -> Tracker | None:
        """Return a plain tracker with the same output if the additions can be computed into the weights, else None."""
        return None

    # ------------------------------------------------- what the rest of the project asks of a tracker

    @property
    def config(self) -> NetworkConfig:
        """The base's configuration."""
        return self.base.config

    @property
    def head(self) -> CenterHead:
        """The base's head."""
        return self.base.head

    def set_keep_ratio(self, ratio: float) -> None:
        """Do as :meth:`Tracker.set_keep_ratio`."""
        self.base.set_keep_ratio(ratio)

    def added(self, name: str) -> bool:
        """Return whether a tensor of this module's state is the method's and not the base's."""
        return not name.startswith(BASE)

    def runs_with(self, name: str) -> bool:
        """Return whether a tensor is needed to run.

        What only training needs is in a run's checkpoints and in no file.
        """
        return True

    def saved_state(self) -> dict[str, Tensor]:
        """Return what a file has to hold: all that is not the base's, and what of the base was trained.

        With a trained head the statistics of its batch normalization belong to it.
        """
        head = any(name.startswith(f"{BASE}head.") for name in self.trained)
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if self.saves_base or self.added(name) or name in self.trained or (head and name.startswith(f"{BASE}head."))
        }

    def _apply(self, fn: Any, recurse: bool = True) -> TunedTracker:
        for module in self.__dict__.get("_aside", []):
            module._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class RecomputedLayer(nn.Module):
    """A layer that calls the halves of blocks itself: ``train.activation_checkpointing`` recomputes it as a whole.

    Its ``forward`` takes positional arguments alone: tensors, None, numbers and modules.
    """

    recomputed = True


def tracker_output(answer: Any) -> TrackerOutput:
    """Return the tracker's output within what a method returns in training: itself, or its attribute ``output``."""
    found: TrackerOutput = answer if isinstance(answer, TrackerOutput) else answer.output
    return found
