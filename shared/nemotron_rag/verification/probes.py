"""Inputs that tell one use of a model from another: texts of several lengths, and images of several shapes."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from nemotron_rag.types import ModelSpec
from nemotron_rag.verification.cards import Example

__all__ = ["drawn_images", "probes_of"]

_QUERIES = ("Where do tornadoes form?", "How much did sales grow in 2023?")
_TEXTS = (
    "Tornadoes form in severe thunderstorms, where warm and cold air meet.",
    "Sales grew by 4 % in 2023, after 2 % in the year before.",
    "Bread needs flour, water, salt and time.",
)
_SHAPES = {"drawn:page": (900, 1200), "drawn:wide": (1500, 520)}  # pixels
_LETTERS = 36  # pixels


def probes_of(spec: ModelSpec) -> tuple[Example, ...]:
    """The examples for a model, without scores."""
    page, wide = _SHAPES
    found = []
    for modality, name, texts, images in (
        ("text", "text", _TEXTS, ("",) * len(_TEXTS)),
        ("image", "image", ("", ""), (page, wide)),
        ("image_text", "image and text", _TEXTS[:2], (wide, page)),
    ):
        if modality in spec.modalities:
            found.append(Example(name=name, queries=_QUERIES, texts=texts, images=images, scores=()))
    return tuple(found)


def drawn_images() -> dict[str, Image.Image]:
    """The images of `probes_of`, by their names; the same every time."""
    return {name: _draw(size, seed) for seed, (name, size) in enumerate(_SHAPES.items(), 1)}


def _draw(size: tuple[int, int], seed: int) -> Image.Image:
    """A text in large letters, a coloured box, and bars as long as words."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    width, height = size
    font, words, top = ImageFont.load_default(_LETTERS), _TEXTS[seed - 1].split(), 40
    while words:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) < width - 80:
            count += 1
        pen.text((40, top), " ".join(words[:count]), fill="black", font=font)
        words, top = words[count:], top + 2 * _LETTERS
    pen.rectangle((width // 3, height - 160, width // 2, height - 60), fill=(200, 40 * seed, 30))
    for line in range(top + 40, height - 200, 34):
        for left in range(40, width - 120, 110):
            length = 20 + (line * seed + left * 7) % 70
            pen.rectangle((left, line, left + length, line + 9), fill=(60 + 15 * seed, 60, 60))
    return image
