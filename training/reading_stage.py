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
from torch.nn.functional import cross_entropy, log_softmax, normalize

from nemotron_rag.models._vl_stack import LlamaNemotronVL
from training.crops import CELLS, PATCH, Batch, Crops
from training.muon import Muon
from training.piece_codes import PieceCodes
from training.renders import ALPHABET

__all__ = ["LENGTH", "Reader", "Schedule", "train_reader"]

_CLASSES = len(ALPHABET) + 2
_MUON, _ADAM = 0.02, 2e-3
_BLANK_CELLS, _BLANK_TOKENS = 0.2, 0.15  # weight of paper in the losses
_SHARPNESS = 16.0
_SHOW, _KEEP = 20, 250  # steps between two lines, and two checkpoints
LENGTH = 100.0
"""Of an image token: directions are compared, but what reads them later wants them equally long."""


class Reader(torch.nn.Module):
    """Tower and projector of a network, with the heads that only training needs.

    Args:
        network: whose tower and projector are trained; the tower takes one channel of ink until `store_ink`.
        pieces: spellings.
    """

    def __init__(self, network: LlamaNemotronVL, pieces: list[str]) -> None:
        super().__init__()
        hidden = network.config.vision.hidden_size
        self.tower, self.projector = network.vision_model, network.mlp1
        self.ink = torch.nn.Conv2d(1, hidden, kernel_size=PATCH, stride=PATCH)
        self.characters = torch.nn.Linear(hidden, CELLS[0] * CELLS[1] * _CLASSES)
        self.codes = PieceCodes(pieces, network.config.llm.hidden_size)
        self.blank = torch.nn.Parameter(torch.randn(1, network.config.llm.hidden_size))
        self.sharpness = torch.nn.Parameter(torch.tensor(_SHARPNESS).log())
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Weights that keep the size of what passes through; positions as waves over rows and columns."""
        for name, module in self.tower.encoder.named_modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.7 * module.in_features**-0.5)
                if name.endswith(("out_proj", "fc2")):
                    module.weight.mul_(0.3)
        for module in (self.projector[1], self.projector[3], self.characters):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
        torch.nn.init.normal_(self.ink.weight, std=1.5 / PATCH)
        self.tower.embeddings.position_embedding.weight.copy_(
            _waves(*self.tower.embeddings.position_embedding.weight.shape)
        )

    def forward(self, pixels: torch.Tensor, corner: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read crops.

        Args:
            pixels: (crops, height, width), ink.
            corner: row and column of the tile's patch where the crop begins.

        Returns:
            Patches (crops, rows, columns, hidden) and image tokens (crops * tokens, size).
        """
        patches = self.ink(pixels.unsqueeze(1)).permute(0, 2, 3, 1)  # (crops, rows, columns, hidden)
        crops, rows, columns, hidden = patches.shape
        positions = self.tower.embeddings.position_embedding.weight
        side = round(len(positions) ** 0.5)
        window = positions.view(side, side, -1)[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]
        states = self.tower.encoder(inputs_embeds=(patches + window).flatten(1, 2)).last_hidden_state
        states = self.tower.post_layernorm(states).view(crops, rows, columns, hidden)
        squares = states.view(crops, rows // 2, 2, columns // 2, 2, hidden).permute(0, 1, 3, 2, 4, 5)
        return states, self.projector(squares.reshape(-1, 4 * hidden))

    def classes(self) -> torch.Tensor:
        """(pieces + 1, size): the vectors that tokens are compared with, the last for paper."""
        return torch.cat([self.codes(), normalize(self.blank, dim=1)])


def _waves(places: int, size: int) -> torch.Tensor:
    side, quarter = round(places**0.5), size // 4
    turns = torch.arange(side).unsqueeze(1) * 100.0 ** (-torch.arange(quarter) / quarter)
    wave = torch.cat([turns.sin(), turns.cos()], dim=1) * 0.5  # (side, size / 2)
    rows, columns = wave.unsqueeze(1).expand(-1, side, -1), wave.unsqueeze(0).expand(side, -1, -1)
    return torch.nn.functional.pad(torch.cat([rows, columns], dim=2).flatten(0, 1), (0, size - 4 * quarter))


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


def character_loss(reader: Reader, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the cells, and the share of inked cells that are right."""
    crops, rows, columns, _ = states.shape
    logits = reader.characters(states).view(crops, rows, columns, *CELLS, _CLASSES)
    logits = logits.permute(0, 1, 3, 2, 4, 5).reshape(-1, _CLASSES)
    wanted = batch.cells.reshape(-1)
    weights = torch.ones(_CLASSES)
    weights[0] = _BLANK_CELLS
    inked = wanted > 0
    right = (logits.detach().argmax(dim=1) == wanted)[inked].float().mean()
    return cross_entropy(logits, wanted, weights), right


def piece_loss(
    reader: Reader, tokens: torch.Tensor, batch: Batch, prior: torch.Tensor, worth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of the pieces in each token's square.

    The logarithm of how common a piece is is added in training and left out in use (Menon et al., "Long-tail learning
    via logit adjustment", 2021): the cosine then says how much likelier the picture makes the piece, and rare pieces,
    which retrieval lives on, are named as readily as common ones.

    Returns:
        The loss; whether each labelled token's nearest piece is one of its own; and those tokens' rarest piece's worth.
    """
    classes = reader.classes()
    paper = len(classes) - 1
    labelled, rows = batch.places[:, 0].unique(return_inverse=True)
    blank = batch.blank.nonzero()[:, 0]
    cosines = normalize(tokens[torch.cat([labelled, blank])], dim=1) @ classes.T
    chances = log_softmax(cosines * reader.sharpness.exp() + prior, dim=1)
    own = worth[batch.places[:, 1]]
    weight = torch.zeros(len(labelled)).index_reduce(0, rows, own, "amax", include_self=False)
    share = batch.shares * own
    share = share / torch.zeros(len(labelled)).index_add(0, rows, share)[rows]
    inked = -(chances[rows, batch.places[:, 1]] * share * weight[rows]).sum() / weight.sum().clamp(min=1)
    total = inked - _BLANK_TOKENS * chances[len(labelled) :, paper].sum() / max(1, len(blank))
    nearest = cosines[: len(labelled)].detach().argmax(dim=1)
    hits = torch.zeros(len(labelled), dtype=torch.bool)
    hits[rows[nearest[rows] == batch.places[:, 1]]] = True
    uneven = (tokens.norm(dim=1) / LENGTH).log().square().mean()
    return total + uneven, hits, weight


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
    seed: int = 0,
) -> None:
    """Train, and keep a checkpoint; goes on where an earlier run stopped.

    Args:
        reader: trained in place.
        crops: to draw from.
        tiles: to draw from at the end; an eighth as many as crops.
        schedule: of rates and losses.
        prior: (pieces + 1,) logarithm of how common each piece, and paper, is among the labels.
        worth: (pieces,) how much a token with this piece counts.
        held_out: crops of other documents, to watch.
        path: of the checkpoint.
        seed: of the draws.
    """
    optimizers = _optimizers(reader)
    first = _resume(path, reader, optimizers)
    began, seen = time.monotonic(), list[list[float]]()
    for step in range(first, schedule.steps):
        rng = np.random.default_rng((seed, step))
        batch = tiles.draw(schedule.size // 8, rng) if schedule.sees_tiles(step) else crops.draw(schedule.size, rng)
        loss, shown = _losses(reader, batch, _corner(reader, batch, rng), schedule.pieces_weight(step), prior, worth)
        _change(reader, optimizers, loss, schedule.rate(step))
        seen.append(shown)
        if (step + 1) % _SHOW == 0:
            left = (time.monotonic() - began) / (step + 1 - first) * (schedule.steps - step - 1)
            print(f"reading {step + 1} {_row(seen)} {left / 60:.0f} min left", flush=True)
            seen.clear()
        if (step + 1) % _KEEP == 0 or step + 1 == schedule.steps:
            with torch.no_grad():
                watched = [_losses(reader, batch, (0, 0), 1.0, prior, worth)[1] for batch in held_out]
            print(f"  held out: {_row(watched)}", flush=True)
            _keep(path, reader, optimizers, step + 1)


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
    """Load what an earlier run kept; the step to go on with."""
    if not path.exists():
        return 0
    kept = torch.load(path)
    reader.load_state_dict(kept["reader"])
    for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return int(kept["step"])


def _keep(path: Path, reader: Reader, optimizers: list[torch.optim.Optimizer], step: int) -> None:
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
