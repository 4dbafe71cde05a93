"""Part: every family against its golden vectors on the device, each fast path alone against the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.gpu_day import stand_ins
from benchmarks.gpu_day.cases import Case, all_cases
from benchmarks.gpu_day.part import Context, Failed
from nemotron_rag.models._llama import model as _vl_model
from nemotron_rag.models._llama import text_model as _text_model
from nemotron_rag.models._mistral import model as _mistral_model
from nemotron_rag.models._qwen import model as _qwen_model
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime import attention
from nemotron_rag.runtime.features import vision_features

__all__ = ["VARIANTS", "Variant", "check", "run"]

_COLUMNS = ["case", "format", "variant", "error", "smallest cosine", "error to plain", "ran", "ok"]
_PLAIN, _NOT_TAKEN = "plain", "not taken"
# Of vectors of length 1 the largest error of a number, of scores that in shares of the largest score. The CPU's tests
# hold float32 to 2e-5 and 3e-5; other kernels add up in another order, and one level of a resized pixel shows.
_ERROR = {"float32": 3e-4, "bfloat16": 3e-2}
_ERROR_RESIZED = 4e-3
_ERROR_SCORES = (
    6e-2  # bfloat16; a small score is the difference of larger numbers, and the references' own are 4e-2 off
)
_COSINE = {"float32": 0.99999, "bfloat16": 0.9995}


@dataclass(slots=True)
class _Seen:
    """How often a fast path was taken."""

    times: int = 0

    def counting(self, function: Callable[..., Any], *, only_true: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            found = function(*args, **kwargs)
            self.times += bool(found) if only_true else 1
            return found

        return counted


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to compute the same.

    Args:
        name: in the table.
        kernel: whether attention may use torch's variable-length kernel.
        even: whether it may run sequences of one length as a batch without padding.
        resize: whether images may be resized on the device.
        compile: as the models' option, with a kernel for CUDA graphs; needs a family that takes it.
        tf32: whether convolutions may round to TF32, as torch has it by default.
        dtypes: number formats in which it differs from plain.
        images_only: whether it differs for images alone.
    """

    name: str
    kernel: bool = False
    even: bool = False
    resize: bool = False
    compile: bool = False
    tf32: bool = True
    dtypes: Sequence[str] = ("float32", "bfloat16")
    images_only: bool = False


VARIANTS = (
    Variant(_PLAIN),
    Variant("packed attention", kernel=True, dtypes=("bfloat16",)),
    Variant("resized on the device", resize=True, images_only=True),
    Variant("equal lengths together", even=True),
    Variant("as shipped", kernel=True, even=True, resize=True),
    Variant("plain, convolutions without TF32", tf32=False, dtypes=("float32",), images_only=True),
    Variant("compiled tower", kernel=True, even=True, compile=True, dtypes=("bfloat16",)),
)


@dataclass(slots=True)
class _Table:
    context: Context
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *row: str) -> None:
        self.rows.append(list(row))
        print(*row, sep=" | ")
        self.context.table("Golden vectors", _COLUMNS, self.rows)

    def count(self, answer: str) -> int:
        return sum(row[-1] == answer for row in self.rows)


def run(context: Context) -> str:
    """First all that takes no compiler, then that, for one case of each family.

    Returns:
        How many rows, and in how many a fast path was not taken, as where the device has no kernel.
    """
    table = _Table(context)
    cases = all_cases()
    first = cases[: len({case.family.module for case in cases})]
    for compiled in (False, True):
        for case in first if compiled or context.dry_run else cases:
            check(case, [v for v in VARIANTS if v.compile == compiled], context.device, table.add)
    wrong, idle = table.count("no"), table.count(_NOT_TAKEN)
    context.note(rows=len(table.rows), wrong=wrong, not_taken=idle)
    found = f"{len(table.rows)} rows, {wrong} wrong, in {idle} the fast path was not taken"
    if wrong or (idle and context.dry_run):
        raise Failed(found)
    return found


def check(case: Case, variants: Sequence[Variant], device: str, add: Callable[..., None]) -> None:
    """A row for each variant and number format that says something for this case.

    Args:
        case: one.
        variants: `VARIANTS`, or some of them.
        device: ``cuda``, or ``cpu``, where stand-ins show that the code runs.
        add: is given the cells of a row.
    """
    for dtype in ("float32", "bfloat16"):
        plain: list[FloatArray] | None = None
        for variant in variants:
            if dtype not in variant.dtypes or not _says_something(case, variant):
                continue
            if plain is None:
                plain, _ = _compute(case, VARIANTS[0], device, dtype)
            found, ran = _compute(case, variant, device, dtype)
            add(case.name, dtype, variant.name, *_judge(case, variant, dtype, found, plain, ran))


def _says_something(case: Case, variant: Variant) -> bool:
    if variant.compile:
        return "compile" in case.family.options
    return not variant.images_only or (case.folder / "images").exists()


def _compute(case: Case, variant: Variant, device: str, dtype: str) -> tuple[list[FloatArray], str]:
    """Rows of every call, and which fast paths were taken."""
    kernel, resized = _Seen(), _Seen()
    options = {"compile": True} if variant.compile else {}
    with _switched(variant, device, kernel, resized):
        model = case.load(device=device, dtype=dtype, **options)
        found = [call.run(model) for call in case.calls]
        replay = getattr(model._model, "_replay", None)
        if replay and not case.is_score:
            single = model.embed_queries(["pressure"])[0]  # by graph; in a batch it is not
            again = model.embed_queries(["pressure", "how " * 40])[0]
            found.append(np.atleast_2d(single) - np.atleast_2d(again))
    graphs = len(replay._recorded) if replay else 0
    ran = {"kernel": kernel.times, "resized": resized.times, "graphs": graphs}
    return found, ", ".join(f"{name} {times}" for name, times in ran.items() if times)


@contextmanager
def _switched(variant: Variant, device: str, kernel: _Seen, resized: _Seen) -> Iterator[None]:
    """What the variant allows, counted; nothing is kept of images seen before."""
    vision_features.clear()
    dry = device == "cpu"
    with ExitStack() as stack:
        if variant.kernel:
            stack.enter_context(stand_ins.packed_kernel() if dry else nullcontext())
        else:
            for module in (attention, _vl_model, _text_model, _mistral_model):
                stack.enter_context(patch.object(module, "has_kernel", return_value=False))
        if not variant.even:
            stack.enter_context(patch.object(attention, "_is_even", return_value=False))
        for way in ("_in_one_call", "_together"):
            stack.enter_context(patch.object(attention, way, kernel.counting(getattr(attention, way))))
        if variant.compile and dry:
            stack.enter_context(stand_ins.uncompiled())
        for module in (_vl_model, _mistral_model, _qwen_model):
            stack.enter_context(_resizing(module, variant, resized, dry=dry))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=variant.tf32))
        yield
    vision_features.clear()


def _resizing(module: Any, variant: Variant, resized: _Seen, *, dry: bool) -> AbstractContextManager[object]:
    decides: Callable[..., bool] = module.resizes_on_device
    if not variant.resize:
        return patch.object(module, "resizes_on_device", return_value=False)
    if dry or not variant.kernel:  # tiny tiles are much smaller than an image, which would not be sent as it is
        decides = lambda image, **_: image.mode == "RGB"  # noqa: E731
    return patch.object(module, "resizes_on_device", resized.counting(decides, only_true=True))


def _judge(
    case: Case, variant: Variant, dtype: str, found: list[FloatArray], plain: list[FloatArray], ran: str
) -> tuple[str, str, str, str, str]:
    expected = [call.expected for call in case.calls]
    error, to_plain = _error(case, found, expected), _error(case, found, plain)
    extra = max((float(abs(rows).max()) for rows in found[len(expected) :]), default=0.0)
    cosine = 1.0 if case.is_score else _cosine(found, expected)
    usual = _ERROR_SCORES if case.is_score and dtype == "bfloat16" else _ERROR[dtype]
    allowed = max(usual, _ERROR_RESIZED if variant.resize else 0.0)
    taken = all(name in ran for name in _needed(variant, dtype))
    least = _COSINE[dtype] if allowed == usual else 0.9995
    good = max(error, to_plain, extra) <= allowed and cosine >= least
    ok = "yes" if good and taken else "no" if taken else _NOT_TAKEN
    cells = (f"{error:.1e}", "-" if case.is_score else f"{cosine:.6f}", f"{max(to_plain, extra):.1e}")
    return (*cells, ran or "-", ok)


def _needed(variant: Variant, dtype: str) -> Iterator[str]:
    """The fast paths without which a variant says nothing."""
    if variant.kernel and dtype == "bfloat16":
        yield "kernel"
    if variant.resize and not variant.kernel:
        yield "resized"
    if variant.compile:
        yield "graphs"


def _error(case: Case, found: Sequence[FloatArray], wanted: Sequence[FloatArray]) -> float:
    """The largest error of a number; of scores, in shares of the largest score of a call."""
    errors = []
    for rows, others in zip(found, wanted, strict=False):
        scale = max(1.0, float(abs(others).max())) if case.is_score else 1.0
        errors.append(float(abs(rows - others).max()) / scale)
    return max(errors)


def _cosine(found: Sequence[FloatArray], wanted: Sequence[FloatArray]) -> float:
    return min(float((rows * others).sum(axis=1).min()) for rows, others in zip(found, wanted, strict=False))
