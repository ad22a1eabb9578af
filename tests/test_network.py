"""Whom a download asks and what it tells: certificates, proxies, redirects, credentials, pauses, odd answers."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import hf_server
import pytest
from http_server import TLS, Reply, Server, running
from test_cache import BODY, DIGEST, NAME, row

from videozoo import cache, credentials
from videozoo.download import Downloaded, download, limits
from videozoo.errors import FetchError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the user, no pause, and the tests' own authority for https."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("CURL_CA_BUNDLE", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(TLS / "ca.pem"))
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def secure() -> Iterator[Server]:
    with running("server.pem") as started:
        yield started


def get(url: str, folder: Path) -> Downloaded:
    found = download([url], folder / "f", digest=DIGEST, size_bytes=None, what="net", progress=False)
    assert (folder / "f").read_bytes() == BODY
    return found


def refused(url: str, folder: Path) -> str:
    """The one line of a download that fails; nothing may be left of it."""
    with pytest.raises(FetchError) as error:
        get(url, folder)
    assert list(folder.iterdir()) == []
    text = str(error.value)
    assert "\n" not in text and "object at 0x" not in text
    return text


def redirect(address: str) -> Reply:
    return Reply(status=302, headers={"Location": address})


# Certificates


def test_an_own_authority_is_honoured(secure: Server, tmp_path: Path) -> None:
    assert get(secure.serve("/f", Reply(BODY)), tmp_path).sha256 == DIGEST


@pytest.mark.parametrize(
    ("certificate", "bundle", "says"),
    [("server.pem", None, "self-signed certificate in certificate chain|unable to get local issuer certificate"),
     ("expired.pem", "ca.pem", "certificate has expired")],
)  # fmt: skip
def test_a_certificate_that_is_not_trusted_is_refused(
    certificate: str, bundle: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bundle is None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with running(certificate) as server:
        text = refused(server.serve("/f", Reply(BODY)), tmp_path)
    assert any(words in text for words in says.split("|"))
    assert server.requests == []


def test_a_certificate_of_another_host_is_refused(
    secure: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.serve("/f", Reply(BODY))
    host, port = secure.address.removeprefix("https://").split(":")
    here = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **options: here)
    assert "certificate is not valid for 'other.invalid'" in refused(f"https://other.invalid:{port}/f", tmp_path)
    assert secure.requests == []


# Proxies


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.1"])
def test_a_proxy_for_http(no_proxy: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as proxy:
        url = server.serve("/f", Reply(BODY))
        proxy.serve(url, Reply(BODY))
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        get(url, tmp_path)
    assert (proxy.paths(), server.paths()) == (([], ["/f"]) if no_proxy else ([url], []))


def test_a_proxy_for_https(secure: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address.replace("://", "://me:word@"))
        get(secure.serve("/f", Reply(BODY)), tmp_path)
    ((path, headers),) = proxy.requests
    assert path == f"CONNECT {secure.address.removeprefix('https://')}"
    assert headers["Proxy-Authorization"].startswith("Basic ")
    ((path, headers),) = secure.requests
    assert path == "/f" and "Proxy-Authorization" not in headers


def test_a_proxy_that_is_not_there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "refused" in refused(server.serve("/f", Reply(BODY)), tmp_path)
    assert server.requests == []


# Redirects and credentials


def test_https_does_not_step_down(server: Server, secure: Server, tmp_path: Path) -> None:
    url = secure.serve("/f", redirect(server.serve("/f", Reply(BODY))))
    assert "redirected to http://127.0.0.1, which is not https: refused" in refused(url, tmp_path)
    assert server.requests == []


def test_http_of_this_machine_may_step_up(server: Server, secure: Server, tmp_path: Path) -> None:
    get(server.serve("/f", redirect(secure.serve("/f", Reply(BODY)))), tmp_path)


@pytest.mark.parametrize("location", ["http://evil.invalid\\@127.0.0.1/f", "http:\\\\evil.invalid/f", "/a b\x7f"])
def test_an_address_that_parsers_read_differently_is_refused(location: str, server: Server, tmp_path: Path) -> None:
    url = server.serve("/f", redirect(location))
    assert "which is no address" in refused(url, tmp_path)
    assert len(server.requests) == 1


def test_redirects_are_bounded(server: Server, tmp_path: Path) -> None:
    for number in range(50):
        server.serve(f"/{number}", redirect(f"/{number + 1}"))
    refused(f"{server.address}/0", tmp_path)
    assert len(server.requests) == limits.MAX_REDIRECTS + 1


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same host", "another host"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_password_stays_with_its_host(status: int, elsewhere: bool, server: Server, tmp_path: Path) -> None:
    with running() as other:
        location = other.serve("/g", Reply(BODY)) if elsewhere else "/g"
        server.serve("/g", Reply(BODY))
        url = server.serve("/f", Reply(status=status, headers={"Location": location, "Set-Cookie": "secret=1"}))
        found = get(url.replace("://", "://me:word@"), tmp_path)
    assert found.url == url
    sent = [headers for _, headers in (*server.requests, *other.requests)]
    assert "Authorization" in sent[0]
    assert ("Authorization" in sent[1]) is not elsewhere
    assert not elsewhere or not any("word" in value for value in sent[1].values())


def test_a_password_is_in_no_message(server: Server, tmp_path: Path) -> None:
    assert "word" not in refused(f"{server.address}/none".replace("://", "://me:word@"), tmp_path)


def test_the_token_goes_to_the_endpoint_alone(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        stored = server.serve("/stored", Reply(BODY))
        hub.serve("/lab/zoo/resolve/main/f", Reply(status=307, headers={"Location": "/lab/renamed/resolve/main/f"}))
        hub.serve("/lab/renamed/resolve/main/f", redirect(stored))
        get(f"{hub.address}/lab/zoo/resolve/main/f", tmp_path)
        assert [headers["Authorization"] for _, headers in hub.requests] == ["Bearer hf_secret"] * 2
        hub.serve("/file", Reply(BODY))
        get(server.serve("/there", redirect(f"{hub.address}/file")), tmp_path)  # another host cannot make us show it
    assert "Authorization" not in hub.requests[-1][1]
    assert server.paths() == ["/stored", "/there"]
    assert not any("hf_secret" in value for _, headers in server.requests for value in headers.values())


def test_a_private_repository_is_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = row(tag="private", sha256=DIGEST)
    monkeypatch.setenv("VIDEOZOO_MIRROR", "hf-hub:lab/zoo@v1")
    with hf_server.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        mirror = hub.repositories["lab/zoo"] = hf_server.Repository(private=True)
        mirror.commit("v1", {f"originals/{entry.name}/{NAME}": BODY})
        with pytest.raises(FetchError, match="answered 401"):
            cache.fetch(entry)
        monkeypatch.setenv("HF_TOKEN", hf_server.TOKEN)
        assert cache.fetch(entry).read_bytes() == BODY


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co.example.org/lab/zoo",
        "https://huggingface.co@example.org/lab/zoo",
        "http://huggingface.co/lab/zoo",
        "https://example.org/https://huggingface.co/",
    ],
)
def test_no_token_for_what_only_looks_like_the_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert credentials.authorization("https://huggingface.co/lab/zoo") == {"Authorization": "Bearer hf_secret"}
    assert credentials.authorization(url) == {}


# Odd answers


@pytest.mark.parametrize(("asked", "pauses"), [("7", [7.0]), ("3600", [20.0]), ("nonsense", [])])
def test_retry_after_is_honoured_and_bounded(
    asked: str, pauses: list[float], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    get(server.serve("/f", Reply(status=429, headers={"Retry-After": asked}), Reply(BODY)), tmp_path)
    assert [pause for pause in slept if pause] == pauses


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_an_answer_that_stays_is_not_asked_for_again(status: int, server: Server, tmp_path: Path) -> None:
    assert f"the server answered {status}" in refused(server.serve("/f", Reply(status=status)), tmp_path)
    assert len(server.requests) == 1


def test_an_unknown_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "Name or service not known" in refused("https://host.invalid/f", tmp_path)


@pytest.mark.parametrize(
    "body", [b"", BODY[:100], BODY + b"x", b"<html></html>"], ids=["empty", "short", "long", "page"]
)
def test_an_honest_length_of_other_bytes(body: bytes, server: Server, tmp_path: Path) -> None:
    text = refused(server.serve("/f", Reply(body)), tmp_path)
    assert hashlib.sha256(body).hexdigest() in text and DIGEST in text


@pytest.mark.parametrize("stated", [100, len(BODY) + 100], ids=["too small", "too large"])
def test_a_wrong_content_length(stated: int, server: Server, tmp_path: Path) -> None:
    url = server.serve("/f", Reply(BODY, headers={"Content-Length": str(stated)}, length=False))
    refused(url, tmp_path)
    assert len(server.requests) <= 2 + limits.MAX_RETRIES


@pytest.mark.parametrize("answer", ["bytes 5-99/100", "bytes 0-9/10", "pages 1-2/3", ""])
def test_another_range_than_was_asked_for(answer: str, server: Server, tmp_path: Path) -> None:
    cut = Reply(BODY, headers={"ETag": '"1"'}, cut=5000)
    wrong = Reply(BODY[5:], status=206, headers={"Content-Range": answer, "ETag": '"1"'})
    get(server.serve("/f", cut, wrong, Reply(BODY)), tmp_path)
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=5000-", None]


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "nonsense"])
def test_the_published_bytes_count_whatever_encoding_is_claimed(encoding: str, server: Server, tmp_path: Path) -> None:
    get(server.serve("/f", Reply(BODY, headers={"Content-Encoding": encoding})), tmp_path)
