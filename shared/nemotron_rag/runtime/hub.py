"""Download a pinned checkpoint from the model hub: weights, JSON and chat templates only, never Python."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from nemotron_rag.errors import CheckpointError

__all__ = ["download", "download_dataset"]

_FILES = ["*.json", "*.jinja", "*.safetensors"]
_TABLES = ["*.parquet", "*.jsonl", "*.jsonl.gz", "*.tsv", "*.csv"]


def download(repo: str, *, revision: str, only_cached: bool = False) -> Path:
    """Return the local folder of a repository at a revision, downloaded unless it is in the cache.

    Args:
        repo: ``owner/name``.
        revision: a commit, branch or tag.
        only_cached: use the local cache only, without any network access.

    Raises:
        CheckpointError: the hub cannot be reached, and there is no cached copy.
    """
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_FILES, local_files_only=only_cached))
    except Exception as error:  # network, authentication, disk and cache errors share no base class
        if only_cached:
            raise CheckpointError(
                f"{repo} at revision {revision[:8]} is not in the cache of the model hub; "
                "allow its download, or give a local folder with its files"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot get {repo} at revision {revision[:8]} from the model hub ({reason}); "
            "give a local folder with its files, or try starter-embed-vl and starter-rerank-vl of the extra starters"
        ) from error


def download_dataset(repo: str, *, revision: str | None = None, only_cached: bool = False) -> Path:
    """Return the local folder of a data set's tables, downloaded unless they are in the cache; never Python.

    Args:
        repo: ``owner/name``.
        revision: a commit, branch or tag; None for the newest.
        only_cached: use the local cache only, without any network access.

    Raises:
        CheckpointError: the hub cannot be reached, and there is no cached copy.
    """
    try:
        folder: str = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=_TABLES, local_files_only=only_cached
        )
        return Path(folder)
    except Exception as error:  # network, authentication, disk and cache errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "allow its download" if only_cached else "give a local folder with its files"
        raise CheckpointError(f"cannot get the data set {repo} from the model hub ({reason}); {advice}") from error
