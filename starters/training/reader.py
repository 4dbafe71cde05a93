"""The network that learns to read: a checkpoint's tower and projector, with the heads that only training needs.

It says what it sees and how wrong that is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize, pad

from training.crops import CELLS, PATCH, Batch
from training.network import LlamaNemotronVL
from training.piece_codes import PieceCodes
from training.renders import ALPHABET

__all__ = ["LENGTH", "Reader", "character_loss", "piece_loss"]

LENGTH = 100.0
"""Of an image token: directions are compared, but what reads them later wants them equally long."""

_CLASSES = len(ALPHABET) + 2
_BLANK_CELLS, _BLANK_TOKENS = 0.2, 0.15  # weight of paper in the losses
_SHARPNESS = 16.0


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
        layers: tuple[Any, ...] = (self.projector[1], self.projector[3], self.characters)
        for module in layers:
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
        states = self.tower.encoder((patches + window).flatten(1, 2))
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
    return pad(torch.cat([rows, columns], dim=2).flatten(0, 1), (0, size - 4 * quarter))


def character_loss(reader: Reader, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the cells, and the share of inked cells that are right."""
    crops, rows, columns, _ = states.shape
    logits = reader.characters(states).view(crops, rows, columns, *CELLS, _CLASSES)
    logits = logits.permute(0, 1, 3, 2, 4, 5).reshape(-1, _CLASSES)
    targets = batch.cells.reshape(-1)
    weights = torch.ones(_CLASSES, device=targets.device)
    weights[0] = _BLANK_CELLS
    inked = targets > 0
    right = (logits.detach().argmax(dim=1) == targets)[inked].float().mean()
    return cross_entropy(logits, targets, weights), right


def piece_loss(
    reader: Reader, tokens: torch.Tensor, batch: Batch, prior: torch.Tensor, worth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of the pieces in each token's square.

    The logarithm of how common a piece is is added in training and left out in use (Menon et al., "Long-tail learning
    via logit adjustment", 2021): the cosine then says how much likelier the image makes the piece, and rare pieces,
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
    weight = own.new_zeros(len(labelled)).scatter_reduce(0, rows, own, "amax")
    share = batch.shares * own
    share = share / own.new_zeros(len(labelled)).index_add(0, rows, share)[rows]
    inked = -(chances[rows, batch.places[:, 1]] * share * weight[rows]).sum() / weight.sum().clamp(min=1)
    total = inked - _BLANK_TOKENS * chances[len(labelled) :, paper].sum() / max(1, len(blank))
    nearest = cosines[: len(labelled)].detach().argmax(dim=1)
    hits = torch.zeros(len(labelled), dtype=torch.bool, device=tokens.device)
    hits[rows[nearest[rows] == batch.places[:, 1]]] = True
    uneven = (tokens.norm(dim=1) / LENGTH).log().square().mean()
    return total + uneven, hits, weight
