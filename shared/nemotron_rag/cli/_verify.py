"""The command ``verify``: compare a model's scores with those printed on its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.models.catalog import find

if TYPE_CHECKING:
    from nemotron_rag.verification import Verified

__all__ = ["verify"]

_COLUMNS = ("example", "query", "passage", "printed", "computed", "difference", "within")


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id; `models` lists them.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Published files; by default the cache's.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch weights that are not in the cache.")] = False,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The card's images, under their file names.")
    ] = None,
    download_images: Annotated[
        bool, typer.Option("--download-images", help="Fetch the card's other images from NVIDIA's hosts.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Allowed difference, as a fraction of an example's largest score.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_tiles: options.MaxTiles = None,
    as_json: options.Json = False,
) -> int:
    """Reproduce the scores printed on a model's card.

    Exit code 1 if a score differs by more than allowed, or if none could be computed.
    """
    from nemotron_rag import verification  # noqa: PLC0415  not needed by the other commands

    found = verification.verify(
        model,
        weights=weights,
        download=download,
        images=images,
        download_images=download_images,
        device=device,
        dtype=dtype,
        max_input_tiles=max_tiles,
        tolerance=verification.TOLERANCE if tolerance is None else tolerance,
    )
    if as_json:
        output.show_json([_json(each) for each in found])
    else:
        if rows := [row for each in found for row in _rows(each)]:
            output.show(output.plain_table(_COLUMNS, rows))
        output.say_lines(_lines(model, found))
    computed = [each for each in found if each.scores is not None]
    return 0 if computed and all(each.passed for each in computed) else 1


def _rows(verified: Verified) -> Iterator[tuple[str, ...]]:
    if verified.scores is None:
        return
    for i, printed in enumerate(verified.example.scores):
        for j, score in enumerate(printed):
            difference = float(verified.scores[i, j]) - score
            within = "yes" if abs(difference) <= verified.allowed else "NO"
            numbers = (f"{score:.4f}", f"{verified.scores[i, j]:.4f}", f"{difference:+.4f}")
            yield (verified.example.name, str(i + 1), str(j + 1), *numbers, within)


def _lines(model: str, found: Sequence[Verified]) -> Iterator[str]:
    """Return the result of each example, and known reasons for a difference."""
    for each in found:
        if each.scores is None:
            yield f"{each.example.name}: not verified, its images are missing: give --images or --download-images"
            continue
        verdict = "verified" if each.passed else "NOT reproduced"
        yield f"{each.example.name}: {verdict}, largest difference {each.difference:.4f}, allowed {each.allowed:.4f}"
        if not each.passed:
            yield from (f"  note: {note}" for note in (each.example.note, find(model).note) if note)


def _json(verified: Verified) -> dict[str, Any]:
    """Return the stable keys: example, printed, computed (null without images), difference, allowed, passed."""
    return {
        "example": verified.example.name,
        "printed": [list(row) for row in verified.example.scores],
        "computed": None if verified.scores is None else verified.scores.tolist(),
        "difference": verified.difference,
        "allowed": verified.allowed,
        "passed": verified.passed,
    }
