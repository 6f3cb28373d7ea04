"""The significance map: one non-negative tensor for each parameter name, and a record of how it was made."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from srft_kernels._names import shortened
from srft_kernels.significance import storage
from srft_kernels.significance.comparison import Comparison, compare
from srft_kernels.significance.statistics import (
    LayerStatistics,
    depth_grid,
    layer_statistics,
    quantile_grid,
    table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Names = Mapping[str, "str | Sequence[str] | None"] | Callable[[str], "str | Sequence[str] | None"]


class SignificanceMap(Mapping[str, Tensor]):
    """A mapping from parameter name to significance: real floating, finite, ≥ 0, of the parameter's shape.

    Args:
        tensors: Any mapping from names to tensors. Tensors are kept as they are (detached, not copied).
        estimator: The name of the estimator that made the map.
        samples: How many samples it saw, or None where that has no meaning.
        model: The class name of the model.
        info: Anything else worth keeping with the map. It must be JSON when the map is saved.
        version: The version of this library that made the map. By default it is the one installed.

    Raises:
        ValueError: If a tensor is not real floating, not finite or negative anywhere; the message names it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        estimator: str = "given",
        samples: int | None = None,
        model: str = "",
        info: Mapping[str, Any] | None = None,
        version: str | None = None,
    ) -> None:
        self._tensors = {name: _validated(name, tensor) for name, tensor in tensors.items()}
        self.estimator = estimator
        self.samples = samples
        self.model = model
        self.info: dict[str, Any] = dict(info or {})
        self.version = _installed_version() if version is None else version

    # ---- mapping ----

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # A tensor comparison has no single truth value, so neither has the equality of two mappings of tensors.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.items()}

    @property
    def elements(self) -> int:
        return sum(tensor.numel() for tensor in self.values())

    @property
    def dtype(self) -> str:
        """The dtype of the tensors without its ``torch.`` prefix, or ``"mixed"``, or ``"none"`` for an empty map."""
        kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in self.values()}
        return kinds.pop() if len(kinds) == 1 else ("mixed" if kinds else "none")

    def __repr__(self) -> str:
        seen = "" if self.samples is None else f", {self.samples} samples"
        of = f" of {self.model}" if self.model else ""
        size = f"{len(self)} tensors, {self.elements:,} elements, {self.dtype}"
        return f"SignificanceMap({self.estimator}{of}{seen}: {size})"

    # ---- storage ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map and how it was made to a safetensors file. A rename puts the whole file in place.

        Args:
            path: The file, which is replaced if it exists.

        Raises:
            OSError: If the file cannot be written.
            TypeError: If ``info`` is not JSON.
        """
        storage.write(
            path,
            self._tensors,
            {
                "estimator": self.estimator,
                "samples": self.samples,
                "dtype": self.dtype,
                "model": self.model,
                "parameters": {name: list(shape) for name, shape in self.shapes.items()},
                "version": self.version,
                "info": self.info,
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> SignificanceMap:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            device: Where the tensors are loaded to.

        Returns:
            The map, with the record of how it was made.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file is truncated, of another kind, or holds values that no significance has.
        """
        tensors, made = storage.read(path, device)
        try:
            return cls(
                tensors,
                estimator=str(made["estimator"]),
                samples=made["samples"],
                model=str(made["model"]),
                info=made["info"],
                version=str(made["version"]),
            )
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    # ---- fitting a model ----

    def check(
        self,
        named_parameters: nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        *,
        strict: bool = True,
    ) -> list[str]:
        """Refuse a model that this map does not fit.

        Names that the model lacks and shapes that differ are always refused.

        Args:
            named_parameters: A module, a mapping, or what ``module.named_parameters()`` returns.
            strict: Whether a parameter without a prior is refused. If not, its significance counts as 0.

        Returns:
            The names of the parameters without a prior.

        Raises:
            ValueError: If the map does not fit. The message has at most ten of the names that differ of each kind, and
                how many there are.
        """
        if isinstance(named_parameters, nn.Module):
            named_parameters = named_parameters.named_parameters()
        parameters = dict(named_parameters)
        missing = [name for name in parameters if name not in self]
        unexpected = [name for name in self if name not in parameters]
        shapes = [
            f"{name} (model {tuple(parameters[name].shape)}, map {tuple(self[name].shape)})"
            for name in self
            if name in parameters and parameters[name].shape != self[name].shape
        ]
        complaints = [
            _listed("parameters without significance", missing) if strict else "",
            _listed("names that the model lacks", unexpected),
            _listed("shapes that differ", shapes),
        ]
        if any(complaints):
            raise ValueError(
                "this significance map does not fit the model: "
                + "; ".join(filter(None, complaints))
                + ". Rename the map (SignificanceMap.rename), estimate it anew for this model"
                + (", or allow parameters without a prior (strict=False)" if complaints[0] else "")
            )
        return missing

    def rename(self, mapping: Names) -> SignificanceMap:
        """Return the same significances under other names, such as an RGB network's for both streams of another.

        Args:
            mapping: A callable or a dict that maps a name to its new name, to a list of new names (each gets the same
                tensor, not a copy), or to None to leave it out. A name that a dict does not mention stays as it is.

        Returns:
            A map with the same tensors.

        Raises:
            ValueError: If a dict mentions a name that the map lacks, or two significances would get the same name.
        """
        if isinstance(mapping, Mapping):
            unknown = [name for name in mapping if name not in self]
            if unknown:
                raise ValueError(f"cannot rename: {_listed('names that the map lacks', unknown)}")
        renamed: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        for name, tensor in self.items():
            target = mapping.get(name, name) if isinstance(mapping, Mapping) else mapping(name)
            targets = [] if target is None else [target] if isinstance(target, str) else list(target)
            for new in targets:
                if new in renamed:
                    raise ValueError(
                        f"cannot rename: both {origin[new]!r} and {name!r} would become {new!r}; "
                        "give each its own name, or None to leave one out"
                    )
                renamed[new] = tensor
                origin[new] = name
        return self._like(renamed)

    # ---- values ----

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> SignificanceMap:
        """Return the map in another dtype or on another device.

        Raises:
            ValueError: If a value overflows the dtype.
        """
        return self._like({name: tensor.to(device=device, dtype=dtype) for name, tensor in self.items()})

    def normalized(self, how: Literal["tensor", "global"] = "tensor") -> SignificanceMap:
        """Return P̂ = P / mean(P), with the mean over each tensor or over all elements. P̂ is 0 if the mean is 0."""
        if how not in ("tensor", "global"):
            raise ValueError(f'how must be "tensor" or "global", got {how!r}')
        mass = {name: float(tensor.sum(dtype=torch.float64)) for name, tensor in self.items()}
        common = sum(mass.values()) / max(self.elements, 1)
        result = {}
        for name, tensor in self.items():
            mean = common if how == "global" else mass[name] / max(tensor.numel(), 1)
            result[name] = tensor / mean if mean > 0.0 else torch.zeros_like(tensor)
        return self._like(result)

    # ---- looking at it ----

    def statistics(self, by: Literal["layer", "parameter"] = "layer") -> list[LayerStatistics]:
        """Return one row for each layer or each parameter, in the map's order.

        A layer is a parameter's name without its last part.
        """
        return layer_statistics(self, by)

    def report(self, by: Literal["layer", "parameter"] = "layer") -> str:
        """Return a table in plain text: elements, mean, max, share of the mass, share of elements above ten means."""
        return table(self.statistics(by), title=repr(self))

    def plot(
        self, target: str | os.PathLike[str] | Axes | None = None, by: Literal["layer", "parameter"] = "layer"
    ) -> Axes:
        """Draw the mean and the share of the mass of each layer as bars.

        This needs matplotlib (``pip install srft-kernels[plot]``).

        Args:
            target: A file to write, axes to draw into, or None for a new figure.
            by: Whether a bar is a layer or a parameter.

        Returns:
            The axes.
        """
        from srft_kernels.significance.plot import plot_statistics

        return plot_statistics(self.statistics(by), target, title=repr(self))

    def plot_heatmap(
        self,
        target: str | os.PathLike[str] | Axes | None = None,
        columns: Literal["quantiles", "kind"] = "quantiles",
        by: Literal["layer", "parameter"] = "layer",
    ) -> Axes:
        """Draw a heat map on a logarithmic scale.

        ``"quantiles"`` shows quantiles of the significance in each layer (or parameter). ``"kind"`` shows the mean by
        depth and kind of parameter, where names have a block's number. ``target`` is as in :meth:`plot`.
        """
        from srft_kernels.significance.plot import plot_heat

        if columns not in ("quantiles", "kind"):
            raise ValueError(f'columns must be "quantiles" or "kind", got {columns!r}')
        grid = quantile_grid(self, by) if columns == "quantiles" else depth_grid(self)
        label = "significance" if columns == "quantiles" else "mean significance"
        return plot_heat(*grid, target, repr(self), label=label)

    def compare(self, other: Mapping[str, Tensor], by: Literal["layer", "parameter"] = "parameter") -> Comparison:
        """Compare two maps of one model, parameter by parameter or layer by layer.

        For each that both maps have, the result holds the rank correlation, the share of the most significant tenth
        that they have in common, and the ratio of their sums. Its ``.report()`` is a table and its ``.plot()`` is a
        heat map.

        Raises:
            ValueError: If they have no name in common, or if shapes differ.
        """
        return compare(
            self, other, by, title=f"{self!r} against {other!r}" if isinstance(other, SignificanceMap) else repr(self)
        )

    def _like(self, tensors: Mapping[str, Tensor]) -> SignificanceMap:
        return SignificanceMap(
            tensors,
            estimator=self.estimator,
            samples=self.samples,
            model=self.model,
            info=self.info,
            version=self.version,
        )


def _validated(name: object, tensor: object) -> Tensor:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a significance needs the name of its parameter, got {name!r}")
    if not isinstance(tensor, Tensor):
        raise ValueError(f"the significance of {name!r} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"the significance of {name!r} must be real floating, got {tensor.dtype}")
    tensor = tensor.detach()
    if tensor.numel():
        # NaN fails every comparison, so one pass finds NaN, infinities and negative values.
        fits = (tensor >= 0) & (tensor < float("inf"))
        if not bool(fits.all()):
            worst = tensor[~fits].reshape(-1)[0].item()
            raise ValueError(
                f"the significance of {name!r} must be finite and ≥ 0; {int((~fits).sum())} of "
                f"{tensor.numel()} elements are not, the first of them {worst}"
            )
    return tensor


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what}: {shortened(names)}"


def _installed_version() -> str:
    try:
        return importlib.metadata.version("srft-kernels")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
