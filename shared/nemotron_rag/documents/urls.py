"""Documents behind fsspec URLs that a caller gave: checked and listed.

Nothing here follows what a document says. Credentials come from where the file system of a URL looks for them, such as
the environment; a URL that holds some is refused, for names of documents are stored and shown.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.kinds import ENDINGS, kind_of_bytes
from nemotron_rag.errors import DocumentError, InputError, MissingExtraError

__all__ = [
    "FoundUrls",
    "RemoteFile",
    "bare_url",
    "check_url",
    "clean_url",
    "errors_of",
    "file_at",
    "file_system",
    "find_urls",
    "is_local",
    "is_url",
    "local_path",
    "url_below",
    "url_exists",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::.*)?://")  # a single letter is a drive
_LOCAL = ("file://", "local://")
_WEB = ("http://", "https://")
_REFUSED = ("reference", "data")  # which read other places, as what is in a document says
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|SIGNATURE", re.IGNORECASE)
_SHORTEST = 4  # characters of a secret; shorter ones are in any text


def is_url(text: object) -> bool:
    """Whether something names a place for fsspec, such as ``s3://bucket/folder`` or ``zip://a.pdf::s3://bucket/x.zip``.

    Example:
        >>> is_url("memory://reports"), is_url("reports/a.pdf"), is_url("C://reports")
        (True, False, False)
    """
    return isinstance(text, str) and _URL.match(text) is not None


def bare_url(url: str) -> str:
    """What to call a URL that may hold secrets: its scheme."""
    return f"{one_line(url.partition('://')[0].partition('::')[0])}://..."


def is_local(url: str) -> bool:
    """Whether it is a ``file://`` URL that `local_path` reads."""
    _, _, rest = url.partition("://")
    return "::" not in url and url.lower().startswith(_LOCAL) and rest.removeprefix("localhost").startswith("/")


def local_path(url: str) -> str | None:
    """The path of a ``file://`` URL, which is a file or folder as any other; None for other URLs.

    Raises:
        InputError: it names another machine, or a relative path.

    Example:
        >>> local_path("file:///reports/a%20b.pdf"), local_path("s3://bucket")
        ('/reports/a b.pdf', None)
    """
    if "::" in url or not url.lower().startswith(_LOCAL):
        return None
    path = url.partition("://")[2].removeprefix("localhost")
    if not is_local(url):
        raise InputError(f"a file URL must hold an absolute path, as in file:///folder/a.pdf, got {one_line(url)!r}")
    return urllib.request.url2pathname(path)


def clean_url(url: str) -> str:
    """The name of what is behind a URL in an index: the URL without slashes at its end."""
    head, *others = url.split("::")
    scheme, separator, path = head.partition("://")
    return "::".join([f"{scheme.lower()}{separator}{path.rstrip('/')}", *others])


def check_url(url: str) -> str:
    """The name of what is behind a URL that is to be read; see `clean_url`.

    Raises:
        InputError: it holds a password or a query, which would be stored and shown, or its scheme reads other places.
    """
    for part in url.split("::"):
        scheme, _, rest = part.partition("://")
        if scheme.lower() in _REFUSED:
            raise InputError(f"{scheme}:// reads other places than the one it names; give the documents themselves")
        if "?" in rest or _holds_password(scheme.lower(), rest):
            raise InputError(
                f"a URL of a source must hold no user, password or query, which would be stored and shown, got a "
                f"{one_line(scheme)}:// URL with one; set credentials in the environment of its file system"
            )
    return clean_url(url)


def url_below(url: str, path: str) -> str:
    """The URL of what is at a path below a URL: ``zip://::s3://x.zip`` -> ``zip://a.pdf::s3://x.zip``."""
    head, *others = url.split("::")
    slash = "" if head.endswith("://") else "/"
    return "::".join([f"{head.rstrip('/') if slash else head}{slash}{path}", *others])


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file behind a URL.

    Args:
        url: its name in an index.
        file_system: of fsspec.
        path: in it.
        size: bytes; None if that is not known before it is read.
    """

    url: str
    file_system: Any = field(repr=False)
    path: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class FoundUrls:
    """What is behind a URL.

    Args:
        is_folder: whether it is one.
        files: documents, sorted by URL.
        left_out: URLs of files that are no documents, sorted.
        urls: of all files, hidden ones too.
    """

    is_folder: bool
    files: tuple[RemoteFile, ...]
    left_out: tuple[str, ...] = ()
    urls: frozenset[str] = frozenset()


def find_urls(url: str, *, passed_over: str | None = None) -> FoundUrls | None:
    """List the documents at a URL and below it, as `find_documents` does; only files without a known ending are opened.

    Args:
        url: see `check_url`; of a web server it is one document.
        passed_over: a URL that is not looked into.

    Returns:
        None if nothing is there.

    Raises:
        InputError: it cannot be listed, or what it takes is not installed.
    """
    name = check_url(url)
    fs, path = file_system(name)
    with errors_of(name, fs):
        fs.invalidate_cache()
        info: Any = {"type": "file"} if name.startswith(_WEB) else _info(fs, path)
        if info is None:
            return None
        if info["type"] != "directory":
            return FoundUrls(False, (RemoteFile(name, fs, path, info.get("size")),), (), frozenset([name]))
        everything = sorted(_below(fs, name, path), key=lambda file: file.url)
        listed = [file for file in everything if _is_shown(file.path.removeprefix(path), passed_over, file.url)]
        files = [file for file in listed if _is_document(file)]
    mine = {file.url for file in files}
    left_out = tuple(file.url for file in listed if file.url not in mine)
    return FoundUrls(True, tuple(files), left_out, frozenset(file.url for file in everything))


def file_at(url: str) -> RemoteFile:
    """The one file at a URL, as `find_urls` named it.

    Raises:
        InputError: there is none, or that cannot be found out.
    """
    name = clean_url(url)
    fs, path = file_system(name)
    with errors_of(name, fs):
        return RemoteFile(name, fs, path, None if name.startswith(_WEB) else fs.info(path).get("size"))


def url_exists(url: str) -> bool:
    """Whether something is at a URL.

    Raises:
        InputError: that cannot be found out.
    """
    name = check_url(url)
    fs, path = file_system(name)
    with errors_of(name, fs):
        fs.invalidate_cache()
        return name.startswith(_WEB) or _info(fs, path) is not None


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        InputError: there is none, or what it takes is not installed.
    """
    try:
        import fsspec  # noqa: PLC0415  of the extra
    except ImportError as error:
        raise MissingExtraError("fsspec", "qdrant") from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url}: needs a package that is not installed: {one_line(str(error))}") from error
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"{url}: cannot be opened: {_said(error, None)}") from None
    return fs, path


@contextmanager
def errors_of(url: str, fs: Any) -> Iterator[None]:
    """Errors of a file system as a `DocumentError`, without the secrets that it was made with."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise DocumentError(f"{url}: cannot be read: no such file") from error
    except Exception as error:  # each file system has errors of its own
        raise DocumentError(f"{url}: cannot be read: {_said(error, fs)}") from None


def _said(error: Exception, fs: Any) -> str:
    from fsspec.config import conf  # noqa: PLC0415  of the extra

    text = f"{type(error).__name__} {error}"
    given = [getattr(fs, "storage_options", None), dict(conf), _environment()]
    for secret in sorted({secret for each in given for secret in _texts(each)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return one_line(re.sub(r"//[^/\s@]*@|\?\S+", lambda found: "//" if found[0][0] == "/" else "?***", text))


def _environment() -> dict[str, str]:
    """What the environment holds under the name of a secret."""
    return {name: value for name, value in os.environ.items() if _SECRET.search(name)}


def _texts(value: Any) -> Iterator[str]:
    """The texts in the options of a file system, but for those that say where things are."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in ("fo", "target_protocol", "protocol", "path", "host"):
                yield from _texts(each)
    elif isinstance(value, str) and len(value) >= _SHORTEST:
        yield value


def _info(fs: Any, path: str) -> Any:
    try:
        return fs.info(path)
    except FileNotFoundError:
        return None


def _below(fs: Any, url: str, path: str) -> Iterator[RemoteFile]:
    base = path.rstrip("/")
    for found, info in fs.find(path, detail=True).items():
        relative = found.removeprefix(base).lstrip("/")
        if info["type"] == "file" and relative and not relative.endswith("/"):
            yield RemoteFile(url_below(url, relative), fs, found, info.get("size"))


def _is_shown(relative: str, passed_over: str | None, url: str) -> bool:
    """Whether a file is neither hidden, nor what an office program writes beside an open file, nor passed over."""
    parts = relative.split("/")
    if any(part.startswith(".") for part in parts) or parts[-1].startswith("~$"):
        return False
    return passed_over is None or not is_url(passed_over) or not url.startswith(f"{check_url(passed_over)}/")


def _is_document(file: RemoteFile) -> bool:
    name = PurePosixPath(file.path).name
    if name.rpartition(".")[2].lower() in ENDINGS and "." in name:
        return True
    try:
        with file.file_system.open(file.path, "rb") as opened:
            return kind_of_bytes(opened, name) not in (None, "txt", "cbz")
    except Exception:  # each file system has errors of its own; a file that is none by its name is left out
        return False


def _holds_password(scheme: str, rest: str) -> bool:
    host, _, path = rest.partition("/")
    user, at, _ = host.rpartition("@")
    if at:
        return ":" in user or f"{scheme}://" in _WEB
    _, colon, port = host.partition(":")
    return bool(colon) and not port.isdigit() and "@" in path
