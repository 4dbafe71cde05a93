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
    from nemotron_rag.verification.endpoint import EndpointReport

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
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that has the model: verify what it answers.")
    ] = None,
    dialect: options.Dialect = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_tiles: options.MaxTiles = None,
    as_json: options.Json = False,
) -> int:
    """Reproduce the scores printed on a model's card, or verify a server.

    With --endpoint, the server's scores are compared with those of the weights here, or else of the card; if they
    differ, the likely cause is named. Exit code 1 if a score differs by more than allowed, or none could be computed.
    """
    if endpoint is not None:
        if max_tiles is not None:
            raise typer.BadParameter("--max-tiles is up to the server; leave it out with --endpoint")
        return _verify_endpoint(
            model,
            as_json=as_json,
            base_url=endpoint,
            dialect=dialect,
            weights=weights,
            download=download,
            images=images,
            download_images=download_images,
            device=device,
            dtype=dtype,
            tolerance=tolerance,
        )
    if dialect is not None:
        raise typer.BadParameter("--dialect goes with --endpoint")
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


def _verify_endpoint(model: str, *, as_json: bool, tolerance: float | None, **given: Any) -> int:
    from nemotron_rag.verification import TOLERANCE  # noqa: PLC0415
    from nemotron_rag.verification.endpoint import verify_endpoint  # noqa: PLC0415

    report = verify_endpoint(model, tolerance=TOLERANCE if tolerance is None else tolerance, **given)
    if as_json:
        results = [_json(each) for each in report.results]
        about = {"against": report.against, "passed": report.passed, "cause": report.cause}
        output.show_json({**about, "results": results})
    else:
        if rows := [row for each in report.results for row in _rows(each)]:
            columns = [report.against if name == "printed" else name for name in _COLUMNS]
            output.show(output.plain_table(columns, rows))
        output.say_lines(_server_lines(report))
    return 0 if report.passed else 1


def _server_lines(report: EndpointReport) -> Iterator[str]:
    against = {"local": "the weights here", "card": "the model's card"}[report.against]
    for each in report.results:
        if each.scores is None:
            yield f"{each.example.name}: not verified: {each.example.note or 'its images are missing'}"
            continue
        verdict = "as" if each.passed else "NOT as"
        yield (
            f"{each.example.name}: {verdict} {against}, largest difference {each.difference:.4f}, "
            f"allowed {each.allowed:.4f}"
        )
    if report.cause:
        yield f"likely cause: {report.cause}"


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
