"""Who may open the page."""

from __future__ import annotations

import pytest
from kgen_plugin_studio.access import Guard, check_access
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from kgen import ConfigError

pytestmark = pytest.mark.portable

TOKEN = "a8f5f167f44f4964"


def client(token: str | None, host: str = "127.0.0.1:7860") -> TestClient:
    return TestClient(Guard(PlainTextResponse("the page"), token), base_url=f"http://{host}")


def test_another_host_needs_a_token() -> None:
    check_access("127.0.0.1", None)
    check_access("0.0.0.0", TOKEN)
    for host, token in (("0.0.0.0", None), ("127.0.0.1", "short"), ("0.0.0.0", "with spaces in")):
        with pytest.raises(ConfigError, match="--token"):
            check_access(host, token)


def test_without_a_token_only_names_of_this_machine_are_answered() -> None:
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        answer = client(None, host).get("/")
        assert answer.text == "the page" and "default-src 'self'" in answer.headers["content-security-policy"]
    for host in ("evil.example", "127.0.0.1.evil.example:7860"):
        assert client(None, host).get("/").status_code == 403


def test_other_web_sites_are_refused() -> None:
    for origin, status in (("http://127.0.0.1:7860", 200), ("http://evil.example", 403), ("null", 403)):
        assert client(None).get("/", headers={"origin": origin}).status_code == status


def test_a_token_is_shown_once_and_kept_in_a_cookie() -> None:
    page = client(TOKEN, "studio.example")
    assert page.get("/").status_code == 401 and page.get("/?token=a8f5f167").status_code == 401
    assert page.get("/gradio_api/info", cookies={"kgen-studio": "wrong"}).status_code == 401
    answer = page.get(f"/?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/", "the token leaves the address"
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=strict" in answer.headers["set-cookie"]
    assert page.get("/").text == "the page"
