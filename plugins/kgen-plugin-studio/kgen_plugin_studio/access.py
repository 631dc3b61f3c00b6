"""Who may open the page: this machine, or whoever knows the token."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from kgen import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""

SHORTEST_TOKEN = 8
"""Fewest characters of a token."""

COOKIE = "kgen-studio"

POLICY = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""The Content-Security-Policy: the page may load nothing from other hosts."""


def check_access(host: str, token: str | None) -> None:
    """Raises ConfigError if the page would be open to other machines without a good token."""
    if token is None and host not in LOOPBACK:
        raise ConfigError(
            f"--host {host}: other machines can reach the page, which generates images and stops trainings: "
            "add --token TEXT, a secret of your own"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
        raise ConfigError(f"--token: must have at least {SHORTEST_TOKEN} letters or digits, without other characters")


class Guard:
    """Answers only requests that may see the page, and forbids the page to load anything from other hosts.

    With a token, a browser shows it once, as ``/?token=TEXT``, and then keeps it in a cookie. Without one, the request
    must be addressed to this machine, so that no other web site can reach the page through the browser
    (DNS rebinding). Requests that come from the pages of other web sites are refused.

    Args:
        app: The ASGI application.
        token: The token; None: there is none, and the server listens on a loopback address.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"same-origin")]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, with_policy)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not see the page, or that shows the token; None if it passes."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("kgen studio answers no other web site", 403)
        if self.token is None:
            known = request.url.hostname in LOOPBACK
            return None if known else PlainTextResponse("kgen studio answers only this machine", 403)
        if self._is_token(request.cookies.get(COOKIE)):
            return None
        if not self._is_token(request.query_params.get("token")):
            return PlainTextResponse("kgen studio needs its token: open /?token=TEXT", 401)
        answer = RedirectResponse(request.url.path, 303)
        answer.set_cookie(COOKIE, str(self.token), httponly=True, samesite="strict")
        return answer

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), str(self.token).encode())
