"""The page at ``/``: what an operator wants to see first. One file without any third party, as that at ``/docs``."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from prsm.api.docs import content_security_policy


def add_first_page(app: FastAPI) -> None:
    """Serve ``/``. The page holds nothing of the node: it reads what the key typed into it may see."""
    page = Path(__file__).with_name("first_page.html").read_text(encoding="utf-8")
    headers = {
        "content-security-policy": content_security_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }

    @app.get("/", include_in_schema=False)
    async def first_page() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)
