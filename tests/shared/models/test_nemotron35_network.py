"""The network of Nemotron 3 and 3.5 against the classes of transformers, over shapes that no golden case has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nemotron_rag import Passage, load_embedder
from nemotron_rag.models._mistral.model import Limits, load_mistral_model
from nemotron_rag.models._mistral.pixels import PixelSettings, fitted_size, patchify
from nemotron_rag.models._mistral.rope import read_rope
from support.contracts import make_image

pytest.importorskip("transformers.models.ministral3", reason="transformers before 5.2 lacks the reference")

DATA = Path(__file__).parents[2] / "data" / "reference"
EMBED, TEXT = DATA / "nemotron35_embed_open_1", DATA / "nemotron3_embed_text_open_1"
SIZES = [(1, 1), (1, 700), (700, 1), (320, 11), (9, 240), (131, 77), (48, 48), (49, 47), (400, 300)]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "llama_4_scaling_beta": 0.2,
}
VARIANTS = {
    "patches of 16, merged 3 by 3": {"patch": 16, "merge": 3, "rope": YARN | {"mscale": 0.7, "mscale_all_dim": 0.2}},
    "an attention factor": {"rope": YARN | {"attention_factor": 1.3, "beta_fast": 8.0}, "act": "gelu", "kv": 4},
    "frequencies between": {"rope": YARN | {"truncate": False, "beta_slow": 2.0}, "head_dim": 12, "bias": True},
    "no YaRN": {"rope": YARN | {"rope_type": "default"}, "kv": 1, "tied": True, "merge": 1},
}


def _edit(folder: Path, name: str, **fields) -> dict:
    found = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps(found))
    return found


def _write(folder: Path, *, patch=14, merge=2, rope=YARN, act="silu", kv=2, head_dim=16, bias=False, tied=False):
    """A folder of random weights as transformers writes it, in several files; returns its model."""
    from transformers import Mistral3Config, Mistral3Model

    shutil.copytree(EMBED, folder, ignore=shutil.ignore_patterns("images", "*.safetensors"))
    shape = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"num_key_value_heads": kv, "head_dim": head_dim, "rope_parameters": rope, "rms_norm_eps": 1e-4}
    text |= {"model_type": "ministral3", "vocab_size": 600, "max_position_embeddings": 512, "is_causal": False, **shape}
    tower = {"hidden_size": 36, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", "patch_size": patch, "hidden_act": act, "image_size": 512, **tower},
        text_config=text | {"tie_word_embeddings": tied},
        image_token_index=10,
        spatial_merge_size=merge,
        multimodal_projector_bias=bias,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(5)
    model = Mistral3Model(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.2 if weight.ndim == 1 else 0.3)
    model.save_pretrained(folder, max_shard_size="60KB")
    fields = _edit(folder, "processor_config.json", patch_size=patch, spatial_merge_size=merge)
    image = fields["image_processor"] | {"patch_size": patch, "size": {"longest_edge": 150}}
    _edit(folder, "processor_config.json", image_processor=image)
    return model


@torch.inference_mode()
def _reference(model, ours, passage: Passage, *, length: int = 999) -> np.ndarray:
    """The vector of one passage, by the reference's network over our ids and the resized image."""
    item = ours.encode_passage(passage, Limits(dict.fromkeys(("text", "image", "image_text"), length)), index=0)
    copies = 2 if item.image and item.image.tokens == 1 else 1  # the reference fails on a lone image of one token
    ids = torch.tensor([item.ids] * copies)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if item.image is not None:
        settings = ours.config.pixels
        pixels = (item.image.pixels.float() / 255 - torch.tensor(settings.mean)) / torch.tensor(settings.std)
        given["pixel_values"] = pixels.permute(2, 0, 1).expand(copies, -1, -1, -1)
        given["image_sizes"] = [tuple(pixels.shape[:2])] * copies
    pooled = model(**given).last_hidden_state[0].mean(0)
    return (pooled / pooled.norm()).numpy()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_network_equals_that_of_transformers(tmp_path, variant):
    model = _write(tmp_path / "made", **variant)
    ours = load_mistral_model(tmp_path / "made", device="cpu", dtype=None)
    embedder = load_embedder(tmp_path / "made", device="cpu")
    passages = [Passage(image=make_image(i, size)) for i, size in enumerate(SIZES)]
    passages += [Passage("word " * n, make_image(9, (131, 77))) for n in (1, 30)]
    passages += [Passage("word " * n) for n in (0, 10, 22, 23, 24, 25, 90)]  # across the original length
    expected = [_reference(model, ours, passage) for passage in passages]
    np.testing.assert_allclose(embedder.embed_passages(passages), expected, atol=3e-6)


def test_long_texts_equal_those_of_transformers(tmp_path):
    """Thousands of positions in, a rounding more in a frequency would show."""
    from transformers import AutoModel

    folder = tmp_path / "long"
    shutil.copytree(TEXT, folder, ignore=shutil.ignore_patterns("expected.safetensors"))
    rope = YARN | {"rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 2048}
    _edit(folder, "config.json", rope_parameters=rope)
    _edit(folder, "sentence_bert_config.json", max_seq_length=5000)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    ours = load_mistral_model(folder, device="cpu", dtype=None)
    text = " ".join(f"word {n}" for n in range(700))
    assert 4096 < len(ours.encode_text(text, max_length=5000, index=0).ids) < 5000
    expected = _reference(model, ours, Passage(text), length=5000)
    found = load_embedder(folder, device="cpu").embed_passages([Passage(text)])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rope", [{}, *({"rope": variant["rope"]} for variant in VARIANTS.values())])
def test_rotary_numbers_are_those_of_transformers(rope):
    """To the last bit, first those of Ministral 3 itself: at position 32,768 one would show."""
    from transformers import Ministral3Config
    from transformers.models.ministral3.modeling_ministral3 import Ministral3RotaryEmbedding, get_llama_4_attn_scale

    config = Ministral3Config(rope_parameters=rope["rope"]) if rope else Ministral3Config()
    ours = read_rope(config.to_dict(), head_dim=config.head_dim)
    wanted = Ministral3RotaryEmbedding(config)
    assert torch.equal(ours.frequencies(), wanted.inv_freq)
    assert ours.attention_factor == wanted.attention_scaling
    positions = torch.arange(33_000)
    parameters = config.rope_parameters
    scale = get_llama_4_attn_scale(
        positions[None], parameters["llama_4_scaling_beta"], parameters["original_max_position_embeddings"]
    )
    assert torch.equal(ours.query_scale(positions), scale.flatten())


@pytest.mark.parametrize("size", [*SIZES, (5000, 40), (1284, 1285), (850, 1100)])
@pytest.mark.parametrize(("edge", "patch", "merge"), [(168, 14, 2), (1284, 14, 2), (540, 16, 3), (100, 14, 1)])
def test_images_are_resized_as_by_transformers(size, edge, patch, merge):
    published = pytest.importorskip("transformers.models.pixtral.image_processing_pil_pixtral")
    settings = PixelSettings(patch, merge, edge, edge, (0.5, 0.4, 0.3), (0.25, 0.26, 0.27))
    fitted = fitted_size(*size, settings)
    if min(size) * edge < max(size):  # a side shrinks to nothing, which the reference refuses
        assert min(fitted) == patch * merge
        return
    token = {"height": patch * merge, "width": patch * merge}
    processor = published.PixtralImageProcessorPil(
        size={"longest_edge": edge}, patch_size=token, image_mean=settings.mean, image_std=settings.std
    )
    image = make_image(3, size)
    expected = torch.from_numpy(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
    assert expected.shape == (3, *fitted[::-1])
    found = patchify(torch.from_numpy(np.array(image.resize(fitted))), settings)
    rows, columns = fitted[1] // patch // merge, fitted[0] // patch // merge
    squares = found.view(rows, columns, merge, merge, 3, patch, patch).permute(4, 0, 2, 5, 1, 3, 6)
    torch.testing.assert_close(squares.reshape(expected.shape), expected, atol=1e-6, rtol=0)
