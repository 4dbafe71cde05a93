"""The code of NVIDIA's model cards, as it stands there but for the imports and the names of models and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker

QUERY = "How is AI improving the intelligence and capabilities of robots?"
TEXTS = [
    "AI enables robots to perceive, plan, and act autonomously.",
    "AI is transforming autonomous vehicles by enabling safer, smarter, and more reliable decision-making on the road.",
    "A biological foundation model designed to analyze and generate DNA, RNA, and protein sequences.",
]
MODALITIES = ["text", "image", "image_text"]


@pytest.fixture(scope="module")
def images():
    made = []
    for text in TEXTS:
        image = Image.new("RGB", (240, 240), "white")  # one tile
        ImageDraw.Draw(image).text((10, 60), text[:40], fill="black")
        made.append(image)
    return made


def passages(modality, images):
    return [
        Passage(text if "text" in modality else "", image if "image" in modality else None)
        for text, image in zip(TEXTS, images, strict=True)
    ]


@pytest.mark.parametrize("modality", MODALITIES)
def test_embed_vl_by_transformers(modality, images):
    from nemotron_rag.compat.transformers import AutoModel

    model = AutoModel.from_pretrained(
        "starter-embed-vl",
        torch_dtype=torch.float32,
        trust_remote_code=True,
        attn_implementation="flash_attention_2",
        device_map="auto",
    ).eval()
    if modality == "image":
        model.processor.p_max_length = 2048
    elif modality == "image_text":
        model.processor.p_max_length = 10240
    elif modality == "text":
        model.processor.p_max_length = 8192
    model.processor.max_input_tiles = 6
    model.processor.use_thumbnail = True

    def _l2_normalize(x: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
        return x / (x.norm(p=2, dim=-1, keepdim=True) + eps)

    with torch.inference_mode():
        query_embeddings = model.encode_queries([QUERY])
        if modality == "image":
            document_embeddings = model.encode_documents(images=images)
        elif modality == "image_text":
            document_embeddings = model.encode_documents(images=images, texts=TEXTS)
        elif modality == "text":
            document_embeddings = model.encode_documents(texts=TEXTS)
    scores = _l2_normalize(query_embeddings) @ _l2_normalize(document_embeddings).T

    ours = load_embedder("starter-embed-vl", max_input_tiles=6, use_thumbnail=True)
    wanted = ours.embed_queries([QUERY]) @ ours.embed_passages(passages(modality, images)).T
    np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_rerank_vl_by_transformers(modality, images):
    from nemotron_rag.compat.transformers import AutoModelForSequenceClassification, AutoProcessor

    device = "cpu"
    model = AutoModelForSequenceClassification.from_pretrained(
        "starter-rerank-vl", dtype=torch.float32, trust_remote_code=True, attn_implementation="sdpa", device_map=device
    ).eval()
    kwargs = {"max_input_tiles": 6, "use_thumbnail": True}
    kwargs["rerank_max_length"] = {"image": 2048, "text": 8192, "image_text": 10240}[modality]
    processor = AutoProcessor.from_pretrained("starter-rerank-vl", trust_remote_code=True, **kwargs)
    examples = [
        {
            "question": QUERY,
            "doc_text": text if "text" in modality else "",
            "doc_image": image if "image" in modality else "",
        }
        for text, image in zip(TEXTS, images, strict=True)
    ]
    batch_dict = processor.process_queries_documents_crossencoder(examples)
    batch_dict = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch_dict.items()}
    with torch.no_grad():
        outputs = model(**batch_dict, return_dict=True)
    logits = outputs.logits.squeeze(-1)
    sorted_indices = torch.argsort(logits, descending=True).tolist()

    ours = load_reranker("starter-rerank-vl", max_input_tiles=6, use_thumbnail=True)
    wanted = ours.score(QUERY, passages(modality, images))
    np.testing.assert_allclose(logits.cpu().numpy(), wanted, atol=1e-4)
    assert sorted_indices == np.argsort(-wanted, kind="stable").tolist()
    only_tensors = {k: v.to(device) for k, v in batch_dict.items() if isinstance(v, torch.Tensor)}
    assert torch.equal(model(**only_tensors).logits, outputs.logits)


def test_colembed_by_transformers(images):
    from nemotron_rag.compat.transformers import AutoModel

    model = AutoModel.from_pretrained(
        "starter-colembed", device_map="cpu", trust_remote_code=True, torch_dtype=torch.float32
    ).eval()
    queries = [QUERY, "How is DNA analysed?"]
    query_embeddings = model.forward_queries(queries, batch_size=8)
    image_embeddings = model.forward_images(images, batch_size=8)
    scores = model.get_scores(query_embeddings, image_embeddings)
    assert query_embeddings.shape[0] == 2
    assert query_embeddings.dim() == image_embeddings.dim() == 3
    ours = load_multivector_embedder("starter-colembed", device="cpu")
    rows = ours.embed_passages([Passage(image=image) for image in images])
    np.testing.assert_allclose(scores.numpy(), ours.score(ours.embed_queries(queries), rows), atol=1e-3)
    documents = [{"image": image, "text": ""} for image in images]
    assert torch.allclose(model.forward_passages(documents), image_embeddings, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_embed_by_sentence_transformers(modality, images):
    from nemotron_rag.compat.sentence_transformers import SentenceTransformer

    model = SentenceTransformer("starter-embed-vl", trust_remote_code=True, model_kwargs={"dtype": "float32"})
    documents = {
        "text": TEXTS,
        "image": images,
        "image_text": [{"image": image, "text": text} for image, text in zip(images, TEXTS, strict=True)],
    }[modality]
    query_embeddings = model.encode_query([QUERY])
    document_embeddings = model.encode_document(documents, batch_size=2, normalize_embeddings=True)
    similarities = model.similarity(query_embeddings, document_embeddings)
    ours = load_embedder("starter-embed-vl")
    wanted = ours.embed_queries([QUERY]) @ ours.embed_passages(passages(modality, images)).T
    np.testing.assert_allclose(similarities.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_rerank_by_sentence_transformers(modality, images):
    from nemotron_rag.compat.sentence_transformers import CrossEncoder

    model = CrossEncoder("starter-rerank-vl", trust_remote_code=True)
    documents = {
        "text": TEXTS,
        "image": images,
        "image_text": [{"text": text, "image": image} for image, text in zip(images, TEXTS, strict=True)],
    }[modality]
    scores = model.predict([(QUERY, document) for document in documents])
    rankings = model.rank(QUERY, documents, top_k=2, return_documents=True)
    wanted = load_reranker("starter-rerank-vl").score(QUERY, passages(modality, images))
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    best = np.argsort(-wanted, kind="stable")[:2].tolist()
    assert [each["corpus_id"] for each in rankings] == best
    assert [each["text"] for each in rankings] == [documents[place] for place in best]


def test_late_interaction_by_sentence_transformers(images):
    from nemotron_rag.compat.sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder("starter-colembed")
    query_embeddings = model.encode_query([QUERY])
    document_embeddings = model.encode_document(images)
    scores = model.similarity(query_embeddings, document_embeddings)
    ours = load_multivector_embedder("starter-colembed")
    rows = ours.embed_passages([Passage(image=image) for image in images])
    np.testing.assert_allclose(scores.numpy(), ours.score(ours.embed_queries([QUERY]), rows), atol=1e-3)


def test_the_first_lines_of_the_cards():
    from nemotron_rag.compat.sentence_transformers import CrossEncoder, SentenceTransformer

    model = SentenceTransformer("starter-embed-vl")
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    embeddings = model.encode(sentences)
    similarities = model.similarity(embeddings, embeddings)
    assert similarities.shape == (3, 3)
    model = CrossEncoder("starter-rerank-vl", trust_remote_code=True)
    query = "Which planet is known as the Red Planet?"
    passages = ["Venus is often called Earth's twin.", "Mars is often referred to as the Red Planet."]
    scores = model.predict([(query, passage) for passage in passages])
    assert scores.shape == (2,)
    assert scores[1] > scores[0]
