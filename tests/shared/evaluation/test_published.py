"""Data sets in the layouts in which BEIR and ViDoRe publish them, from a folder, whoever wrote it."""

import gzip
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import CheckpointError, ImageError, InputError
from nemotron_rag.evaluation import read_dataset
from nemotron_rag.evaluation.published import read_published
from support.datasets import beir, png, vidore_v1, vidore_v2, vidore_v3, write_parquet


def test_vidore_v3(tmp_path):
    data = read_dataset(vidore_v3(tmp_path / "v3"))
    assert [query.id for query in data.queries] == ["0", "1", "2", "3"]
    assert data.queries[0].judgements == {"0": 2, "1": 1}
    assert data.queries[1].groups == {
        "language": ("english",),
        "query_types": ("extractive", "numerical"),
        "query_format": ("question",),
        "content_type": ("Text",),
        "source_type": ("summary",),
        "query_generator": ("human",),
    }
    pages = list(data.corpus.pages())
    assert [(page.id, page.source, page.number) for page in pages] == [(str(i), "book", i + 1) for i in range(4)]
    assert pages[2].text.startswith("# whales")
    assert load_image(pages[2].image).size == (120, 160)
    assert data.corpus.images({"1", "3"}).keys() == {"1", "3"}
    assert data.notes == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_vidore_v3_in_shards_as_the_library_datasets_writes_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    number, text = datasets.Value("int64"), datasets.Value("string")
    features = {"corpus_id": number, "image": datasets.Image(), "doc_id": text, "markdown": text}
    images = [Image.new(mode, (60 + i, 80)) for i, mode in enumerate(["RGB", "L", "RGBA", "RGB", "P"])]
    corpus = datasets.Dataset.from_dict(
        {
            "corpus_id": list(range(5)),
            "image": images,
            "doc_id": ["a", "a", "a", "b", "b"],
            "markdown": [f"page {i}" for i in range(5)],
            "page_number_in_doc": [0, 1, 2, 0, 1],
        },
        features=datasets.Features({**features, "page_number_in_doc": number}),
    )
    queries = datasets.Dataset.from_dict(
        {"query_id": [7, 8], "query": ["page 3", "Seite 4"], "language": ["english", "german"],
         "query_types": [["extractive"], ["numerical", "multi-hop"]]},
        features=datasets.Features({"query_id": number, "query": text, "language": text,
                                    "query_types": datasets.List(text)}),
    )  # fmt: skip
    qrels = datasets.Dataset.from_dict({"query_id": [7, 8, 8], "corpus_id": [3, 4, 0], "score": [2, 1, 1]})
    for name, table, shards in [("corpus", corpus, 2), ("queries", queries, 1), ("qrels", qrels, 1)]:
        (tmp_path / name).mkdir()
        for shard in range(shards):
            part = table.shard(shards, shard, contiguous=True)
            part.to_parquet(tmp_path / name / f"test-{shard:05}-of-{shards:05}.parquet")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: corpus\n---\n")
    data = read_dataset(tmp_path)
    assert {query.id: query.judgements for query in data.queries} == {"7": {"3": 2}, "8": {"4": 1, "0": 1}}
    assert data.queries[1].groups == {"language": ("german",), "query_types": ("numerical", "multi-hop")}
    pages = list(data.corpus.pages())
    assert [(page.id, page.source, page.number) for page in pages] == [
        ("0", "a", 1), ("1", "a", 2), ("2", "a", 3), ("3", "b", 1), ("4", "b", 2),
    ]  # fmt: skip
    assert [load_image(page.image).size for page in pages] == [image.size for image in images]


def test_vidore_v2(tmp_path):
    data = read_dataset(vidore_v2(tmp_path / "v2"))
    assert data.queries[0].judgements == {"1": 1, "2": 2}
    assert data.queries[0].groups["language"] == ("english",)
    assert [(page.id, page.source, page.text) for page in data.corpus.pages()] == [(i, i, "") for i in "012"]


def test_vidore_v1_has_a_query_once_and_a_page_once(tmp_path):
    data = read_dataset(vidore_v1(tmp_path / "v1"))
    found = {query.text: query.judgements for query in data.queries}
    assert found == {
        "apples?": {"images/a.png": 1, "images/c.png": 1},
        "pears?": {"images/b.png": 1},
        "whales?": {"images/a.png": 1},
    }
    assert [page.id for page in data.corpus.pages()] == ["images/a.png", "images/b.png", "images/c.png"]
    assert data.notes == ("2 rows have the page of another one, by its file name, and are not counted twice",)


def test_beir(tmp_path):
    data = read_dataset(beir(tmp_path / "nfcorpus"))
    assert {query.id: query.judgements for query in data.queries} == {"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}}
    assert [page.text for page in data.corpus.pages()] == ["Apples grow on trees", "Whales sing", "crabs walk sideways"]
    assert data.name == "nfcorpus"


def test_beir_as_parquet_and_packed_as_on_the_hub(tmp_path):
    plain = beir(tmp_path / "plain")
    hub = tmp_path / "hub"
    for part in ("corpus", "queries"):
        rows = [json.loads(line) for line in (plain / f"{part}.jsonl").read_text().splitlines()]
        write_parquet(
            hub / part / f"{part}-00000-of-00001.parquet", [{"_id": r["_id"], "text": r["text"]} for r in rows]
        )
    rows = [{"query-id": "q1", "corpus-id": "d1", "score": 1}]
    write_parquet(hub / "default" / "test-00000-of-00001.parquet", rows)
    assert read_dataset(hub).queries[0].judgements == {"d1": 1}
    packed = tmp_path / "packed"
    packed.mkdir()
    for part in ("corpus", "queries"):
        (packed / f"{part}.jsonl.gz").write_bytes(gzip.compress((plain / f"{part}.jsonl").read_bytes()))
    (packed / "qrels").mkdir()
    (packed / "qrels" / "test.tsv").write_text("q1 0 d1 1\nq2 0 d3 1\n")  # TREC's format
    assert {q.id: q.judgements for q in read_dataset(packed).queries} == {"q1": {"d1": 1}, "q2": {"d3": 1}}


def test_splits_and_subsets_are_chosen(tmp_path):
    folder = beir(tmp_path / "b", splits=("train", "dev"))
    with pytest.raises(InputError, match="several; give split= one of 'dev', 'train'"):
        read_dataset(folder)
    assert len(read_dataset(folder, split="dev").queries) == 2
    with pytest.raises(InputError, match="no split 'test'; give split= one of"):
        read_dataset(folder, split="test")
    languages = tmp_path / "mteb"
    for language in ("english", "french"):
        write_parquet(languages / f"{language}-corpus" / "test-00000-of-00001.parquet", [{"id": "c", "text": "x"}])
        write_parquet(
            languages / f"{language}-queries" / "test-00000-of-00001.parquet", [{"id": "q", "text": language}]
        )
        write_parquet(
            languages / f"{language}-qrels" / "test-00000-of-00001.parquet",
            [{"query-id": "q", "corpus-id": "c", "score": 1}],
        )
    assert read_dataset(languages, subset="french").queries[0].text == "french"
    with pytest.raises(InputError, match="several; give subset= one of 'english', 'french'"):
        read_dataset(languages)


def test_judgements_of_what_is_not_there_are_noted(tmp_path):
    folder = beir(tmp_path / "b")
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\tnowhere\t1\nnobody\td1\t1\n")
    assert read_dataset(folder).notes == (
        "1 judged queries are not among the queries, and are left out",
        "1 judged pages are not in the corpus; they count as not found",
    )


@pytest.mark.parametrize("path", ["../secret.png", "{tmp}/secret.png", "link.png", "//host/share/x.png"])
def test_no_image_outside_the_folder_is_opened(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(png("secret"))
    folder = vidore_v2(tmp_path / "v2")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"corpus-id": i, "image": {"bytes": None, "path": path.format(tmp=tmp_path)}} for i in range(3)]
    write_parquet(folder / "corpus" / "test-00000-of-00001.parquet", rows)
    (page, *_) = read_dataset(folder).corpus.pages()
    with pytest.raises(ImageError):
        page.image.open()


def test_images_within_the_folder_are_opened(tmp_path):
    folder = vidore_v2(tmp_path / "v2")
    (folder / "images").mkdir()
    (folder / "images" / "0.png").write_bytes(png("page"))
    rows = [{"corpus-id": i, "image": {"bytes": None, "path": "images/0.png"}} for i in range(3)]
    write_parquet(folder / "corpus" / "test-00000-of-00001.parquet", rows)
    (page, *_) = read_dataset(folder).corpus.pages()
    assert page.image.open().size == (120, 160)


def test_tables_that_are_links_out_of_the_folder_are_refused(tmp_path):
    folder = beir(tmp_path / "b")
    shutil.move(folder / "corpus.jsonl", tmp_path / "elsewhere.jsonl")
    (folder / "corpus.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(InputError, match="leads out of the data set"):
        read_dataset(folder)


def test_the_cache_of_the_hub_has_links_to_its_blobs(tmp_path):
    cache = tmp_path / "datasets--vidore--x"
    snapshot = cache / "snapshots" / "abc"
    plain = beir(tmp_path / "plain")
    (cache / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        shutil.copy(path, cache / "blobs" / str(number))
        link = snapshot / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(cache / "blobs" / str(number), link.parent))
    assert len(read_dataset(snapshot).queries) == 2


@pytest.mark.parametrize(("part", "content", "message"), [
    ("corpus.jsonl", b"not json\n", "cannot be read"),
    ("corpus.jsonl", b"[1, 2]\n", "line 1: wanted a JSON object, got list"),
    ("corpus.jsonl", b"[" * 100_000, "cannot be read"),
    ("corpus.jsonl", b"", "the corpus has no page"),
    ("queries.jsonl", b'{"text": "no id"}\n', "a query needs an id and a text"),
    ("queries.jsonl", b'{"_id": 1, "text": 5}\n', "a query needs an id and a text"),
    ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\tgood\n", "row 1: wanted query-id, corpus-id and a whole"),
    ("qrels/test.tsv", b"a\tb\nq1\td1\n", "row 1: wanted query-id"),
])  # fmt: skip
def test_damaged_tables_are_named_in_one_line(tmp_path, part, content, message):
    folder = beir(tmp_path / "b")
    (folder / part).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_dataset(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "noise", "lying footer"])
def test_damaged_parquet_is_an_input_error(tmp_path, damage):
    folder = vidore_v2(tmp_path / "v2")
    path = folder / "queries" / "test-00000-of-00001.parquet"
    data = path.read_bytes()
    changed = {
        "cut": data[:-20],
        "noise": b"PAR1" + bytes(range(256)) + b"PAR1",
        "lying footer": data[:-8] + b"\xff\xff\xff\x7fPAR1",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset(folder)


def test_row_groups_beyond_the_budget_are_refused_before_they_are_read(tmp_path, monkeypatch):
    folder = vidore_v2(tmp_path / "v2")
    big = pa.table({"corpus-id": pa.array([1, 2, 3]), "text": pa.array(["a" * 2_000_000] * 3)})
    pq.write_table(big, folder / "corpus" / "test-00000-of-00001.parquet", use_dictionary=False, compression="zstd")
    assert (folder / "corpus" / "test-00000-of-00001.parquet").stat().st_size < 10_000
    monkeypatch.setattr("nemotron_rag.evaluation.tables._MAX_ROW_GROUP", 1_000_000)
    with pytest.raises(InputError, match="in one row group"):
        read_dataset(folder)


def test_a_bomb_of_an_image_is_a_failure_of_its_page(tmp_path):
    folder = vidore_v2(tmp_path / "v2")
    Image.new("1", (40_000, 10)).save(tmp_path / "wide.png")
    rows = [{"corpus-id": i, "image": {"bytes": (tmp_path / "wide.png").read_bytes(), "path": None}} for i in range(3)]
    write_parquet(folder / "corpus" / "test-00000-of-00001.parquet", rows)
    (page, *_) = read_dataset(folder).corpus.pages()
    with pytest.raises(ImageError):
        load_image(page.image)


def test_folders_that_are_no_data_set_say_so(tmp_path):
    with pytest.raises(InputError, match="is no data set"):
        read_published(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a"}\n')
    with pytest.raises(InputError):
        read_published(tmp_path)
    for name in ("nowhere.csv", "../x", "a/b/c"):
        with pytest.raises(InputError, match="there is no data set at"):
            read_dataset(tmp_path / name if name != "a/b/c" else name)


def test_a_data_set_of_the_hub_is_not_downloaded_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot get the data set vidore/nothing-here from the model hub"):
        read_dataset("vidore/nothing-here")


@pytest.mark.hub
@pytest.mark.parametrize(("name", "queries"), [("vidore/vidore_v3_hr", 1908), ("vidore/tabfquad_test_subsampled", 280)])
def test_published_data_sets_of_the_hub(name, queries):
    assert len(read_dataset(name, download=True).queries) == queries
