"""The templates for vLLM write the prompts of the models' own code."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nemotron_rag.cli import main
from nemotron_rag.errors import InputError
from nemotron_rag.models._llama.prompts import embed_prompt, rerank_prompt
from nemotron_rag.remote import chat_template
from nemotron_rag.remote.formats import Asked, format_of
from nemotron_rag.remote.inputs import Input, as_input
from nemotron_rag.types import Passage
from support.contracts import make_image


def render(family: str, messages: list[dict]) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it

    def refuse(message):
        raise ValueError(message)

    template = environment.from_string(chat_template(family).read_text())
    return template.render(messages=messages, bos_token="<s>", raise_exception=refuse)


def as_vllm_sees(message: dict) -> dict:
    """Parts of images are only named to a template."""
    parts = [part if part["type"] == "text" else {"type": "image"} for part in message["content"]]
    return {**message, "content": parts}


@pytest.mark.parametrize("role", ["query", "passage"])
@pytest.mark.parametrize("given", [Input("a  b\n c"), Input(""), as_input(Passage("caption", make_image()))])
def test_embedding(role, given):
    asked = Asked(model="m", role=role)
    (message,) = format_of("embedder", "vllm", operation=None, has_images=True).body([given], asked)["messages"]
    prompt = embed_prompt(f"{role}:", given.text, image_tokens=0 if given.image is None else 1)
    expected = f"<s>{prompt.before}" + ("" if given.image is None else f"<image>{prompt.after}")
    assert render("llama_nemotron_embed_vl", [as_vllm_sees(message)]) == expected


@pytest.mark.parametrize("family", ["llama_nemotron_rerank_vl", "llama_nemotron_text_rerank"])
@pytest.mark.parametrize(("text", "image"), [("Sales grew.", False), ("", True), ("caption", True), ("a\n b ", False)])
def test_reranking(family, text, image):
    content = text + "<image>" if image else text
    messages = [{"role": "query", "content": "why <image>?"}, {"role": "document", "content": content}]
    prompt = rerank_prompt("why ?", text, template="v1", image_tokens=int(image))
    expected = f"<image>{prompt.after}" if image else prompt.before
    assert render(family, messages) == expected


def test_two_messages_are_refused():
    with pytest.raises(ValueError, match="wanted one message"):
        render("llama_nemotron_embed_vl", [{"role": "query", "content": "a"}] * 2)


def test_the_command_says_where_a_template_is(capsys):
    assert main(["vllm-template", "llama-nemotron-rerank-vl-1b-v2"]) == 0
    assert capsys.readouterr().out.strip() == str(chat_template("llama_nemotron_rerank_vl"))
    assert main(["vllm-template", "starter-colembed"]) == 1
    with pytest.raises(InputError, match="no chat template for jina_reranker_m0"):
        chat_template("jina_reranker_m0")
