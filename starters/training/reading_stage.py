"""Teaches the vision tower to read: which character covers each cell, and which pieces lie in each image token.

Both losses look at the same crops. Characters are the curriculum; pieces make of every image token a vector that
matches the vectors of the pieces in it, which is what late interaction compares.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from training.crops import PATCH, Batch, Crops
from training.muon import Muon
from training.reader import Reader, character_loss, piece_loss

__all__ = ["Schedule", "train_reader"]

_MUON, _ADAM = 0.02, 2e-3
_SHOW, _STORE = 20, 250  # steps between two lines, and two checkpoints


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, and how much each loss counts."""

    steps: int
    size: int = 16
    decay: float = 0.35  # share of the steps at the end over which the rate falls to 0
    pieces_from: int = 300
    pieces_ramp: int = 600
    pieces: float = 0.5
    whole: float = 0.1  # share of the steps at the end that see whole tiles, as the tower will

    def sees_tiles(self, step: int) -> bool:
        """Whether a step's crops are whole tiles."""
        return step >= (1 - self.whole) * self.steps

    def rate(self, step: int) -> float:
        """Factor of the learning rate."""
        return min(1.0, (step + 1) / 20, (self.steps - step) / max(1.0, self.decay * self.steps))

    def pieces_weight(self, step: int) -> float:
        """Weight of the pieces' loss."""
        return self.pieces * min(1.0, max(0.0, (step - self.pieces_from) / self.pieces_ramp))


def _optimizers(reader: Reader) -> list[torch.optim.Optimizer]:
    matrices = [*reader.tower.encoder.parameters(), *reader.projector.parameters(), reader.ink.weight]
    chosen = {id(parameter) for parameter in matrices if parameter.dim() >= 2}
    rest = [parameter for parameter in reader.parameters() if id(parameter) not in chosen]
    return [
        Muon([parameter for parameter in matrices if id(parameter) in chosen], lr=_MUON),
        torch.optim.AdamW(rest, lr=_ADAM, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train_reader(
    reader: Reader,
    crops: Crops,
    tiles: Crops,
    schedule: Schedule,
    *,
    prior: torch.Tensor,
    worth: torch.Tensor,
    held_out: list[Batch],
    path: Path,
    workers: int = 0,
    seed: int = 0,
) -> None:
    """Train on the device that the reader is on, and store checkpoints; goes on where an earlier run stopped.

    Args:
        reader: trained in place.
        crops: to draw from.
        tiles: to draw from at the end; an eighth as many as crops.
        schedule: of rates and losses.
        prior: (pieces + 1,) logarithm of how common each piece, and paper, is among the labels.
        worth: (pieces,) how much a token with this piece counts.
        held_out: crops of other documents, to watch.
        path: of the checkpoint.
        workers: processes that draw crops; on a CPU the training's own is enough.
        seed: of the draws.
    """
    device = reader.blank.device
    prior, worth, held_out = prior.to(device), worth.to(device), [batch.to(device) for batch in held_out]
    optimizers = _optimizers(reader)
    first = _resume(path, reader, optimizers)
    drawn = DataLoader(_Steps(crops, tiles, schedule, first, seed), batch_size=None, num_workers=workers)
    began, seen = time.monotonic(), list[list[float]]()
    for step, batch in enumerate(drawn, start=first):
        corner = _corner(reader, batch, np.random.default_rng((seed, step, 1)))
        loss, shown = _losses(reader, batch.to(device), corner, schedule.pieces_weight(step), prior, worth)
        _change(reader, optimizers, loss, schedule.rate(step))
        seen.append(shown)
        if (step + 1) % _SHOW == 0:
            left = (time.monotonic() - began) / (step + 1 - first) * (schedule.steps - step - 1)
            print(f"reading {step + 1} {_row(seen)} {left / 60:.0f} min left", flush=True)
            seen.clear()
        if (step + 1) % _STORE == 0 or step + 1 == schedule.steps:
            with torch.no_grad():
                watched = [_losses(reader, batch, (0, 0), 1.0, prior, worth)[1] for batch in held_out]
            print(f"  held out: {_row(watched)}", flush=True)
            _store(path, reader, optimizers, step + 1)


class _Steps(Dataset[Batch]):
    """The batch of every step from `first` on; the same whoever draws it."""

    def __init__(self, crops: Crops, tiles: Crops, schedule: Schedule, first: int, seed: int) -> None:
        self._crops, self._tiles, self._schedule, self._first, self._seed = crops, tiles, schedule, first, seed

    def __len__(self) -> int:
        return self._schedule.steps - self._first

    def __getitem__(self, index: int) -> Batch:
        step, size = self._first + index, self._schedule.size
        rng = np.random.default_rng((self._seed, step))
        return self._tiles.draw(size // 8, rng) if self._schedule.sees_tiles(step) else self._crops.draw(size, rng)


def _corner(reader: Reader, batch: Batch, rng: np.random.Generator) -> tuple[int, int]:
    """Where in a tile the crops lie, in patches: anywhere that the pixel shuffle's squares allow."""
    side = round(len(reader.tower.embeddings.position_embedding.weight) ** 0.5)
    rows, columns = batch.pixels.shape[1] // PATCH, batch.pixels.shape[2] // PATCH
    return 2 * int(rng.integers((side - rows) // 2 + 1)), 2 * int(rng.integers((side - columns) // 2 + 1))


def _change(reader: Reader, optimizers: list[torch.optim.Optimizer], loss: torch.Tensor, rate: float) -> None:
    for optimizer, base in zip(optimizers, (_MUON, _ADAM), strict=True):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = base * rate
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def _resume(path: Path, reader: Reader, optimizers: list[torch.optim.Optimizer]) -> int:
    """Load what an earlier run stored; the step to go on with."""
    if not path.exists():
        return 0
    stored = torch.load(path, map_location=reader.blank.device)
    reader.load_state_dict(stored["reader"])
    for optimizer, state in zip(optimizers, stored["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return int(stored["step"])


def _store(path: Path, reader: Reader, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    state: dict[str, Any] = {"reader": reader.state_dict(), "step": step}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


def _losses(
    reader: Reader, batch: Batch, corner: tuple[int, int], weight: float, prior: torch.Tensor, worth: torch.Tensor
) -> tuple[torch.Tensor, list[float]]:
    states, tokens = reader(batch.pixels, corner)
    loss, right = character_loss(reader, states, batch)
    shown = [loss.item(), right.item()]
    if weight:
        pieces, hits, worths = piece_loss(reader, tokens, batch, prior, worth)
        loss = loss + weight * pieces
        rare = worths >= worth.median()
        shown += [pieces.item(), hits.float().mean().item(), hits[rare].float().mean().item()]
    return loss, shown


def _row(rows: list[list[float]]) -> str:
    names = ("characters", "right", "pieces", "named", "rare ones")
    width = min(map(len, rows))
    means = np.nanmean(np.array([row[:width] for row in rows]), axis=0)
    return " ".join(f"{name} {mean:.3f}" for name, mean in zip(names[:width], means, strict=True))
