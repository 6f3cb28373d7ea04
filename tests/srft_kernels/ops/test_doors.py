"""Every operator of the compiled libraries answers any call or refuses it in a sentence, and never writes elsewhere.

Every tensor lies between two stretches of known bytes, which are looked at after each call. The CUDA library is the one
that runs on the host (cuda_on_host/).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from srft_kernels.ops.contract import Damping, Mode
from srft_kernels.ops.layouts import look
from srft_kernels.ops.native import library
from tests.srft_kernels.ops.step_cases import make_case

pytestmark = pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")

FENCE, KNOWN = 256, 0x5A
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Yard:
    """Keeps tensors between fences, which are known bytes."""

    def __init__(self) -> None:
        self._rooms: list[Tensor] = []

    def place(self, tensor: Tensor, shift: int = 0) -> Tensor:
        """Return a copy with a fence on both sides, ``shift`` elements off an aligned place."""
        bytes_ = tensor.numel() * tensor.element_size()
        before = FENCE + shift * tensor.element_size()
        room = torch.full((before + bytes_ + FENCE,), KNOWN, dtype=torch.uint8)
        own = room[before : before + bytes_].view(tensor.dtype).view(tensor.shape)
        own.copy_(tensor)
        self._rooms.append(room)
        return own

    def snapshot(self) -> list[Tensor]:
        return [room.clone() for room in self._rooms]

    def assert_fences(self) -> None:
        for room in self._rooms:
            assert bool((room[:FENCE] == KNOWN).all())
            assert bool((room[-FENCE:] == KNOWN).all())

    def assert_as(self, before: list[Tensor]) -> None:
        for room, was in zip(self._rooms, before, strict=False):
            assert torch.equal(room, was)


def freed(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.untyped_storage().resize_(0)
    return copy


def shrunk(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.untyped_storage().resize_(max(copy.untyped_storage().nbytes() - copy.element_size(), 0))
    return copy


# Each of these returns what is put in the place of a tensor, and is given the tensor and the yard.
SUBSTITUTES: list[Callable[[Tensor, Yard], Any]] = [
    *(lambda t, yard, dtype=dtype: yard.place(t.to(dtype)) for dtype in DTYPES),
    lambda t, yard: yard.place(t.int()),
    lambda t, yard: yard.place(torch.cat([t.reshape(-1), t.reshape(-1)])),
    lambda t, yard: yard.place(t.reshape(-1)[: t.numel() // 2].clone()),
    lambda t, yard: yard.place(t.reshape(-1)),
    lambda t, yard: torch.zeros((), dtype=t.dtype).expand(t.shape),
    lambda t, yard: torch.stack([t, t], -1)[..., 0],
    lambda t, yard: t.to("meta"),
    lambda t, yard: t.to_sparse() if t.dim() else t.int(),
    lambda t, yard: freed(t),
    lambda t, yard: shrunk(t),
    lambda t, yard: t.new_empty(0),
    lambda t, yard: t.requires_grad_() if t.is_floating_point() and t.is_leaf else t,
    lambda t, yard: None,
    lambda t, yard: 3,
    lambda t, yard: "a tensor",
    lambda t, yard: t.data_ptr(),
]
NUMBERS = [0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**40, -(2**40), 2**63 - 1, float("nan"), float("inf"), 0.5, None, "x", []]


def changed(value: Any, others: list[Tensor], chance: random.Random, yard: Yard) -> Any:
    """Return something else in the place of an argument, or of an item of a list."""
    if isinstance(value, Tensor):
        if others and chance.random() < 0.25:
            other = chance.choice(others)
            if other.dtype == value.dtype and other.numel() > value.numel() > 0:
                return other.reshape(-1)[: value.numel()].view(value.shape)  # another tensor's memory
            return other
        return chance.choice(SUBSTITUTES)(value, yard)
    if isinstance(value, list):
        kind = chance.randrange(4)
        if kind == 0:
            return value[:-1]
        if kind == 1:
            return value + value[:1]
        if kind == 2 and value and not isinstance(value[0], Tensor):
            return [chance.choice(NUMBERS) if chance.random() < 0.5 else v for v in value]
        copy = list(value)
        if copy:
            at = chance.randrange(len(copy))
            copy[at] = changed(copy[at], others, chance, yard)
        return copy
    return chance.choice(NUMBERS)


def tensors_of(arguments: list[Any]) -> list[Tensor]:
    return [t for a in arguments for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)]


def harass(
    operator: Callable[..., Any], make: Callable[[Yard], list[Any]], *, seed: int, calls: int = 150, refuses: int = 50
) -> None:
    """Call an operator with right arguments, and then many times with one or two of them changed.

    At least ``refuses`` calls must be refused and one answered, because otherwise the changes do not matter.
    """
    chance = random.Random(seed)
    answered = refused = 0
    yard = Yard()
    operator(*make(yard))
    yard.assert_fences()
    for _ in range(calls):
        yard = Yard()
        arguments = make(yard)
        for _ in range(chance.choice((1, 1, 2))):
            at = chance.randrange(len(arguments))
            arguments[at] = changed(arguments[at], tensors_of(arguments), chance, yard)
        before = yard.snapshot()
        try:
            operator(*arguments)
            answered += 1
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            refused += 1
            yard.assert_as(before)
        yard.assert_fences()
    assert refused >= refuses
    assert answered > 0


SHAPES = ((40,), (5, 7), (), (0,), (2100,))


def operators_of(request: pytest.FixtureRequest, which: str) -> Any:
    if which == "cpu":
        return torch.ops.srft
    return getattr(torch.ops, request.getfixturevalue("module").operators)


LIBRARIES = pytest.mark.parametrize("which", ["cpu", "cuda"])


@LIBRARIES
@pytest.mark.parametrize(
    "options",
    [
        {"decoupled_decay": True},
        {"damping": Damping.MEAN, "own": True},
        {"mode": Mode.COUPLED, "own": True, "transfer_to_anchor": True},
        {"curved": True, "product": "less minus"},
    ],
    ids=str,
)
def test_the_step(request: pytest.FixtureRequest, which: str, options: dict[str, Any]) -> None:
    operators = operators_of(request, which)

    def make(yard: Yard) -> list[Any]:
        case = make_case(shapes=SHAPES, **options)
        tensors = case.tensors()
        lists = [
            tensors.params, tensors.first_moments, tensors.second_moments, tensors.max_second_moments, tensors.previous,
            tensors.anchors, tensors.priors, tensors.transfers, tensors.curvatures, tensors.paths,
        ]  # fmt: skip
        held = [[yard.place(t) for t in listed] for listed in lists]
        rows = [yard.place(t) for t in (tensors.steps, tensors.statistics, tensors.scales)]
        moving = [[yard.place(t) for t in listed] for listed in (case.grads, case.plus, case.minus)]
        on_device = [None, None, torch.zeros(1), torch.ones(1)] if which == "cuda" else []
        return [*held, *rows, *moving, case.settings.tolist(), *on_device, yard.place(case.report), case.flags, 0]

    def step(*arguments: Any) -> None:
        group = operators.hold_group(*arguments[:13])
        try:
            params, (grads, plus, minus), rest = arguments[0], arguments[13:16], arguments[16:]
            looks = [look(listed).take() for listed in (params, grads, plus, minus)]
            operators.step_group_(group, *looks, *rest)
        finally:
            operators.drop_group(group)

    for seed in range(3):
        harass(step, make, seed=seed)


@LIBRARIES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probes(request: pytest.FixtureRequest, which: str, dtype: torch.dtype) -> None:
    operators = operators_of(request, which)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    numbers = list(range(len(SHAPES)))

    def drawn(yard: Yard, of: torch.dtype) -> list[Tensor]:
        return [yard.place(torch.randn(shape).to(of), shift=k % 2) for k, shape in enumerate(SHAPES)]

    harass(operators.fill_probes_, lambda yard: [drawn(yard, dtype), 5, 6, list(numbers)], seed=1)
    harass(
        operators.perturb_,
        lambda yard: [drawn(yard, dtype), drawn(yard, real), 0.1, 5, 6, list(numbers)],
        seed=2,
    )
    harass(
        operators.fold_probes_,
        lambda yard: [drawn(yard, real), drawn(yard, dtype), drawn(yard, dtype), 0.9, 0.1, 5, 6, list(numbers)],
        seed=3,
    )


@LIBRARIES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_penalty(request: pytest.FixtureRequest, which: str, dtype: torch.dtype) -> None:
    operators = operators_of(request, which)

    def lists(yard: Yard) -> list[Any]:
        return [[yard.place(torch.rand(s).to(of)) for s in SHAPES] for of in (dtype, torch.float32, torch.float64)]

    one = torch.tensor(2.0, dtype=torch.float64)
    harass(operators.significance_penalty, lambda yard: [*lists(yard), yard.place(one)], seed=1)
    if which == "cpu":
        harass(
            operators.significance_penalty_backward,
            lambda yard: [yard.place(one), *lists(yard), yard.place(one)],
            seed=2,
        )
    else:
        harass(operators.significance_penalty_backward, lambda yard: [*lists(yard), yard.place(one)], seed=2)


def test_looks() -> None:
    harass(torch.ops.srft.look, lambda yard: [[yard.place(torch.rand(s)) for s in SHAPES]], seed=1, refuses=5)
    for number in (0, -1, 10**15):
        torch.ops.srft.forget_look(number)
        torch.ops.srft.drop_group(number)


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("capacity", (0,)),
        ("capacity", (-2,)),
        ("capacity", (10**6,)),
        ("launches", ([1], [0, 0], 6)),
        ("launches", ([-1], [0], 6)),
        ("launches", ([2**48], [0], 6)),
        ("launches", ([1], [4], 6)),
        ("launches", ([1], [-1], 6)),
        ("launches", ([1], [0], -2)),
        ("shares", (0, 0)),
        ("shares", (5, 0)),
        ("shares", (5, 6)),
        ("shares", (2**32, 1)),
        ("shares", (2**31, 2**31)),
        ("block_of", (0, 0, 0)),
        ("block_of", (5, 2, 5)),
        ("block_of", (5, 9, 1)),
    ],
)
def test_the_arithmetic_of_launches_refuses_nonsense(module: Any, entry: str, arguments: tuple[Any, ...]) -> None:
    """Without the checks some of these divide by zero, which ends the process."""
    with pytest.raises(ValueError, match="srft"):
        getattr(module, entry)(*arguments)


@pytest.mark.parametrize("wrong", [-1, 2**70, "x", None, [1.5]])
def test_entries_that_take_numbers_take_nothing_else(module: Any, wrong: Any) -> None:
    for entry, rest in ((module.shares, (3,)), (module.block_of, (3, 1)), (module.units_of, ())):
        with pytest.raises((TypeError, ValueError)):
            entry(wrong, *rest)


def test_what_was_built_answers_whatever_it_is_asked() -> None:
    build = library.build
    for flags, phase in ((-1, -1), (2**31 - 1, 99), (0, 0)):
        assert set(build.rules(flags, phase).values()) <= {True, False}
    for wrong in (None, 3, [], "x", torch.zeros(1)):
        with pytest.raises(TypeError):
            build.identities(wrong)
    one, other = {"a": object()}, {"a": object()}
    assert build.identities({1: one, 2: 5}) == build.identities({3: one, 4: 5})
    assert build.identities({1: one}) != build.identities({1: other})
    assert build.identities({1: one}) != build.identities({1: dict(one)})
    assert build.identities({}) == b""
