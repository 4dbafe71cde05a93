"""Documents as standard content blocks, as a message, and as the result of a tool."""

from __future__ import annotations

import base64
import io

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage, convert_to_openai_messages
from langchain_core.vectorstores import InMemoryVectorStore
from PIL import Image

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    create_page_prompt,
    create_page_retriever_tool,
    to_content_blocks,
    to_human_message,
)
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.testing import FakeEmbedder
from support.contracts import make_image
from support.langchain import data_uri, png

PAGE = Document(
    "Revenue rose.", id="a", metadata={"source": "report.pdf", "page": 2, "image": data_uri(make_image(1, (70, 50)))}
)
SCAN = Document(
    "[page image] p.1", id="b", metadata={"text_is_placeholder": True, "image": png(make_image(2, (30, 40)))}
)
NOTE = Document("Only text.", id="c")


def decoded(block) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(block["base64"])))


def test_each_document_is_a_text_and_its_image():
    blocks = to_content_blocks([PAGE, SCAN, NOTE], image_format="png")
    assert [block["type"] for block in blocks] == ["text", "image", "text", "image", "text"]
    assert [block["text"] for block in blocks if block["type"] == "text"] == [
        "[1] report.pdf, page 3\nRevenue rose.",
        "[2]",
        "[3]\nOnly text.",
    ]
    assert decoded(blocks[1]).tobytes() == make_image(1, (70, 50)).tobytes()
    assert {block["mime_type"] for block in blocks if block["type"] == "image"} == {"image/png"}


def test_the_stated_type_is_the_true_one():
    rotated = Image.Exif()
    rotated[0x0112] = 6
    buffer = io.BytesIO()
    make_image(1, (70, 50)).save(buffer, "JPEG", exif=rotated)
    lying = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    for image in (lying, make_image(1, (50, 70)).convert("RGBA"), make_image(1, (50, 70)).convert("CMYK")):
        _, block = to_content_blocks([Document("a", metadata={"image": image})], image_format="jpeg")
        assert block["mime_type"] == "image/jpeg"
        assert decoded(block).format == "JPEG"
        assert decoded(block).size == (50, 70), "upright"
        assert not decoded(block).getexif()


def test_images_that_may_not_be_opened(tmp_path):
    make_image().save(tmp_path / "page.png")
    page = Document("a", metadata={"image": str(tmp_path / "page.png"), "source": "r.pdf"})
    with pytest.raises(ImageError, match=r"document 1 \(r.pdf\): .*outside the allowed folders"):
        to_content_blocks([NOTE, page])
    assert [block["type"] for block in to_content_blocks([page], on_image_error="text")] == ["text"]
    assert [block["type"] for block in to_content_blocks([page], image_roots=[tmp_path])] == ["text", "image"]
    assert len(to_content_blocks([page], image_key="scan")) == 1


def test_the_message_reads_as_any_provider_wants_it():
    message = to_human_message("Did revenue rise?", [PAGE, NOTE])
    assert [block["type"] for block in message.content_blocks] == ["text", "image", "text", "text"]
    (openai,) = convert_to_openai_messages([message])
    assert openai["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert openai["content"][-1]["text"] == "Did revenue rise?"


@pytest.fixture
def retriever():
    store = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    store.add_documents([PAGE, NOTE])
    return store.as_retriever(search_kwargs={"k": 1})


async def test_the_tools_result_carries_the_images(retriever):
    tool = create_page_retriever_tool(retriever, "search", "Finds pages of reports.")
    assert (tool.name, tool.description) == ("search", "Finds pages of reports.")
    call = {"name": "search", "args": {"query": "revenue rose"}, "id": "1", "type": "tool_call"}
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert isinstance(message, ToolMessage)
        assert [block["type"] for block in message.content_blocks] == ["text", "image"]
        assert message.content[0]["text"] == "[1] report.pdf, page 3\nRevenue rose."
        assert decoded(message.content[1]).size == (70, 50)
        assert [document.id for document in message.artifact] == ["a"]


def test_the_tool_takes_the_callers_run_along(retriever, runs):
    create_page_retriever_tool(retriever, "search", "d").invoke("revenue", config={"callbacks": [runs]})
    (search,) = [run for run in runs.started if run["inputs"] == "revenue"]
    assert search["parent"] is not None


def test_a_tool_that_finds_nothing_says_so():
    empty = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder())).as_retriever()
    call = {"name": "s", "args": {"query": "q"}, "id": "1", "type": "tool_call"}
    message = create_page_retriever_tool(empty, "s", "d").invoke(call)
    assert [block["text"] for block in message.content_blocks] == ["Nothing was found."]


def test_equal_documents_give_equal_messages():
    one, other = (to_human_message("Did revenue rise?", [PAGE, SCAN, NOTE]) for _ in range(2))
    assert one == other
    assert [sorted(block) for block in one.content] == [
        ["text", "type"],
        ["base64", "mime_type", "type"],
        ["text", "type"],
        ["base64", "mime_type", "type"],
        ["text", "type"],
        ["text", "type"],
    ]


def test_a_models_answers_are_cached():
    asked = []

    class Model(GenericFakeChatModel):
        def _generate(self, messages, *args, **kwargs):
            asked.append(messages)
            return super()._generate(messages, *args, **kwargs)

    model = Model(messages=iter([AIMessage("a"), AIMessage("b")]), cache=InMemoryCache())
    for _ in range(3):
        model.invoke([to_human_message("Did revenue rise?", [PAGE])])
    assert len(asked) == 1


def test_what_was_found_twice_is_sent_once():
    again = PAGE.model_copy(update={"metadata": {**PAGE.metadata, "relevance_score": 0.3}})
    chunk = Document("A part of it.", metadata=PAGE.metadata)
    blocks = to_content_blocks([PAGE, again, chunk, NOTE])
    assert [block.get("text", "image") for block in blocks] == [
        "[1] report.pdf, page 3\nRevenue rose.",
        "image",
        "[3] report.pdf, page 3\nA part of it.",
        "[4]\nOnly text.",
    ]


def test_images_have_limits():
    blocks = to_content_blocks([PAGE, SCAN], max_side=35)
    assert [decoded(block).size for block in blocks if block["type"] == "image"] == [(35, 25), (26, 35)]
    assert [block["type"] for block in to_content_blocks([PAGE, SCAN], max_images=1)] == ["text", "image", "text"]
    held = len(base64.b64decode(PAGE.metadata["image"].partition(",")[2]))
    for image_format in (None, "jpeg", "webp", "png"):
        _, block = to_content_blocks([PAGE], image_format=image_format)
        assert len(base64.b64decode(block["base64"])) <= held
    for wrong in ({"max_side": 0}, {"max_images": -1}, {"max_bytes": "1"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            to_content_blocks([PAGE], **wrong)


def test_regions_are_cut_out_behind_their_page(caplog):
    regions = [{"box": [0, 0, 0.5, 0.5]}, {"box": [0.5, 0.5, 1, 1]}]
    located = PAGE.model_copy(update={"metadata": {**PAGE.metadata, "regions": regions}})
    chunk = located.model_copy(update={"id": "chunk", "page_content": "Revenue"})
    blocks = to_content_blocks([located, chunk, SCAN, NOTE], max_crops=2, image_format="png")
    assert [block["type"] for block in blocks] == ["text", *["image"] * 3, "text", "text", "image", "text"]
    assert decoded(blocks[2]).tobytes() == make_image(1, (70, 50)).crop((0, 0, 37, 27)).tobytes()
    few = to_content_blocks([located, SCAN], max_crops=2, max_images=3)
    assert [block["type"] for block in few] == ["text", "image", "image", "text", "image"]
    assert to_human_message("q", [located], max_crops=1).content_blocks[:3] == to_content_blocks([located], max_crops=1)
    prompt = create_page_prompt(max_crops=1)
    (_, message) = prompt.invoke({"input": "q", "context": [located]})
    assert [block["type"] for block in message.content_blocks] == ["text", "image", "image", "text"]
    assert caplog.text == ""


def test_regions_that_are_something_else(caplog):
    sold = PAGE.model_copy(update={"metadata": {**PAGE.metadata, "regions": "EMEA"}})
    assert len(to_content_blocks([sold])) == 2
    with pytest.raises(ImageError, match=r"document 0 \(.*: regions must be a list of mappings with a box, got str"):
        to_content_blocks([sold], max_crops=1)
    assert len(to_content_blocks([sold], max_crops=1, on_image_error="text")) == 2
    for wrong in (-1, True, None):
        with pytest.raises(InputError, match="max_crops"):
            create_page_prompt(max_crops=wrong)


def test_the_servers_folders_are_not_told():
    page = Document("a", metadata={"source": "/srv/tenants/ann/report.pdf", "page": 0})
    assert to_content_blocks([page])[0]["text"] == "[1] report.pdf, page 1\na"


def test_what_holds_images_prints_in_a_line(retriever):
    message = to_human_message("q", [PAGE, SCAN])
    tool = create_page_retriever_tool(retriever, "search", "d")
    result = tool.invoke({"name": "search", "args": {"query": "revenue rose"}, "id": "1", "type": "tool_call"})
    for shown in (repr(message), str(message), message.pretty_repr(), repr(result), result.pretty_repr()):
        assert len(shown) < 2000, shown[:300]


async def test_the_artifact_holds_no_image_a_second_time(retriever):
    call = {"name": "search", "args": {"query": "revenue rose"}, "id": "1", "type": "tool_call"}
    tool = create_page_retriever_tool(retriever, "search", "d")
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert [sorted(document.metadata) for document in message.artifact] == [["page", "source"]]
        assert message.model_dump_json().count(message.content[1]["base64"]) == 1
    whole = create_page_retriever_tool(retriever, "search", "d", artifact_images=True).invoke(call)
    assert whole.artifact[0].metadata["image"] == PAGE.metadata["image"]


def test_a_misspelt_option_shows_at_once(retriever):
    with pytest.raises(TypeError, match="image_root"):
        create_page_retriever_tool(retriever, "s", "d", image_root=["."])
