"""The workload of ``variable``: images of many sizes, by Nemotron 3.5 Embed and by a padded loop of transformers."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from torch.nn.functional import normalize

from benchmarks.loads import OURS, run
from benchmarks.measure import Contender
from benchmarks.report import Section
from benchmarks.setup import Setup
from benchmarks.sizes import Size
from benchmarks.workloads import page_images
from nemotron_rag import Passage, load_embedder
from nemotron_rag.runtime.features import vision_features

__all__ = ["AVAILABLE", "PaddedPixtralLoop", "variable", "write_variable_checkpoint"]

AVAILABLE = importlib.util.find_spec("transformers.models.ministral3") is not None
"""Whether transformers has the network of the padded loop, as it does from 5.2 on."""

_TOKENIZER = Path(__file__).with_name("tokenizer.json")
_IMAGE, _BREAK, _END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"
_LONGEST = {"toy": 84, "small": 504}  # pixels; the 1.7 B geometry gets what NVIDIA trains with
_TRAINED = 1284
_PATCH, _MERGE = 14, 2
_BATCH = 8
_TEMPLATE = (
    "{{ messages[0].content[0].text }}"
    "{% for block in messages[-1].content %}{{ '[IMG]' if block.type == 'image' else block.text }}{% endfor %}"
)


class PaddedPixtralLoop:
    """An embedder as `transformers` runs it: images and sequences of a batch padded to the largest one.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import Mistral3Model  # noqa: PLC0415  # not before 5.2
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil  # noqa: PLC0415

        network = Mistral3Model.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self._network = network.to(device).eval()
        fields = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
        side = {"height": _PATCH * _MERGE, "width": _PATCH * _MERGE}
        self._processor = PixtralImageProcessorPil(**(fields | {"patch_size": side}))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._device = device

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(images, hidden) float32, each of length 1."""
        rows = [self._embed(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate(rows)

    def _embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        given = self._processor(list(images), return_tensors="pt")
        self._tokenizer.enable_padding()
        prompts = self._tokenizer.encode_batch([self._prompt(*size.tolist()) for size in given["image_sizes"]])
        ids, mask = (
            torch.tensor([getattr(prompt, name) for prompt in prompts], device=self._device)
            for name in ("ids", "attention_mask")
        )
        pixels = given["pixel_values"].to(self._device)
        found = self._network(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, image_sizes=given["image_sizes"].to(self._device)
        )
        real = mask.unsqueeze(-1)  # (images, tokens, 1)
        pooled = (found.last_hidden_state.float() * real).sum(1) / real.sum(1)
        return normalize(pooled, dim=-1).cpu().numpy()  # type: ignore[no-any-return]

    def _prompt(self, height: int, width: int) -> str:
        rows, columns = height // _PATCH // _MERGE, width // _PATCH // _MERGE
        block = _BREAK.join([_IMAGE * columns] * rows)
        return f"passage: {block}{_END}"


def variable(setup: Setup) -> Iterator[Section]:
    """Page images, cuts of them and thumbnails, shuffled."""
    folder = write_variable_checkpoint(setup.folder / "variable", setup.size, dtype=setup.dtype)
    ours = load_embedder(folder, device=str(setup.device), dtype=setup.number_format)
    padded = PaddedPixtralLoop(folder, device=setup.device, dtype=setup.dtype)
    images = variable_images(4 * setup.pages)
    passages = [Passage(image=image) for image in images]
    contenders = [
        Contender(OURS, lambda: ours.embed_passages(passages), before=vision_features.clear),
        Contender("padded loop", lambda: padded.embed_images(images)),
    ]
    sides = [side for image in images for side in image.size]
    title = f"embed {len(images)} images with sides of {min(sides)} to {max(sides)} pixels, shuffled"
    yield run(setup, title, contenders, items=len(images), unit="images")


def variable_images(count: int) -> list[Image.Image]:
    """Return whole pages, columns, headers, figures and thumbnails in equal parts, shuffled."""
    chance = random.Random(3)
    pages = [passage.image for passage in page_images(-(-count // 5))]
    found = []
    for page in pages:
        assert isinstance(page, Image.Image)
        width, height = page.size
        top = chance.randrange(height // 2)
        found += [
            page,
            page.crop((0, 0, width // 3, height)),
            page.crop((0, top, width, top + height // 10)),
            page.crop((width // 4, top, 3 * width // 4, top + height // 3)),
            page.resize((width // 8, height // 8)),
        ]
    chance.shuffle(found)
    return found[:count]


def write_variable_checkpoint(folder: Path, size: Size, *, dtype: torch.dtype) -> Path:
    """Write a folder of random weights with the geometry of a size, as transformers and the exporter write it."""
    from transformers import Mistral3Config, Mistral3Model  # noqa: PLC0415  # not before 5.2

    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (_IMAGE, _BREAK, _END)])
    text = {name: value for name, value in size.llama.items() if name not in ("rope_theta", "pooling")}
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    text |= {"model_type": "ministral3", "is_causal": False, "head_dim": head, "max_position_embeddings": 32_768}
    text |= {"vocab_size": max(text["vocab_size"], tokenizer.get_vocab_size()), "pad_token_id": None}
    tower = {name: size.tower[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    tower |= {"num_attention_heads": size.tower["num_attention_heads"], "model_type": "pixtral", "hidden_act": "silu"}
    config = Mistral3Config(
        text_config=text,
        vision_config=tower | {"patch_size": _PATCH},
        image_token_index=tokenizer.token_to_id(_IMAGE),
        spatial_merge_size=_MERGE,
        multimodal_projector_bias=False,
    )
    torch.manual_seed(0)
    Mistral3Model(config).to(dtype).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    image: dict[str, Any] = {"patch_size": _PATCH, "size": {"longest_edge": _LONGEST.get(size.name, _TRAINED)}}
    image |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3}
    names = {"image_token": _IMAGE, "image_break_token": _BREAK, "image_end_token": _END}
    files: dict[str, Any] = {
        "processor_config.json": {"image_processor": image, "patch_size": _PATCH, "spatial_merge_size": _MERGE} | names,
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "document": "passage: "}},
    }
    for name, fields in files.items():
        (folder / name).write_text(json.dumps(fields), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return folder
